"""Separates thought and answer in a completion: tags mark thoughts, and only the text after them is the answer.

Tags are ``think``, ``thinking`` and ``thought``. An unclosed thought reaches to the end; a lone end tag closes a thought
that the chat template opened. Where the prompt is known, a thought that it opens at its end is unclosed until the completion
closes it. Time is linear in the length of the text.
"""

from __future__ import annotations

import re

THOUGHT = re.compile(r"<(think|thinking|thought)>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
OPENED = re.compile(r"<(?:think|thinking|thought)>\s*\Z", re.IGNORECASE)
OPENING = 40  # characters at the end of a prompt that may open a thought
END = re.compile(r"</(?:think|thinking|thought)>", re.IGNORECASE)
ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.DOTALL | re.IGNORECASE)
MARKER = re.compile(
    r"(?:final answer|\banswer\b|答案|答え|回答|정답|답변)\s{0,9}(?:(?:是|为|is|は|은|는)\s{0,9})?[:：]\s*(.+)",
    re.IGNORECASE,
)


def opened_thought(prompt: str) -> str:
    """Return the tag by which a prompt opens the thought at its end; empty if it does not."""
    match = OPENED.search(prompt[-OPENING:])
    return "" if match is None else match[0].strip()


def with_opened_thought(prompt: str, completion: str) -> str:
    """Return a completion with the tag of the thought that its prompt opened, unless it begins with that tag itself."""
    tag = opened_thought(prompt)
    return completion if not tag or completion.lstrip().startswith(tag) else tag + completion


def without_thoughts(text: str, prompt: str = "") -> str:
    """Return the text without thoughts, stripped; other tags stay.

    Args:
        prompt: what the text continues, which may have opened the thought.
    """
    text = THOUGHT.sub(" ", with_opened_thought(prompt, text))
    ends = list(END.finditer(text))
    return text[ends[-1].end() if ends else 0 :].strip()


def final_answer(text: str, prompt: str = "") -> str:
    """Return the answer: the last ``<answer>`` tag, else the text after the last thought, else the text after a marker.

    Markers are words such as ``Answer:`` in four languages, up to the end of the line; without any, the full text is the
    answer. Text inside a thought is never the answer: if there is nothing else, the answer is empty.
    """
    text = with_opened_thought(prompt, text)
    remainder = without_thoughts(text)
    tagged = ANSWER.findall(remainder)
    if tagged:
        return str(tagged[-1]).strip()
    if remainder != text.strip():
        return remainder
    marked = MARKER.findall(remainder)
    return str(marked[-1]).strip() if marked else remainder
