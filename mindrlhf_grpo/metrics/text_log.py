"""A metric function that adds no metric: it appends the metrics of a run to a text file, one line at a time.

It is meant for ``tail -f``; ``metrics.jsonl`` is the record.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..json_lines import to_json


def write_log(
    figures: Mapping[str, float],
    split: str,
    step: int,
    run_dir: Path,
    main: bool,
    every: int = 10,
    file: str = "training.log",
) -> dict[str, float]:
    """Append the metrics of every ``every``-th step, and of each evaluation, to ``run_dir/file``."""
    if main and (split == "eval" or step % every == 0):
        shown = {name: round(value, 4) for name, value in figures.items() if isinstance(value, float)}
        with (run_dir / file).open("a", encoding="utf-8") as log:
            log.write(f"{split} step {step} {to_json(shown)}\n")
    return {}
