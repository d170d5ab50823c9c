"""Separates thought and answer in a completion: tags mark thoughts, and only the text after them is the answer.

Tags are ``think``, ``thinking`` and ``thought``. An unclosed thought reaches to the end; a lone end tag closes a thought
that the chat template opened. Time is linear in the length of the text.
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
    """Return the text without thoughts, stripped; other tags stay."""
    text = THOUGHT.sub(" ", text)
    ends = list(END.finditer(text))
    return text[ends[-1].end() if ends else 0 :].strip()


def final_answer(text: str) -> str:
    """Return the answer: the last ``<answer>`` tag, else the text after the last thought, else the text after a marker.

    Markers are words such as ``Answer:`` in four languages, up to the end of the line; without any, the full text is the
    answer. Text inside a thought is never the answer: if there is nothing else, the answer is empty.
    """
    remainder = without_thoughts(text)
    tagged = ANSWER.findall(remainder)
    if tagged:
        return str(tagged[-1]).strip()
    if remainder != text.strip():
        return remainder
    marked = MARKER.findall(remainder)
    return str(marked[-1]).strip() if marked else remainder
