"""The saved state of AdamW, which backends exchange: safetensors for moments and master weights, JSON for the rest."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

TENSORS, SETTINGS = "optimizer.safetensors", "optimizer.json"

Array = TypeVar("Array")


def named_state(
    averages: Mapping[str, Array], square_averages: Mapping[str, Array], masters: Mapping[str, Array]
) -> dict[str, Array]:
    """Every tensor of the state under the name it is saved by."""
    kinds = {"average": averages, "square_average": square_averages, "master": masters}
    return {f"{kind}/{name}": array for kind, arrays in kinds.items() for name, array in arrays.items()}


def write_steps(folder: Path, steps: int) -> None:
    """Write the number of steps made."""
    (folder / SETTINGS).write_text(json.dumps({"steps": steps}))


def read_steps(folder: Path) -> int:
    """Read the number of steps made. Raises OSError, ValueError or KeyError for another folder."""
    return int(json.loads((folder / SETTINGS).read_text())["steps"])


def check_names(saved: Iterable[str], live: Iterable[str], what: str) -> None:
    """Raise KeyError, naming three, unless saved and live tensors have the same names."""
    differing = sorted(set(saved) ^ set(live))
    if differing:
        raise KeyError(f"{what} differ: {', '.join(differing[:3])}")
