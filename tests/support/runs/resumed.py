"""The comparison of a resumed run with an undisturbed one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.support import tiny


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
    folder = run / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    return max((int(name[5:]) for name in names if name.startswith("step_")), default=0)
