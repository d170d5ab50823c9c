"""How often a model is right on held-out problems, with an interval that says how sure that is.

Legend: N completions, S samples for each problem.
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
from ..tokenizers.tokenizer import load_tokenizer
from ..types import FinishReason, RolloutGroup, Sampling

RIGHT = 0.5  # a completion counts as right where the first reward component is above this


def pass_at_k(right: int, samples: int, k: int) -> float:
    """Chance that at least one of ``k`` completions is right, estimated without bias from ``samples`` of them.

    Chen et al. 2021, https://arxiv.org/abs/2107.03374, eq. 1: 1 - C(samples - right, k) / C(samples, k).
    """
    if not 0 <= right <= samples or not 1 <= k <= samples:
        raise ValueError(f"pass@{k} of {right} right in {samples}")
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def evaluate(config: RunConfig, sampling: Sampling, *, samples: int = 1, limit: int | None = None) -> dict[str, Any]:
    """Generate for every problem of ``config.data.source``, score, and summarise.

    Args:
        config: model, data and rewards; the first reward component decides what is right.
        sampling: how completions are drawn; greedy for accuracy.
        samples: completions for each problem.
        limit: only the first problems; None: all.
    """
    started = time.perf_counter()
    model = config.model
    tokenizer = load_tokenizer(
        model.path, chat_template=config.data.chat_template, trust_remote_code=model.trust_remote_code
    )
    prompts = PromptStream(config.data, tokenizer, seed=config.seed).all()[:limit]
    if not prompts:
        raise DataError("no problem to evaluate on (limit 0)")
    backend = load_backend(config)
    rewards = Rewards(config.rewards, backend=backend, policy=model.path)
    try:
        groups = backend.load_engine(None, tokenizer).generate(prompts, sampling, group_size=samples)
        table = rewards.score(groups)
    finally:
        rewards.close()
        backend.comm.close()
    return {**summarise(table, samples), **lengths(groups), "seconds": round(time.perf_counter() - started, 1)}


def summarise(table: RewardTable, samples: int) -> dict[str, Any]:
    """Accuracy (first completion of each problem) with its 95% interval, pass@1, pass@S, means of the components.

    ``table`` has S rows for each problem in turn. Problems without any score are left out and counted.
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
    """Mean tokens of a completion, and the share cut at the token budget."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    return {
        "length/mean": _mean([len(rollout.ids) for rollout in rollouts]),
        "truncated_frac": _mean([rollout.finish is FinishReason.LENGTH for rollout in rollouts]),
    }


def _means(values: NDArray[Any]) -> NDArray[np.float64]:
    """``[N, F, K]`` -> ``[N, F]``: mean over the segments that apply; NaN where none does."""
    present = ~np.isnan(values)
    count = present.sum(axis=2)
    total = np.where(present, values, 0.0).sum(axis=2)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _mean(values: Any) -> float:
    """Mean of what is not NaN; NaN of nothing."""
    array = np.asarray(values, dtype=np.float64)
    array = array[~np.isnan(array)]
    return round(float(array.mean()), 6) if array.size else float("nan")
