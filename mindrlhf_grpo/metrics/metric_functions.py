"""User-defined metrics: plain functions over the global batch of a step, called after rewards and update.

A function names its inputs as parameters, like a reward function: the fields of :class:`Scored`, a data column, ``figures`` (the
step's metrics so far), ``split`` (``train`` or ``eval``), ``step``, ``run_dir``, ``main`` (whether this rank may write
files), and its ``arguments``; with ``**kwargs`` it is given all of them. It is not called for a step without
completions. It returns a dict of name -> number, equal on every rank. Legend: N completions of all
ranks, K items.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..backend import Comm, RowRanks
from ..errors import ConfigError, RunFailed, UserError, did_you_mean
from ..rewards.table import RewardTable
from ..types import TRUNCATED, FloatArray, RolloutGroup
from ..user_functions import describe, import_function

if TYPE_CHECKING:
    from ..config.run import MetricConfig

ABOUT_STEP = ("figures", "split", "step", "run_dir", "main")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """The completions of a step (or of an evaluation) on all ranks, in the order of the ranks.

    Attributes:
        rewards: component -> ``[N]``, or ``[N, K]`` where rewards are per item; NaN where not applicable.
        total: their weighted sum, of the same shape.
        advantages: mean over the trained tokens ``[N]``; None in an evaluation.
        kl: KL to the reference policy ``[N]``, summed over tokens, where it is part of the reward; else None.
        group: number of the prompt ``[N]``, counted over all ranks.
    """

    prompts: list[str]
    completions: list[str]
    rewards: dict[str, FloatArray]
    total: FloatArray
    advantages: FloatArray | None
    kl: FloatArray | None
    lengths: NDArray[np.int64]
    prompt_lengths: NDArray[np.int64]
    truncated: NDArray[np.bool_]
    group: NDArray[np.int64]


HELD_OUT = ("eval/", "val/")  # prefixes of names that already mark an evaluation
GIVEN = (*(spec.name for spec in fields(Scored)), *ABOUT_STEP)


class MetricFunctions:
    """The configured metric functions of a run.

    Raises:
        ConfigError: an unknown function or argument.
    """

    def __init__(self, configs: Sequence[MetricConfig], run_dir: Path, comm: Comm) -> None:
        self._functions = [MetricFunction.of(config, f"metrics.{index}") for index, config in enumerate(configs)]
        self._run_dir, self._comm = run_dir, comm

    def compute(
        self,
        groups: Sequence[RolloutGroup],
        table: RewardTable,
        figures: Mapping[str, float],
        *,
        split: str,
        step: int,
        advantages: FloatArray | None = None,
        kl: FloatArray | None = None,
    ) -> dict[str, float]:
        """Call the functions on this step; every rank must call it, with its groups and its rows of the table.

        Args:
            advantages: of this rank's tokens ``[n, T]``, 0 where nothing is trained.
            kl: of the completions of all ranks ``[N]``.

        Raises:
            RunFailed: a function raised an error, or returned something other than a dict of numbers.
        """
        if not self._functions:
            return {}
        scored, columns = gathered(self._comm.rows, groups, table, advantages, kl)
        if not scored.completions:  # dynamic sampling kept none: there is nothing to measure, and no column either
            return {}
        arguments = {spec.name: getattr(scored, spec.name) for spec in fields(Scored)} | {
            "split": split,
            "step": step,
            "run_dir": self._run_dir,
            "main": self._comm.rank == 0,
        }
        results: dict[str, float] = {}
        for function in self._functions:
            so_far = {"figures": {**figures, **results}}
            for name, value in function.call({**columns, **arguments, **so_far}).items():
                prefix = "eval/" if split == "eval" and not name.startswith(HELD_OUT) else ""
                results[f"{prefix}{name}"] = value
        return results


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricFunction:
    """One function with its settings.

    Attributes:
        reads: parameter that is not a setting -> whether it is optional.
        takes_all: whether it also takes whatever it does not name.
    """

    label: str
    function: Callable[..., Any]
    settings: Mapping[str, Any]
    reads: Mapping[str, bool]
    takes_all: bool = False

    @staticmethod
    def of(config: MetricConfig, label: str) -> MetricFunction:
        """Import the function that a configuration names and check its arguments against the signature."""
        try:
            function = import_function(config.function)
        except UserError as error:
            raise ConfigError(f"{label}.function: {error}") from error
        signature = inspect.signature(function).parameters
        takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.values())
        parameters = {name: p for name, p in signature.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
        settable = [name for name in parameters if name not in GIVEN]
        for name in config.arguments:
            if name in GIVEN or (name not in settable and not takes_all):
                hint = did_you_mean(name, settable)
                raise ConfigError(
                    f"{label}.arguments: unknown argument {name!r}{hint}; it takes {', '.join(settable) or 'none'}"
                )
        reads = {
            name: parameter.default is not parameter.empty
            for name, parameter in parameters.items()
            if name not in config.arguments
        }
        settings = dict(config.arguments)
        return MetricFunction(label=label, function=function, settings=settings, reads=reads, takes_all=takes_all)

    def check(self, columns: Iterable[str]) -> None:
        """Raise ConfigError unless the data has every column this function needs."""
        existing = list(columns)
        for name, optional in self.reads.items():
            if not optional and name not in GIVEN and name not in existing:
                raise ConfigError(
                    f"{self.label} needs {name!r}, which is no column of the data and not set under arguments; "
                    f"columns there are: {', '.join(existing) or 'none'}"
                )

    def call(self, arguments: Mapping[str, Any]) -> dict[str, float]:
        """Call the function and return its numbers. Raises RunFailed if it fails or returns anything else."""
        self.check(arguments)
        inputs = {
            name: value
            for name, value in arguments.items()
            if name in self.reads or (self.takes_all and name not in self.settings)
        }
        try:
            result = self.function(**inputs, **self.settings)
        except UserError:
            raise
        except Exception as error:
            raise RunFailed(f"{self.label} failed: {describe(error)}") from error
        if not isinstance(result, Mapping):
            raise RunFailed(f"{self.label} returned a {type(result).__name__}, not a dict of name -> number")
        try:
            return {str(name): math.nan if value is None else float(value) for name, value in result.items()}
        except (TypeError, ValueError) as error:
            raise RunFailed(f"{self.label} returned something else than numbers: {error}") from error


def gathered(
    rows: RowRanks,
    groups: Sequence[RolloutGroup],
    table: RewardTable,
    advantages: FloatArray | None,
    kl: FloatArray | None = None,
) -> tuple[Scored, dict[str, list[Any]]]:
    """Gather every rank's completions, and the data columns by name (None where a row lacks one)."""
    own = [(group.prompt, rollout) for group in groups for rollout in group.rollouts]
    local = {
        "prompts": [prompt.text for prompt, _ in own],
        "columns": [dict(prompt.columns) for prompt, _ in own],
        "completions": [rollout.text for _, rollout in own],
        "lengths": [rollout.sampled_tokens for _, rollout in own],
        "prompt_lengths": [len(prompt.ids) for prompt, _ in own],
        "truncated": [rollout.finish in TRUNCATED for _, rollout in own],
        "group": [number for number, group in enumerate(groups) for _ in group.rollouts],
        "advantages": [] if advantages is None else row_means(advantages).tolist(),
    }
    parts: list[tuple[dict[str, list[Any]], RewardTable, int]] = rows.gather_objects((local, table, len(groups)))
    joined = {name: [item for part, _, _ in parts for item in part[name]] for name in local}
    starts = np.cumsum([0, *(count for _, _, count in parts)])
    group = [start + number for (part, _, _), start in zip(parts, starts, strict=False) for number in part["group"]]
    all_ranks = RewardTable.concat([of_rank for _, of_rank, _ in parts])
    narrow = all_ranks.segments == 1
    total = all_ranks.total()
    names = dict.fromkeys(name for row in joined["columns"] for name in row)
    scored = Scored(
        prompts=joined["prompts"],
        completions=joined["completions"],
        rewards={
            name: all_ranks.values[:, index, 0] if narrow else all_ranks.values[:, index]
            for index, name in enumerate(all_ranks.names)
        },
        total=total[:, 0] if narrow else total,
        advantages=None if advantages is None else np.asarray(joined["advantages"], np.float64),
        kl=kl,
        lengths=np.asarray(joined["lengths"], np.int64),
        prompt_lengths=np.asarray(joined["prompt_lengths"], np.int64),
        truncated=np.asarray(joined["truncated"], bool),
        group=np.asarray(group, np.int64),
    )
    return scored, {name: [row.get(name) for row in joined["columns"]] for name in names}


def row_means(advantages: FloatArray) -> NDArray[np.float64]:
    """Mean of the entries of each row that are not 0 ``[n]``; 0 where all are."""
    wide = np.asarray(advantages, np.float64)
    used = wide != 0
    return np.asarray(wide.sum(axis=1) / np.maximum(1, used.sum(axis=1)))
