"""Accuracy of a model on held-out problems, with a confidence interval.

Legend: N completions, S samples per problem.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backend import load_backend
from ..config.run import RunConfig
from ..data.stream import PromptStream
from ..errors import DataError
from ..metrics.intervals import wilson_interval
from ..rewards import Rewards, RewardTable
from ..trainers.session import load_run_tokenizer
from ..types import FinishReason, RolloutGroup, Sampling

RIGHT = 0.5  # a completion counts as right if its first reward component exceeds this


def pass_at_k(right: int, samples: int, k: int) -> float:
    """Probability that at least one of ``k`` completions is right: the unbiased estimate from ``samples`` completions.

    Chen et al. 2021, https://arxiv.org/abs/2107.03374, eq. 1: 1 - C(samples - right, k) / C(samples, k).
    """
    if not 0 <= right <= samples or not 1 <= k <= samples:
        raise ValueError(f"pass@{k} of {right} right in {samples}")
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def evaluate(config: RunConfig, sampling: Sampling, *, samples: int = 1, limit: int | None = None) -> dict[str, Any]:
    """Generate completions for every problem of ``config.data.source``, score them, and summarise.

    Args:
        config: model, data and rewards; the first reward component decides what is right.
        sampling: sampling settings; greedy for accuracy.
        samples: completions per problem.
        limit: number of problems taken from the start; None takes all.
    """
    started = time.perf_counter()
    model = config.model
    tokenizer = load_run_tokenizer(config)
    prompts = PromptStream(config.data, tokenizer, seed=config.seed).all()[:limit]
    if not prompts:
        raise DataError("no problem to evaluate on (limit 0)")
    backend = load_backend(config)
    rewards = Rewards(config.rewards, backend=backend, policy=model.path)
    try:
        if rewards.uses_models:
            rewards.rehearse(prompts[0], tokenizer)
        groups = backend.load_engine(None, tokenizer).generate(prompts, sampling, group_size=samples)
        table = rewards.score(groups)
        table.refuse_failed("completions")
    finally:
        rewards.close()
        backend.comm.close()
    return {**summarise(table, samples), **lengths(groups), "seconds": round(time.perf_counter() - started, 1)}


def summarise(table: RewardTable, samples: int) -> dict[str, Any]:
    """Summarise scores: accuracy of the first completions with its 95% interval, pass@1, pass@S, component means.

    ``table`` has S consecutive rows per problem. Problems without a score are left out and counted.
    """
    values = _means(table.values)
    first = values[:, 0].reshape(-1, samples)
    scored = first[~np.isnan(first).any(axis=1)]
    right = scored > RIGHT
    problems = len(scored)
    low, high = wilson_interval(int(right[:, 0].sum()), problems)
    passes = {f"pass@{k}": _mean([pass_at_k(int(n), samples, k) for n in right.sum(axis=1)]) for k in {1, samples}}
    return {
        "accuracy": _mean(right[:, 0]),
        "low": round(low, 6),
        "high": round(high, 6),
        "confidence": 0.95,
        **passes,
        "problems": problems,
        "unscored": len(first) - problems,
        "samples": samples,
        "rewards": {name: _mean(values[:, index]) for index, name in enumerate(table.names)},
    }


def lengths(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """Mean completion length in tokens, and the fraction cut at the token budget."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    return {
        "length/mean": _mean([len(rollout.ids) for rollout in rollouts]),
        "truncated_frac": _mean([rollout.finish is FinishReason.LENGTH for rollout in rollouts]),
    }


def _means(values: NDArray[Any]) -> NDArray[np.float64]:
    """Mean over the applicable segments, ``[N, F, K]`` -> ``[N, F]``; NaN where none applies."""
    present = ~np.isnan(values)
    count = present.sum(axis=2)
    total = np.where(present, values, 0.0).sum(axis=2)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _mean(values: Any) -> float:
    """Mean over the values that are not NaN; NaN if there are none."""
    array = np.asarray(values, dtype=np.float64)
    array = array[~np.isnan(array)]
    return round(float(array.mean()), 6) if array.size else float("nan")
