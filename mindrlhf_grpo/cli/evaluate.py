"""Accuracy of a model on held-out problems with a confidence interval, or its mean rewards where these are no accuracy.

Legend: S samples per problem.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from ..backend import load_backend
from ..config.run import RunConfig
from ..errors import DataError
from ..metrics.held_out import held_out_scores
from ..metrics.means import mean
from ..rewards import Rewards, RewardTable
from ..trainers.rollouts import complete, load_environments
from ..trainers.rows import open_prompts
from ..trainers.session import leaving, load_run_tokenizer
from ..types import FinishReason, RolloutGroup, Sampling


def evaluate(config: RunConfig, sampling: Sampling, *, samples: int = 1, limit: int | None = None) -> dict[str, Any]:
    """Generate completions for every problem of ``config.data.source``, score them, and summarise.

    Args:
        config: model, data and rewards; the first reward component is the accuracy where its values are 0 and 1.
        sampling: sampling settings; greedy for accuracy.
        samples: completions per problem.
        limit: number of problems taken from the start; None takes all.
    """
    started = time.perf_counter()
    model = config.model
    tokenizer = load_run_tokenizer(config)
    environments = load_environments(config, tokenizer)
    prompts = open_prompts(config, tokenizer).all()[:limit]
    if not prompts:
        raise DataError("no problem to evaluate on (limit 0)")
    backend = load_backend(config)
    rewards = Rewards(config.rewards, backend=backend, policy=model.path)
    with leaving(backend.comm), closing(rewards):
        if rewards.uses_models:
            rewards.rehearse(prompts[0], tokenizer)
        groups = complete(backend.load_engine(None, tokenizer), environments, prompts, sampling, group_size=samples)
        table = rewards.score(groups)
        table.refuse_failed("completions")
    return {**summarise(table, samples), **lengths(groups), "seconds": round(time.perf_counter() - started, 1)}


def summarise(table: RewardTable, samples: int) -> dict[str, Any]:
    """Accuracy with its 95% interval and pass@k, where the first component is 0 or 1; the means of all rewards.

    ``table`` has S consecutive rows per problem. Problems without a score are left out of the accuracy and counted.
    """
    scores = held_out_scores(table, samples)
    accuracy: dict[str, Any] = {}
    if scores.accuracy is not None:
        found = scores.accuracy
        accuracy = {"accuracy": found.value, "low": found.low, "high": found.high, "confidence": 0.95}
        accuracy |= {f"pass@{k}": chance for k, chance in found.passes.items()}
    return {
        **_rounded(accuracy),
        "reward": round(scores.reward, 6),
        "problems": scores.problems,
        "unscored": scores.unscored,
        "samples": samples,
        "rewards": _rounded(scores.components),
    }


def headline(result: dict[str, Any]) -> str:
    """The result in one line: the accuracy, or the mean rewards."""
    if "accuracy" in result:
        interval = f"{result['low']:.3f} to {result['high']:.3f}"
        return f"{result['accuracy']:.3f} right ({interval}) of {result['problems']} problems"
    parts = ", ".join(f"{name} {value:.4g}" for name, value in result["rewards"].items())
    return f"mean reward {result['reward']:.4g} over {result['problems']} problems ({parts})"


def lengths(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """Mean completion length in tokens, and the fraction cut at the token budget."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    return _rounded(
        {
            "length/mean": mean([len(rollout.ids) for rollout in rollouts]),
            "truncated_frac": mean([rollout.finish is FinishReason.LENGTH for rollout in rollouts]),
        }
    )


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in values.items()}
