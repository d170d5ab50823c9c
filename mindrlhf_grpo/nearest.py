"""The nearest of the names there are, for messages about one that is not."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

CUTOFF = 0.5  # of difflib's similarity: a hint is better missing than far off


def did_you_mean(wanted: str, names: Iterable[str], *, cutoff: float = CUTOFF) -> str:
    """`` (did you mean 'NAME'?)``; empty where no name is near. Swapped letters are the likeliest slip."""
    near = get_close_matches(wanted, list(names), n=3, cutoff=cutoff)
    near.sort(key=lambda name: sorted(name) != sorted(wanted))
    return f" (did you mean {near[0]!r}?)" if near else ""


def did_you_mean_file(path: Path, pattern: str = "*") -> str:
    """The same for a path that is not there, among what lies in its folder."""
    near = get_close_matches(path.name, [other.name for other in path.parent.glob(pattern)], n=1, cutoff=CUTOFF)
    return f" (did you mean {str(path.with_name(near[0]))!r}?)" if near else ""
