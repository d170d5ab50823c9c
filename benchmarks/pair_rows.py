"""The common part of both sides of the preference benchmark: flags, pairs, printed figures. Standard library only."""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
from dataclasses import dataclass, field
from pathlib import Path

WORDS = [
    "river",
    "stone",
    "letter",
    "garden",
    "winter",
    "silver",
    "engine",
    "market",
    "shadow",
    "window",
    "copper",
    "meadow",
    "island",
    "basket",
    "candle",
]
PAIRS = 256


def flags(description: str) -> argparse.ArgumentParser:
    """Return the parser of the flags that both sides take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", required=True, help="Hugging Face folder; for a reward model one with a head")
    parser.add_argument("--objective", choices=["dpo", "reward_model"], required=True)
    parser.add_argument("--pairs", type=int, default=4, help="pairs per optimizer step")
    parser.add_argument("--prompt-words", type=int, default=100)
    parser.add_argument("--completion-words", type=int, default=40, help="words of the longest completion")
    parser.add_argument("--steps", type=int, default=6, help="optimizer steps; the first is not counted")
    parser.add_argument("--lr", type=float, default=1e-6)
    parser.add_argument("--threads", type=int, default=2)
    return parser


def rows(prompt_words: int, completion_words: int) -> list[dict[str, str]]:
    """Make pairs of plain text; completions have between half and all of the requested words."""
    draw = random.Random(0)

    def text(count: int) -> str:
        return " ".join(draw.choice(WORDS) for _ in range(count))

    def completion() -> str:
        return f" {text(draw.randint(completion_words // 2, completion_words))}"

    return [{"prompt": text(prompt_words), "chosen": completion(), "rejected": completion()} for _ in range(PAIRS)]


@dataclass(slots=True)
class Figures:
    """Seconds and losses, one entry per step."""

    step: list[float] = field(default_factory=list)
    step_cpu: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)

    def print(self, arguments: argparse.Namespace, versions: dict[str, str]) -> None:
        """Return one JSON line: medians over all steps but the first."""
        line = {
            **versions,
            "model": Path(arguments.model).name,
            "objective": arguments.objective,
            "pairs": arguments.pairs,
            "step_s": round(statistics.median(self.step[1:]), 3),
            "step_cpu_s": round(statistics.median(self.step_cpu[1:]), 3),
            "loss": [round(value, 6) for value in self.loss],
            "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }
        print(json.dumps(line), flush=True)
