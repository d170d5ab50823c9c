"""The GRPO step of both backends in alternation, on a tiny model and on SmolLM2; ends with one JSON line of ratios.

A ratio is MindSpore's / torch's, of medians over runs: below 1 is faster. Compilation is not in it: the trainer counts
it apart, and the first step of a run is dropped. Standard library only.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from turns import in_turn

WORKS = {
    "tiny": ("models/tiny-sorter", "--batch", "64", "--generations", "8", "--completion-length", "16", "--lr", "1e-4"),
    "smollm2": ("models/SmolLM2-135M-Instruct", "--batch", "16", "--generations", "8", "--completion-length", "64"),
}
RATIOS = {"train_step": "update_s", "decode": "generate_s", "peak_memory": "peak_rss_mb"}


def main() -> None:
    """Measure the requested kinds, then print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="runs of each side")
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps per run; the first is not counted")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=list(WORKS), nargs="+", help="measure only these")
    arguments = parser.parse_args()
    ratios: dict[str, float] = {}
    for name in arguments.only or WORKS:
        ratios.update(compare(name, arguments))
    print(json.dumps(ratios))


def compare(name: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Run both backends in alternation and return the ratios of the medians."""
    model, *flags = WORKS[name]
    command = [sys.executable, str(Path(__file__).parent / "grpo_step.py"), "--model", model, *flags]
    command += ["--steps", str(arguments.steps), "--threads", str(arguments.threads)]
    sides = {backend: [*command, "--backend", backend] for backend in ("torch", "mindspore")}
    found = in_turn(f"{name}: {' '.join(flags)}", sides, runs=arguments.runs)
    names = {f"ratio_{ratio}_{name}": column for ratio, column in RATIOS.items()}
    return found.ratios(names, of="mindspore", to="torch")


if __name__ == "__main__":
    main()
