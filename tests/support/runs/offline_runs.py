"""Tiny offline runs: a tiny model, rows of each kind, and a configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from mindrlhf_grpo.config.offline import OfflineConfig
from tests.support import tiny
from tests.support.runs import forked

CHATML = (
    "{% for m in messages %}{{ m.role[0] }} {{ m.content }}{% if m.role == 'assistant' %}<eos>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}a {% endif %}"
)
# One group of processes for all runs: torch cannot open a second one under the same launcher reliably.
PROGRAM = """
import json, sys
from functools import cache
from mindrlhf_grpo_torch import comm
from mindrlhf_grpo.backend import load_backend
from mindrlhf_grpo.config.offline import OfflineConfig
from mindrlhf_grpo.trainers.offline import OfflineTrainer
comm.connect = cache(comm.connect)
for values in json.loads(sys.argv[1]):
    config = OfflineConfig.model_validate(values)
    backend = load_backend(config)
    OfflineTrainer(config, backend).run()
backend.comm.close()
"""


def prepare(folder: Path, *, count: int = 48) -> Path:
    """The model and the rows: sums as conversations, digits preferred to letters, and both labelled."""
    tiny.write_model(folder / "model")
    draw = np.random.default_rng(0)
    pairs: list[dict[str, Any]] = []
    labelled: list[dict[str, Any]] = []
    chats: list[dict[str, Any]] = []
    for _ in range(count):
        a, b = (int(number) for number in draw.integers(0, 10, 2))
        good = "".join(str(number) for number in draw.integers(0, 10, int(draw.integers(1, 5))))
        bad = "".join("abcdefgh"[number] for number in draw.integers(0, 8, int(draw.integers(1, 5))))
        pairs.append({"prompt": f"{a}+{b}=", "chosen": good, "rejected": bad})
        labelled += [
            {"prompt": f"{a}+{b}=", "completion": good, "label": True},
            {"prompt": f"{a}+{b}=", "completion": bad, "label": False},
        ]
        chats.append({"prompt": f"{a}+{b}=", "completion": str(a + b)})
    for name, rows in {"pairs": pairs, "labelled": labelled, "chats": chats}.items():
        for part, chosen in {"train": rows[: len(rows) * 3 // 4], "test": rows[len(rows) * 3 // 4 :]}.items():
            (folder / f"{name}_{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen))
    return folder


def settings(folder: Path, rows: str, objective: dict[str, Any], **sections: Any) -> dict[str, Any]:
    """The configuration of a run as plain values."""
    config: dict[str, Any] = {
        "backend": "torch",
        "run_dir": str(folder / "run"),
        "model": {"path": str(folder / "model"), "device": "cpu"},
        "data": {"source": str(folder / f"{rows}_train.jsonl"), "chat_template": "none", "max_tokens": 32},
        "objective": objective,
        "train": {"steps": 20, "prompts_per_step": 8, "learning_rate": 0.005},
        "eval": {"source": str(folder / f"{rows}_test.jsonl")},
    }
    for name, section in sections.items():
        config[name] = {**config.get(name, {}), **section} if isinstance(section, dict) else section
    return config


def config_of(*arguments: Any, **sections: Any) -> OfflineConfig:
    """The same, typed."""
    return OfflineConfig.model_validate(settings(*arguments, **sections))


def run_apart(configs: list[dict[str, Any]], folder: Path, *, processes: int) -> None:
    """Train one configuration after the other in processes of their own."""
    script = folder / "train_offline.py"
    script.write_text(PROGRAM)
    forked.finish(forked.ranks([str(script), json.dumps(configs)], processes))
