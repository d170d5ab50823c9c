"""A small generator of run folders: what the trainer would leave behind, with made-up but plausible numbers."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CONFIG = """\
# mindrlhf-grpo 0.1.0
# torch 2.13.0
backend: torch
run_dir: runs/addition
model:
  path: models/SmolLM2-135M-Instruct
  dtype: bfloat16
data:
  source: {name: 'examples/addition.py:problems', digits: 2}
algorithm:
  name: grpo
  preset: trl
rollout:
  group_size: %(group)d
train:
  steps: %(planned)d
"""

WORDS = ["Let", " me", " add", " the", " tens", " and", " then", " the", " ones", ".", "\n"]


def write_run(
    folder: Path,
    *,
    steps: int = 35,
    planned: int | None = None,
    prompts: int = 4,
    group: int = 8,
    tokens: int = 30,
    rollout_steps: list[int] | None = None,
    finished: bool = True,
    hostile: str = "",
    seed: int = 0,
) -> Path:
    """A run of ``steps`` steps. ``hostile`` is put into every place that holds model or user text."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    config = CONFIG % {"group": group, "planned": planned or steps}
    (folder / "config.yaml").write_text(config + f"note: {json.dumps(hostile)}\n", encoding="utf-8")
    skill = [1 / (1 + math.exp(-(6 * step / max(1, steps) - 2.5))) for step in range(1, steps + 1)]
    rows = [metrics(step, skill[step - 1], steps, rng, hostile) for step in range(1, steps + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "rollouts").mkdir(exist_ok=True)
    for step in range(1, steps + 1) if rollout_steps is None else rollout_steps:
        records = completions(step, skill[step - 1], prompts, group, tokens, rng, hostile)
        path = folder / "rollouts" / f"step_{step}.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    if finished:
        summary = {
            "accuracy_before": 0.26, "accuracy_after": 0.935, "problems": 200, "seconds": 252.4, "report": "report.html",
            "steps": steps, "stopped_because": "all steps done" + hostile, "warnings": ["training layout: shared (probe exact)" + hostile],
        }  # fmt: skip
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def metrics(step: int, skill: float, steps: int, rng: random.Random, hostile: str) -> dict[str, Any]:
    """One line of metrics.jsonl."""
    seconds = {"generate": 2.1, "reward": 0.02, "logps": 0.0, "update": 1.7, "sync": 0.15, "eval": 0.0, "save": 0.01}
    seconds = {name: value * rng.uniform(0.85, 1.25) for name, value in seconds.items()}
    length = 14 - 6 * skill + rng.gauss(0, 0.6)
    row: dict[str, Any] = {
        "step": step,
        "reward/mean": 0.15 + 0.8 * skill + rng.gauss(0, 0.05),
        "reward/std": 0.4 * (1 - skill) + 0.05,
        "reward/accuracy/mean": skill + rng.gauss(0, 0.05),
        f"reward/format{hostile}/mean": 0.1 * min(1, 3 * skill) + rng.gauss(0, 0.005),
        "reward/failures/accuracy": 0.0,
        "loss": rng.gauss(0, 0.02),
        "grad_norm": 2.5 + rng.expovariate(0.8),
        "kl/mean": 0.03 * skill + abs(rng.gauss(0, 0.002)),
        "entropy": 1.3 - skill + rng.gauss(0, 0.03),
        "ratio/max_dev": abs(rng.gauss(0, 0.02)),
        "ratio/rollout_gap": abs(rng.gauss(0.002, 0.0005)),
        "clip_frac/low": abs(rng.gauss(0, 0.004)),
        "clip_frac/high": abs(rng.gauss(0, 0.006)),
        "dead_group_frac": min(1.0, max(0.0, abs(skill - 0.4) + rng.gauss(0, 0.08))),
        "length/mean": length,
        "length/max": 3 * length,
        "truncated_frac": max(0.0, 0.2 * (1 - 1.3 * skill) + rng.gauss(0, 0.02)),
        "tokens/generated": round(32 * length),
        "tokens/trained": round(30 * length),
        "lr": 1e-5 * min(1.0, step / 5),
        "time/step": sum(seconds.values()) + 0.1,
        **{f"time/{name}": value for name, value in seconds.items()},
        "memory/peak_rss_mb": 2300 + 40 * math.log1p(step),
    }
    if step % max(1, steps // 5) == 0:
        row["eval/accuracy"] = min(0.935, 0.1 + 0.9 * skill)
    return row


def completions(
    step: int, skill: float, prompts: int, group: int, length: int, rng: random.Random, hostile: str
) -> list[dict[str, Any]]:
    """The lines of a rollout file."""
    records = []
    for prompt in range(prompts):
        left, right = rng.randint(10, 99), rng.randint(10, 99)
        rewards = [float(rng.random() < skill) for _ in range(group)]
        mean = sum(rewards) / group
        spread = math.sqrt(sum((reward - mean) ** 2 for reward in rewards) / group)
        for sample, reward in enumerate(rewards):
            pieces = answer(left + right + (0 if reward else rng.choice([-10, -1, 1, 9])), length, rng)
            pieces += [hostile] * bool(hostile)
            advantage = (reward - mean) / (spread + 1e-4)
            finish = "length" if rng.random() < 0.1 else "stop"
            pieces += ["<|im_end|>"] * (finish == "stop")
            records.append({
                "step": step, "uid": (step - 1) * prompts + prompt, "sample": sample,
                "prompt": f"<|im_start|>system\nYou are a calculator.<|im_end|>\n<|im_start|>user\nWhat is {left} + {right}?{hostile}<|im_end|>\n<|im_start|>assistant\n",
                "columns": {"answer": str(left + right), "note" + hostile: hostile or "two digits"},
                "completion": "".join(piece for piece in pieces if piece != "<|im_end|>"),
                "tokens": pieces, "ids": [sum(map(ord, piece)) % 49152 for piece in pieces],
                "logps": [-rng.expovariate(1 + 3 * skill) for _ in pieces],
                "train_logps": None, "advantages": [advantage] * len(pieces), "advantage": advantage,
                "components": {"accuracy": reward, "format" + hostile: 0.1 if reward else None},
                "reward": reward, "finish": finish, "weight_version": step - 1,
            })  # fmt: skip
    return records


def answer(number: int, length: int, rng: random.Random) -> list[str]:
    """Pieces of a completion that ends in a number."""
    words = [WORDS[at % len(WORDS)] for at in range(rng.randrange(max(1, length)))]
    return [*words, "The", " answer", " is", " ", *re.findall("..?", str(number)), "."]


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run folder ``tmp_path/<name>``; settings as in :func:`write_run`."""

    def make(name: str = "addition", **settings: Any) -> Path:
        return write_run(tmp_path / name, **settings)

    return make
