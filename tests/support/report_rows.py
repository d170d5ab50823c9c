"""Rows of a run with held-out safety rates and alarms, for the tests of the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def with_safety(run_dir: Path, sounding: range, *, by_phrases: float = 0.0) -> Path:
    """A run with held-out rates each fourth step, and an alarm at some steps."""
    path = run_dir / "metrics.jsonl"
    rows: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["alarm/held_out_falls"] = float(row["step"] in sounding)
        row["alarm/kl_explodes"] = 0.0
        if row["step"] % 4 == 0:
            share = 0.1 + 0.01 * row["step"]
            row |= {
                "eval/safety/harmful_compliance": share, "eval/safety/harmful_compliance/low": share - 0.05,
                "eval/safety/harmful_compliance/high": share + 0.08, "eval/safety/harmful_compliance/prompts": 120.0,
                "eval/safety/over_refusal": 0.25, "eval/safety/by_phrases": by_phrases,
            }  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run_dir
