"""Export of a run's or checkpoint's policy as a plain Hugging Face folder, LoRA adapters merged on request."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

from ..config.file import AnyConfig
from ..config.offline import OfflineConfig
from ..config.run import RewardConfig
from ..errors import CheckpointError, from_here
from ..model_files.checkpoint_folders import ADAPTER, BEST, LATEST, POLICY, find_checkpoint, is_adapter
from ..model_files.folder import TOKENIZER_FILES, copy_files, find_folder
from ..model_files.lora import merge_adapter
from ..model_files.merged import base_folder
from ..rewards.sources import MODEL_PREFIX, component_name
from . import checkpoint


def find_policy(path: Path, which: str = LATEST) -> Path:
    """Find the model folder of a run, of a checkpoint, or the folder itself; the files of a checkpoint are verified.

    Args:
        which: the checkpoint of a run: ``latest``, ``best``, ``step_N``.

    Raises:
        CheckpointError: there is none, or it is damaged; the text lists the places that were searched.
    """
    if not path.is_dir():
        raise CheckpointError(
            f"there is no folder {str(path)!r}{from_here(path)}; accepted: a run, a checkpoint (RUN/checkpoints/step_N)"
        )
    is_model = (path / "config.json").is_file() or (path / ADAPTER).is_file()
    is_checkpoint = (path / POLICY).is_dir()
    if which != LATEST and (is_model or is_checkpoint):
        raise CheckpointError(f"{str(path)!r} is one model: {which!r} chooses among the checkpoints of a run")
    if is_model:
        return path
    folder = path if is_checkpoint else find_checkpoint(path, which)
    checkpoint.verify(folder)
    return folder / POLICY


def pin_models(config: AnyConfig) -> AnyConfig:
    """The same configuration with model folders in place of runs, checkpoints and adapters.

    A run may get newer checkpoints, and a link may lead elsewhere: a configuration that trains names what it trained on.
    """
    model = config.model.model_copy(update={"path": pinned(config.model.path)})
    if isinstance(config, OfflineConfig):
        return config.model_copy(update={"model": model})
    changed: dict[str, Any] = {"model": model, "rewards": [pinned_reward(reward) for reward in config.rewards]}
    if config.critic is not None and config.critic.path is not None:
        changed["critic"] = config.critic.model_copy(update={"path": pinned(config.critic.path)})
    return config.model_copy(update=changed)


def pinned_reward(reward: RewardConfig) -> RewardConfig:
    """A reward component with the folder of its model; its name in metrics stays."""
    if not reward.function.startswith(MODEL_PREFIX):
        return reward
    folder = pinned(reward.function.removeprefix(MODEL_PREFIX))
    return reward.model_copy(update={"function": MODEL_PREFIX + folder, "name": component_name(reward)})


def pinned(path: str) -> str:
    """The path of a model, verified and resolved where it stands for another folder; others as they are written."""
    place = without_links(Path(path))
    if not place.is_dir():
        return path
    if (place / "config.json").is_file():
        return path if place == Path(path) else str(place)
    return str(find_folder(str(find_policy(place))))


def without_links(path: Path) -> Path:
    """The path with the checkpoints that its links ``latest`` and ``best`` lead to now."""
    place = Path()
    for part in path.parts:
        here = place / part
        place = place / os.readlink(here) if part in (LATEST, BEST) and here.is_symlink() else here
    return place


def export(
    source: Path, out: Path, *, merge: bool = False, base: str | None = None, which: str = LATEST
) -> dict[str, Any]:
    """Write the policy of a run or checkpoint to a new folder ``out``; returns a description of it.

    With ``merge`` the adapter of a LoRA run is merged into its base weights; a full model is the same either way.
    ``base`` overrides the base model that the adapter names; ``which`` chooses a checkpoint, see :func:`find_policy`.

    Raises:
        CheckpointError: nothing to export, a corrupt checkpoint, or ``out`` is not empty.
    """
    policy = find_policy(source, which)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{str(out)!r} is there already and not empty; name a new folder")
    adapter = is_adapter(policy)
    partial = out.with_name(f".writing-{out.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if adapter and merge:
        merge_adapter(policy, base_folder(policy) if base is None else find_folder(base), partial)
        copy_files(policy, partial, TOKENIZER_FILES)
    else:
        copy_files(policy, partial, ("*",))
    for file in partial.rglob("*"):
        checkpoint.flush(file)
    if out.exists():
        out.rmdir()
    os.rename(partial, out)
    kind = "adapter" if adapter and not merge else "model"
    return {"from": str(policy), "to": str(out), "kind": kind, "merged": adapter and merge}


def merged_model(folder: Path, out: Path, *, base: str | None = None, main: bool = True) -> Path:
    """A folder to train from: ``folder`` itself, or for an adapter the merged model, written to ``out`` once.

    Without merging, the reference policy of another LoRA run would be the raw base. ``main`` writes, other processes wait.
    """
    if not is_adapter(folder):
        return folder
    if main and not out.exists():
        export(folder, out, merge=True, base=base)
    while not out.exists():
        time.sleep(0.5)
    return out
