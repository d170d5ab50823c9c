"""Held-out evaluation during training: completions of prompts that are never trained on, scored by the run's own rewards.

Legend: P prompts, S completions of each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..backend import RolloutEngine, RowRanks
from ..config.run import RunConfig
from ..data.stream import shard
from ..environments.episodes import Environments
from ..environments.metrics import environment_metrics
from ..metrics.held_out import HeldOutScores, held_out_scores
from ..metrics.means import mean
from ..metrics.metric_functions import MetricFunctions
from ..parallel.residency import Residency
from ..rewards import Rewards, RewardTable
from ..tokenizers.tokenizer import Tokenizer
from ..types import TRUNCATED, Episode, FinishReason, Prompt, RolloutGroup, Sampling
from .rollouts import complete
from .rows import first_of_each, open_prompts


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One evaluation, equal on every rank.

    Attributes:
        metrics: ``eval/...``, as they are logged.
        judged_by: the metric of the first reward component, which ``eval.stop_at`` and ``checkpoint.keep_best`` compare.
        graded: whether that component has values other than 0 and 1, so that it is a reward and no accuracy.
    """

    metrics: dict[str, float]
    judged_by: str
    graded: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Prompts that are never trained on, and how they are completed."""

    prompts: list[Prompt]
    sampling: Sampling
    samples: int
    stops: bool = True  # where a reward fails for every problem

    def evaluate(
        self,
        engine: RolloutEngine,
        rewards: Rewards,
        rows: RowRanks,
        memory: Residency,
        metric_functions: MetricFunctions,
        *,
        step: int,
        environments: Environments | None = None,
    ) -> Evaluation:
        """Complete the prompts, S times each, and score the completions; user-defined metrics are computed as well."""
        share = shard(self.prompts, rows.rank, rows.world_size)
        memory.place("eval")
        groups = complete(engine, environments, share, self.sampling, group_size=self.samples)
        memory.place("reward")
        local_table = rows.once(lambda: rewards.score(groups))
        table = RewardTable.concat(rows.gather_objects(local_table))
        if self.stops:
            table.refuse_failed("held-out completions")
        scores = held_out_scores(table, self.samples)
        lengths, truncated = self._lengths(groups, rows)
        metrics = {
            **score_metrics(scores),
            **self.source_metrics(table),
            "eval/problems": float(len(self.prompts)),
            "eval/length": lengths,
            "eval/truncated_frac": truncated,
            **environment_metrics(gathered_episodes(groups, rows), prefix="eval/environment"),
        }
        computed = metric_functions.compute(groups, local_table, metrics, split="eval", step=step)
        judged_by = f"eval/{table.names[0]}/mean"
        return Evaluation(metrics=metrics | computed, judged_by=judged_by, graded=scores.graded)

    def source_metrics(self, table: RewardTable) -> dict[str, float]:
        """Mean reward, accuracy and number of the problems of each held-out source, where there are several."""
        sources = np.asarray([prompt.source for prompt in self.prompts])
        metrics = {}
        for name in sorted({prompt.source for prompt in self.prompts} - {""}):
            rows = np.flatnonzero(np.repeat(sources == name, self.samples))
            scores = held_out_scores(table.take(rows), self.samples)
            metrics[f"eval/source/{name}/problems"] = float(len(rows) // self.samples)
            metrics[f"eval/source/{name}/reward"] = scores.reward
            if scores.accuracy is not None:
                metrics[f"eval/source/{name}/accuracy"] = scores.accuracy.value
        return metrics

    def _lengths(self, groups: list[RolloutGroup], rows: RowRanks) -> tuple[float, float]:
        """Mean length of the completions of all ranks in tokens, and the share cut at the token limit."""
        local = [
            (rollout.sampled_tokens, rollout.finish in TRUNCATED) for group in groups for rollout in group.rollouts
        ]
        pairs = [pair for rank in rows.gather_objects(local) for pair in rank]
        return mean([length for length, _ in pairs]), mean([cut for _, cut in pairs])


def gathered_episodes(groups: list[RolloutGroup], rows: RowRanks) -> list[tuple[Episode | None, FinishReason]]:
    """What happened in the environments of all ranks."""
    local = [(rollout.episode, rollout.finish) for group in groups for rollout in group.rollouts]
    return [pair for rank in rows.gather_objects(local) for pair in rank]


def score_metrics(scores: HeldOutScores) -> dict[str, float]:
    """``eval/reward/mean``, the mean of each component and, where completions are right or wrong, ``eval/accuracy``."""
    metrics = {"eval/reward/mean": scores.reward}
    metrics |= {f"eval/{name}/mean": value for name, value in scores.components.items()}
    if scores.unscored:
        metrics["eval/unscored"] = float(scores.unscored)
    found = scores.accuracy
    if found is None:
        return metrics
    several = {f"eval/pass@{k}": chance for k, chance in found.passes.items() if k > 1}
    return {
        "eval/accuracy": found.value,
        "eval/accuracy/low": found.low,
        "eval/accuracy/high": found.high,
        **several,
        **metrics,
    }


def without_accuracy(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics of an evaluation without accuracy, its interval and pass@n."""
    of_source = re.compile(r"eval/source/.+/accuracy")
    return {
        name: value
        for name, value in metrics.items()
        if not name.startswith(("eval/accuracy", "eval/pass@")) and not of_source.fullmatch(name)
    }


def load_held_out(config: RunConfig, tokenizer: Tokenizer) -> HeldOut | None:
    """The held-out prompts, tokenised like the training data; None without ``eval.source``."""
    settings = config.eval
    if settings.source is None:
        return None
    return HeldOut(
        prompts=first_of_each(open_prompts(config, tokenizer, settings.source).all(), settings.limit),
        sampling=Sampling(
            max_tokens=config.rollout.max_tokens,
            temperature=settings.temperature,
            stop=tuple(config.rollout.stop),
            seed=config.seed,
        ),
        samples=settings.samples,
        stops=config.train.on_alarm == "stop",
    )
