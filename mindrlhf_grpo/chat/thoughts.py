"""Thought and answer in what a model writes: thoughts are marked by tags, and only what follows them is its answer.

Tags are ``think``, ``thinking`` and ``thought``. One that is not closed reaches to the end; an end tag alone closes a
thought that the chat template opened. Time is linear in the text.
"""

from __future__ import annotations

import re

THOUGHT = re.compile(r"<(think|thinking|thought)>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
END = re.compile(r"</(?:think|thinking|thought)>", re.IGNORECASE)
ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.DOTALL | re.IGNORECASE)
MARKER = re.compile(
    r"(?:final answer|\banswer\b|答案|答え|回答|정답|답변)\s*(?:是|为|is|は|은|는)?\s*[:：]\s*(.+)", re.IGNORECASE
)


def without_thoughts(text: str) -> str:
    """The text without thoughts, stripped; other tags stay."""
    text = THOUGHT.sub(" ", text)
    ends = list(END.finditer(text))
    return text[ends[-1].end() if ends else 0 :].strip()


def final_answer(text: str) -> str:
    """The answer: inside the last ``<answer>`` tag, else what follows the last thought, else what follows a mark
    such as ``Answer:`` in one of four languages (to the end of the line), else everything.

    What stands only in a thought is no answer: then the answer is empty.
    """
    spoken = without_thoughts(text)
    tagged = ANSWER.findall(spoken)
    if tagged:
        return str(tagged[-1]).strip()
    if spoken != text.strip():
        return spoken
    marked = MARKER.findall(spoken)
    return str(marked[-1]).strip() if marked else spoken
