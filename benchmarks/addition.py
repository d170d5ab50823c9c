"""The common part of both sides of the GRPO benchmark: flags, prompts, reward, printed figures. Standard library only."""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROMPTS = 512
LARGEST = 20


def flags(description: str) -> argparse.ArgumentParser:
    """Return the parser of the flags that both sides take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", required=True, help="Hugging Face model folder")
    parser.add_argument("--batch", type=int, default=16, help="completions per optimizer step")
    parser.add_argument("--generations", type=int, default=8, help="completions per prompt")
    parser.add_argument("--completion-length", type=int, default=64, help="tokens of every completion")
    parser.add_argument("--prompt-words", type=int, default=0, help="filler words before each question")
    parser.add_argument("--steps", type=int, default=6, help="optimizer steps; the first is not counted")
    parser.add_argument("--beta", type=float, default=0.0, help="weight of the KL to the reference")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--lr", type=float, default=1e-6)
    parser.add_argument("--free-length", action="store_true", help="completions may end before their last token")
    parser.add_argument("--threads", type=int, default=2)
    return parser


def rows(words: int = 0) -> list[dict[str, str]]:
    """Make questions on sums up to ``2 * LARGEST``, each after ``words`` filler words, with answers."""
    draw = random.Random(0)
    filler = "".join(f"note{number % 97} " for number in range(words))
    operands = [(draw.randint(0, LARGEST), draw.randint(0, LARGEST)) for _ in range(PROMPTS)]
    return [
        {"prompt": f"{filler}What is {a}+{b}? Answer with only a number.", "answer": str(a + b)} for a, b in operands
    ]


@dataclass(slots=True)
class Figures:
    """Seconds and rewards, one entry per step."""

    step: list[float] = field(default_factory=list)
    step_cpu: list[float] = field(default_factory=list)
    generate: list[float] = field(default_factory=list)
    update: list[float] = field(default_factory=list)
    length: list[float] = field(default_factory=list)
    reward: list[float] = field(default_factory=list)

    def print(self, arguments: argparse.Namespace, versions: dict[str, str]) -> None:
        """Return one JSON line: medians over all steps but the first."""
        generate, length = middle(self.generate), middle(self.length)
        line: dict[str, Any] = {
            **versions,
            "model": Path(arguments.model).name,
            "batch": arguments.batch,
            "generations": arguments.generations,
            "completion_length": length,
            "prompt_words": arguments.prompt_words,
            "dtype": arguments.dtype,
            "beta": arguments.beta,
            "step_s": round(middle(self.step), 3),
            "step_cpu_s": round(middle(self.step_cpu), 3),
            "generate_s": round(generate, 3),
            "update_s": round(middle(self.update), 3),
            "generate_tok_s": round(arguments.batch * length / generate, 1),
            "reward": [round(value, 3) for value in self.reward],
            "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }
        print(json.dumps(line), flush=True)


def middle(values: Sequence[float]) -> float:
    """Return the median without the first step, which warms up."""
    return statistics.median(values[1:] or values)
