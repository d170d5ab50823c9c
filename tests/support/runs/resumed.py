"""The comparison of a resumed run with an undisturbed one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mindrlhf_grpo.model_files.checkpoint_folders import steps
from tests.support import tiny

# A reward that does something to its own process at a step: the moment does not hang on a clock. What it does is read
# from a file, because a process imports a reward once.
ACTING = """import os, signal, time
from pathlib import Path

def digits(completions):
    plan = Path(__file__).with_name("plan")
    if plan.exists():
        left, action = plan.read_text().split(maxsplit=1)
        plan.write_text(f"{int(left) - 1} {action}")
        if left == "1":
            plan.unlink()
            exec(action)
    return [sum(character.isdigit() for character in text) / max(1, len(text)) for text in completions]
"""


def prepare_acting(folder: Path, **options: Any) -> Path:
    """A run of ``tiny.prepare`` whose reward acts when :func:`act_at_step_3` tells it to."""
    config = tiny.prepare(folder, **options)
    (folder / "reward.py").write_text(ACTING)
    return config


def act_at_step_3(config: Path, action: str) -> None:
    """Let the next run do something at its third step, a statement of Python."""
    (config.parent / "plan").write_text(f"3 {action}")


def assert_same(run: Path, undisturbed: Path, steps: int) -> None:
    """The weights after so many steps bit for bit, and the figures of every step."""
    expected, got = tiny.weights(undisturbed, steps), tiny.weights(run, steps)
    assert expected.keys() == got.keys()
    for name, tensor in expected.items():
        assert np.array_equal(tensor.view(np.uint8), got[name].view(np.uint8)), name
    keys = ("reward/mean", "loss", "kl/mean", "grad_norm", "tokens/trained")
    lines = [[line.get(key) for key in keys] for line in tiny.metrics(run)]
    assert lines == [[line.get(key) for key in keys] for line in tiny.metrics(undisturbed)]


def newest(run: Path) -> int:
    """The newest checkpoint's step, 0 without one."""
    return max(steps(run / "checkpoints"), default=0)
