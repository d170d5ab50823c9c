"""Character profiles: the block ``<Character Setting>`` in the system prompts of a JSONL file."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...errors import DataError
from ...json_lines import numbered_lines, parse_object

DEFAULTS = {"Name": "Unknown", "Gender": "unknown", "Introduction": "", "Detailed Description": ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class Profiles:
    """The parsed profiles of a file, and line number -> reason for each line without one."""

    parsed: list[dict[str, str]]
    skipped: dict[int, str]


def parse_profile(prompt: str) -> dict[str, str] | None:
    """Return Name, Gender, Introduction and Detailed Description of the first block; None without one.

    Labels stand at the start of a line, in any order, with a colon of either width. Name and Gender are one line, the
    others reach to the next label or the end of the block.
    """
    values = read_block(prompt, "Character Setting", DEFAULTS, one_line=("Name", "Gender"))
    return None if values is None else {**DEFAULTS, **values}


def read_block(
    text: str, tag: str, labels: Collection[str], *, one_line: Collection[str] = ()
) -> dict[str, str] | None:
    """Return label -> value of the first block ``<tag> Label: value ... </tag>`` of a text; None without a block.

    Labels that are missing or empty are left out.

    They stand at the start of a line (after spaces), in any order, with a colon of either width; the
    first of two equal labels counts. A value reaches to the next label or the end of the block; for labels in ``one_line``,
    to the end of its line.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    begin = text.find(f"<{tag}>")
    end = text.find(f"</{tag}>", begin)
    if begin < 0 or end < 0:
        return None
    block = text[begin + len(tag) + 2 : end]
    names = "|".join(re.escape(label) for label in labels)
    matches = list(re.finditer(rf"^[ \t\u3000]*({names})[ \t\u3000]*[:：]", block, re.MULTILINE))
    values: dict[str, str] = {}
    for at, label in enumerate(matches):
        value = block[label.end() : matches[at + 1].start() if at + 1 < len(matches) else len(block)].strip()
        if label[1] in one_line:
            value = block[label.end() :].partition("\n")[0].strip()
        if value and label[1] not in values:
            values[label[1]] = value
    return values


def read_profiles(path: Path, limit: int | None = None) -> Profiles:
    """Read the profiles of a JSONL file whose objects have a key ``prompt``; at most ``limit`` of them.

    Raises:
        DataError: no such file, or it holds no profile.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"profiles {path} cannot be read: {error.strerror}") from None
    profiles = Profiles(parsed=[], skipped={})
    for number, line in numbered_lines(content):
        row = parse_object(line)
        prompt = row if isinstance(row, str) else row.get("prompt")
        profile = parse_profile(prompt) if isinstance(row, dict) and isinstance(prompt, str) else None
        if len(profiles.parsed) == limit:
            break
        if profile is not None:
            profiles.parsed.append(profile)
        else:
            text = "no <Character Setting> block" if isinstance(prompt, str) else "no text under 'prompt'"
            profiles.skipped[number] = row if isinstance(row, str) else text
    if not profiles.parsed:
        first = next((f"; line {number}: {why}" for number, why in profiles.skipped.items()), "")
        raise DataError(f"profiles {path}: no profile in {len(profiles.skipped)} lines{first}")
    return profiles


def profile_text(profile: Mapping[str, str]) -> str:
    """Return the values of a profile, without its labels."""
    return "\n".join(value for name, value in profile.items() if value != DEFAULTS.get(name))
