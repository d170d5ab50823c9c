"""Question and answer in text that was already put into a chat template, and the marks that stand for images.

Tags of Qwen's kind (``<|im_start|>user``), of DeepSeek's (``<｜User｜>``, with wide or ASCII bars) and of Llama's
(``<|start_header_id|>user<|end_header_id|>``) are known; of each role the last turn counts.
"""

from __future__ import annotations

import re

ROLE = r"(?P<role>system|user|assistant)"
TURN = re.compile(
    rf"<[|｜]im_start[|｜]>\s*{ROLE}\s*\n?"
    rf"|<[|｜]start_header_id[|｜]>\s*{ROLE.replace('role', 'header')}\s*<[|｜]end_header_id[|｜]>\s*"
    rf"|<[|｜]{ROLE.replace('role', 'bar')}[|｜]>",
    re.IGNORECASE,
)
END = re.compile(r"<[|｜](?:im_end|eot_id|end_of_text|endoftext|end▁of▁sentence|end_of_sentence)[|｜]>", re.IGNORECASE)
IMAGE = re.compile(
    r"<\|vision_start\|>(?:<\|(?:image|video)_pad\|>)*<\|vision_end\|>|<img>(?:<IMG_CONTEXT>)*</img>"
    r"|(?:<\|image_pad\|>)+|(?:<IMG_CONTEXT>)+|<image>"
)
SPECIAL = re.compile(r"<[|｜][^<>|｜\s]{1,40}[|｜]>")
THINK_END = "</think>"


def turns(text: str) -> dict[str, str]:
    """Role -> text of its last turn; empty where there are no tags."""
    found: dict[str, str] = {}
    marks = list(TURN.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    for mark, end in zip(marks, ends, strict=False):
        role = next(name for name in mark.groups() if name).lower()
        body = text[mark.end() : end]
        found[role] = END.split(body)[0].strip()
    return found


def thought_and_answer(text: str) -> tuple[str, str]:
    """The thought inside the first ``<think>``, and what follows the last ``</think>``; no thought: all is the answer."""
    before, closed, answer = text.rpartition(THINK_END)
    if not closed:
        return "", text.strip()
    opened = before.partition("<think>")[2] if "<think>" in before else before  # the template may have opened it
    return opened.partition(THINK_END)[0].strip(), answer.strip()


def replace_images(text: str, by: str) -> str:
    """The text with every mark of an image replaced, runs of padding tokens being one."""
    return IMAGE.sub(by, text)


def without_special(text: str) -> str:
    """The text without what a tokenizer would read as special tokens, so that no answer can speak for its judge."""
    return SPECIAL.sub("", text)
