"""Finds question and answer in text that already went through a chat template, and the markers of images.

Tags of Qwen's kind (``<|im_start|>user``), of DeepSeek's (``<｜User｜>``, with wide or ASCII bars) and of Llama's
(``<|start_header_id|>user<|end_header_id|>``) are known; the last turn of each role counts.
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
    """Return role -> text of its last turn; empty without tags."""
    texts: dict[str, str] = {}
    marks = list(TURN.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    for mark, end in zip(marks, ends, strict=False):
        role = next(name for name in mark.groups() if name).lower()
        body = text[mark.end() : end]
        texts[role] = END.split(body)[0].strip()
    return texts


def thought_and_answer(text: str) -> tuple[str, str]:
    """Return the thought in the first ``<think>`` and the text after the last ``</think>``; without one, all is the answer."""
    before, closed, answer = text.rpartition(THINK_END)
    if not closed:
        return "", text.strip()
    opened = before.partition("<think>")[2] if "<think>" in before else before  # the template may have opened it
    return opened.partition(THINK_END)[0].strip(), answer.strip()


def replace_images(text: str, by: str) -> str:
    """Replace every image marker in a text; a run of padding tokens is one marker."""
    return IMAGE.sub(by, text)


def without_special(text: str) -> str:
    """Remove text that a tokenizer would read as special tokens, so that no answer can speak for its judge."""
    return SPECIAL.sub("", text)
