"""A block of labelled lines inside a longer text: ``<Tag> Label: value ... </Tag>``."""

from __future__ import annotations

import re
from collections.abc import Collection


def read_block(
    text: str, tag: str, labels: Collection[str], *, one_line: Collection[str] = ()
) -> dict[str, str] | None:
    """The values of a text's first block by label, those that are there and not empty; None without a block.

    Labels stand at the start of a line (after spaces), in any order, with a colon of either width; the first of two
    with the same label counts. A value reaches to the next label or the end of the block, in ``one_line`` to the end
    of its line.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    begin = text.find(f"<{tag}>")
    end = text.find(f"</{tag}>", begin)
    if begin < 0 or end < 0:
        return None
    block = text[begin + len(tag) + 2 : end]
    names = "|".join(re.escape(label) for label in labels)
    found = list(re.finditer(rf"^[ \t\u3000]*({names})[ \t\u3000]*[:：]", block, re.MULTILINE))
    values: dict[str, str] = {}
    for at, label in enumerate(found):
        value = block[label.end() : found[at + 1].start() if at + 1 < len(found) else len(block)].strip()
        if label[1] in one_line:
            value = block[label.end() :].partition("\n")[0].strip()
        if value and label[1] not in values:
            values[label[1]] = value
    return values
