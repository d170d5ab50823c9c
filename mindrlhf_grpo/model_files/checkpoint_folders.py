"""The folders of a run's checkpoints, and the model folder that a run, a checkpoint or a model folder stands for."""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import CheckpointError

PREFIX, STATE, POLICY = "step_", "trainer_state.json", "policy"
LATEST, BEST = "latest", "best"  # also the names of links beside the checkpoints
ADAPTER = "adapter_config.json"


def steps(root: Path) -> list[int]:
    """Steps that have a complete checkpoint in ``RUN/checkpoints``, oldest first."""
    if not root.is_dir():
        return []
    names = [path.name[len(PREFIX) :] for path in root.iterdir() if path.name.startswith(PREFIX)]
    return sorted(int(name) for name in names if name.isdigit())


def find_checkpoint(run: Path, which: str = LATEST) -> Path:
    """Find a checkpoint of a run: ``latest``, ``best``, ``step_N`` or ``N``. ``run`` may be its folder of checkpoints.

    Raises:
        CheckpointError: the run has no such checkpoint; the text lists those that it has.
    """
    root = run / "checkpoints" if (run / "checkpoints").is_dir() else run
    saved = steps(root)
    if not saved:
        raise CheckpointError(
            f"{str(run)!r} has no complete checkpoint; looked for checkpoints/step_N, policy, config.json"
        )
    step = saved[-1]
    if which == BEST:
        step = best_step(root / f"{PREFIX}{step}")
    elif which != LATEST:
        number = which.removeprefix(PREFIX)
        step = int(number) if number.isdigit() else -1
    if step not in saved:
        kept = ", ".join(f"{PREFIX}{number}" for number in saved)
        why = f", its step {step}, which checkpoint.keep_best would have kept" if which == BEST else ""
        raise CheckpointError(f"{str(run)!r} has no checkpoint {which!r}{why}; accepted: {LATEST}, {BEST}, {kept}")
    return root / f"{PREFIX}{step}"


def best_step(newest: Path) -> int:
    """The step with the best held-out metric, as the newest checkpoint of a run remembers it."""
    try:
        best = json.loads((newest / STATE).read_text(encoding="utf-8")).get("best_step")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{newest / STATE} cannot be read: {error}") from None
    if best is None:
        raise CheckpointError(f"the run of {newest} has no best checkpoint: it has not evaluated (eval.source)")
    return int(best)


def policy_folder(path: Path) -> Path:
    """The model folder of a run (its newest checkpoint) or of a checkpoint; any other folder stands for itself."""
    if (path / "config.json").is_file() or (path / ADAPTER).is_file():
        return path
    if (path / POLICY).is_dir():
        return path / POLICY
    if steps(path / "checkpoints") or steps(path):
        return find_checkpoint(path) / POLICY
    return path


def is_adapter(folder: Path) -> bool:
    """True for the folder of a LoRA adapter, which is no model without its base."""
    return (folder / ADAPTER).is_file() and not (folder / "config.json").is_file()
