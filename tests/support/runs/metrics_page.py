"""The names of ``docs/metrics.md``, and which of a run's metrics it lacks."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from tests.support.repository import ROOT
from tests.support.tiny import all_metrics

PLACEHOLDERS = {"NAME": r".+", "COMPONENT": r".+", "SOURCE": r".+", "K": r"\d+", "*": r"[^/]+"}


@cache
def documented() -> list[re.Pattern[str]]:
    """An expression for each name in the first column of a table."""
    rows = [line for line in (ROOT / "docs/metrics.md").read_text(encoding="utf-8").splitlines() if line[:3] == "| `"]
    return [re.compile(pattern_of(name)) for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])]


def pattern_of(name: str) -> str:
    """A documented name as an expression."""
    parts = re.split(r"(NAME|COMPONENT|SOURCE|K|\*)(?=[/@]|$)", name)
    return "".join(PLACEHOLDERS.get(part, re.escape(part)) for part in parts)


def undocumented(folder: Path, *, own: tuple[str, ...] = ()) -> set[str]:
    """The metrics of all runs in a folder that the page does not name; ``own`` are a test's own functions' names."""
    names = {name for path in folder.rglob("metrics.jsonl") for line in all_metrics(path.parent) for name in line}
    return {name for name in names - {"step", *own} if not is_documented(name)}


def is_documented(name: str) -> bool:
    """True for a name of the page, or one that is also measured on held-out rows."""
    forms = (name, name.removeprefix("eval/"))
    return any(one.fullmatch(form) for one in documented() for form in forms)
