"""Complete runs of the recipe on the example's models and rows."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from pathlib import Path

from tests.support import tiny
from tests.support.repository import ROOT
from tests.support.runs import forked
from tests.support.seeds import shifted

FLAGS = {
    "input_key": "prompt", "reference_key": "chosen", "n_samples_per_prompt": 8, "rollout_batch_size": 8,
    "train_batch_size": 64, "micro_rollout_batch_size": 8, "prompt_max_len": 16, "generate_max_len": 12,
    "actor_learning_rate": 0.01, "advantage_estimator": "group_norm", "init_kl_coef": 0, "lr_warmup_ratio": 0,
    "device": "cpu",
}  # fmt: skip


def prepared(folder: Path) -> Path:
    """Make the models and rows of the example."""
    spec = importlib.util.spec_from_file_location("safework_prepare", ROOT / "examples" / "safework" / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: Path = module.write_all(folder, seed=shifted())
    return made


def words(made: Path, run: Path, *further: str, rows: str = "format.jsonl") -> list[str]:
    """Return the command of a tiny run, whose learning rate stays the same whatever its number of steps."""
    flags = [part for name, value in FLAGS.items() for part in (f"--{name}", str(value))]
    given = ["--pretrain", str(made / "policy"), "--prompt_data", str(made / rows), "--save_path", str(run)]
    return ["recipe", "safework", "train", *flags, *given, "train.schedule=constant", *further]


def run(command: list[str], expect: int = 0) -> str:
    """Run a command to its end and return its standard error."""
    if "mindspore" in command:  # which is not imported in a process that has torch
        done = subprocess.run(
            [sys.executable, "-m", "mindrlhf_grpo", *command],
            env=tiny.environment(), capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == expect, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stderr
    started = forked.start(command)
    assert started.wait() == expect, started.said()
    return started.err.read_text()


def killed_after(command: list[str], metrics: Path, lines: int) -> None:
    """Run a command and kill it when its metrics have this many lines."""
    started = forked.start(command)
    for _ in range(6000):
        if metrics.is_file() and metrics.read_text().count("\n") >= lines:
            break
        assert started.poll() is None, started.said()
        time.sleep(0.02)
    started.kill()
