"""Commands run in alternation (A B A B ...), each ending with one JSON line; medians of its fields. Standard library only."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

COLUMNS = ("step_s", "step_cpu_s", "generate_s", "update_s", "generate_tok_s", "peak_rss_mb")


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """The output of each side, run by run, and the medians of the columns."""

    lines: dict[str, list[dict[str, Any]]]
    medians: dict[str, dict[str, float]]

    def ratios(self, names: dict[str, str], *, of: str, to: str) -> dict[str, float]:
        """Return name -> median of a column of one side divided by that of the other."""
        return {name: round(self.medians[of][column] / self.medians[to][column], 3) for name, column in names.items()}


def in_turn(title: str, sides: dict[str, list[str]], *, runs: int, columns: Sequence[str] = COLUMNS) -> Turns:
    """Run every side's command repeatedly and print a table on the way."""
    print(f"{title}\n{'':>18}" + "".join(f"{column:>16}" for column in columns), flush=True)
    lines: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for run in range(1, runs + 1):
        for side, command in sides.items():
            lines[side].append(measured(command))
            show(f"{side} {run}", lines[side][-1], columns)
    medians = {
        side: {column: statistics.median(line[column] for line in found) for column in columns}
        for side, found in lines.items()
    }
    for side, values in medians.items():
        show(f"{side} median", values, columns)
    return Turns(lines=lines, medians=medians)


def measured(command: list[str]) -> dict[str, Any]:
    """Return the JSON object that a side prints last."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def show(label: str, values: dict[str, Any], columns: Sequence[str]) -> None:
    """Format one row of the table."""
    print(f"{label:>18}" + "".join(f"{values[column]:>16,.3f}" for column in columns), flush=True)
