"""Format: a thought and an answer in their tags, in order, once each, and nothing else.

Tags are found by position, without regular expressions, so that no completion makes it slow.
"""

from __future__ import annotations


def tag_format(
    prompts: list[str],
    completions: list[str],
    completion_ids: list[list[int]],
    *,
    think: str = "think",
    answer: str | None = "answer",
    opened: bool | None = None,
) -> list[float]:
    """Return 1 for ``<think>thought</think><answer>answer</answer>`` with both filled in, else 0.

    Only space may stand before, between and after. Each tag occurs once: nested or repeated ones score 0.

    Args:
        think, answer: names of the tags; ``answer: null`` requires free text after the thought.
        opened: the prompt ends with the opening think tag, so the completion starts inside the thought; default: where
            the prompt does.
    """
    opens = [prompt.rstrip().endswith(f"<{think}>") if opened is None else opened for prompt in prompts]
    return [float(has_format(text, think, answer, begun)) for text, begun in zip(completions, opens, strict=True)]


def has_format(completion: str, think: str, answer: str | None, opened: bool) -> bool:
    """Return whether one completion has the format of ``tag_format``."""
    text = f"<{think}>{completion}" if opened else completion
    tags = [f"<{think}>", f"</{think}>", *([f"<{answer}>", f"</{answer}>"] if answer else [])]
    if any(text.count(tag) != 1 for tag in tags):
        return False
    between = _split(text, tags)
    if between is None:
        return False
    if not answer:
        before, thought, reply = between
        return not before and bool(thought) and bool(reply)
    before, thought, gap, reply, after = between
    return not (before or gap or after) and bool(thought) and bool(reply)


def _split(text: str, tags: list[str]) -> list[str] | None:
    """Return the stripped text around tags that come in this order; None for another order."""
    parts = []
    for tag in tags:
        part, separator, text = text.partition(tag)
        if not separator:
            return None
        parts.append(part.strip())
    return [*parts, text.strip()]
