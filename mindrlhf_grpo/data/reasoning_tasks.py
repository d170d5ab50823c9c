"""``reasoning_gym:TASK``: procedurally generated problems with verifiable answers."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from ..errors import DataError
from .rows import IndexedRows, Rows, unknown

SEED_STRIDE = 1_000_003
# The rows of these tasks follow the order of Python sets, which differs between processes unless PYTHONHASHSEED is fixed
# (from a comparison of all tasks of reasoning-gym 0.1.25 under two hash seeds).
SET_ORDERED = frozenset(
    {
        "codeio", "isomorphic_strings", "knight_swap", "list_functions",
        "polynomial_multiplication", "ransom_note", "word_ladder",
    }
)  # fmt: skip


def read_task(task: str, arguments: Mapping[str, Any]) -> Rows:
    """Open a reasoning-gym task; its rows have prompt, answer, metadata, task and entry.

    ``entry`` is the full problem, which ``reasoning_gym.get_score_answer_fn(row["task"])(answer, entry)`` scores.
    reasoning-gym draws row i from ``Random(seed + i)``, so two neighbouring seeds would share all rows but one.
    Here seeds are a million apart, so a training and a held-out source with different seeds are disjoint draws.
    The default seed is 0.

    Args:
        task: name of a reasoning-gym dataset.
        arguments: ``size``, ``seed`` and the task's own settings.

    Raises:
        DataError: the package is missing, the task or a setting is unknown, the task refuses a value, or its rows
            would differ between ranks.
    """
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise DataError(f"reasoning_gym:{task} needs reasoning-gym: pip install 'mindrlhf-grpo[tasks]'") from error
    if task not in DATASETS:
        raise unknown("reasoning_gym task", task, DATASETS)
    if task in SET_ORDERED and os.environ.get("PYTHONHASHSEED", "random") == "random":
        raise DataError(
            f"reasoning_gym:{task} gives other rows in every process; start with PYTHONHASHSEED=0 in the environment"
        )
    settings = {spec.name for spec in dataclasses.fields(DATASETS[task][1])}
    for name in arguments:
        if name not in settings:
            raise unknown(f"reasoning_gym:{task}: setting", name, settings)
    seed = arguments.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise DataError(f"reasoning_gym:{task}: seed {seed!r} is no whole number from 0")
    try:
        dataset = reasoning_gym.create_dataset(task, **{**arguments, "seed": seed * SEED_STRIDE})
    except Exception as error:  # tasks check their settings by assert and by accident
        raise DataError(f"reasoning_gym:{task} refuses {dict(arguments)}: {error}") from error

    def read(index: int) -> dict[str, Any]:
        entry = dataset[index]
        named = {"prompt": entry["question"], "answer": entry["answer"], "metadata": entry["metadata"]}
        return {**named, "task": task, "entry": entry}

    return IndexedRows(name=f"reasoning_gym:{task}", size=len(dataset), read=read, on_demand=True)
