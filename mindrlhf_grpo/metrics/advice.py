"""What to look at when an online run has not learned: documented rules over its metrics, for the end of the run.

The rules are in docs/metrics.md ("When a run does not learn"). They speak only where the training reward did not rise,
and an alarm that has sounded says its part better: the rule beside it is silent. Thresholds are here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from .alarms import EDGE, spread
from .history import History

STEPS = 20  # fewest steps for a verdict
NOISE = 2.0  # standard errors by which the reward must have risen
DEAD, CUT, UNSCORED, CLIPPED = 0.8, 0.5, 0.5, 0.3  # shares
SOLVED = 0.95  # of the reward of a completion whose components are all 1
ENTROPY = 0.05  # nats per token
MOVED = 1e-5  # KL to the reference, nats per token, below which a policy is still its reference


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Attributes:
        metric: its median over the last steps is compared.
        applies: whether that median is a reason.
        says: the sentence; ``{value}`` is the median.
        alarms: alarms that say the same.
    """

    metric: str
    applies: Callable[[float], bool]
    says: str
    alarms: tuple[str, ...] = ()


RULES = (
    Rule("reward/unscored_frac", lambda share: share > UNSCORED,
         "{value:.0%} of the completions have no reward: look at reward/failures and at the columns that rewards read",
         ("rewards_fail",)),
    Rule("dead_group_frac", lambda share: share >= DEAD,
         "{value:.0%} of the groups have equal rewards and teach nothing: look at the rollouts; other prompts, a larger rollout.group_size, a finer reward or algorithm.dead_groups: resample give differences",
         ("groups_dead", "nothing_left")),
    Rule("truncated_frac", lambda share: share > CUT,
         "{value:.0%} of the completions are cut at rollout.max_tokens: raise it, or reward shorter answers"),
    Rule("entropy", lambda nats: nats < ENTROPY,
         "entropy is {value:.3f} nats a token, so completions of a group hardly differ: a higher rollout.temperature, a lower train.learning_rate, or algorithm.kl_coef keeps it up"),
    Rule("clip_frac/high", lambda share: share > CLIPPED,
         "{value:.0%} of the tokens are above the clip range: lower train.learning_rate, or fewer updates per batch"),
    Rule("kl/mean", lambda nats: 0 <= nats < MOVED,
         "KL to the reference is {value:.1e} nats a token, so the policy has hardly moved: raise train.learning_rate",
         ("weights_unchanged",)),
)  # fmt: skip


def advice(history: History, sounded: Collection[str] = ()) -> list[str]:
    """Sentences on what to look at; empty for a run that learned, had nothing more to learn, or is too short.

    Args:
        sounded: names of the alarms that sound at the end of the run.
    """
    rewards = history.values("reward/mean")
    if len(rewards) < STEPS or rose(rewards) or fmean(rewards[-EDGE:]) >= SOLVED * history.full_marks:
        return []
    reasons = []
    for rule in RULES:
        values = history.values(rule.metric)[-EDGE:]
        if values and rule.applies(median(values)) and not set(rule.alarms) & set(sounded):
            reasons.append(rule.says.format(value=median(values)))
    first, last = fmean(rewards[:EDGE]), fmean(rewards[-EDGE:])
    opening = f"the training reward did not rise ({first:.3f} in the first {EDGE} steps, {last:.3f} in the last {EDGE})"
    return [opening, *reasons]


def rose(rewards: Sequence[float]) -> bool:
    """True if the last steps' mean is above that of the first by more than their noise."""
    first, last = rewards[:EDGE], rewards[-EDGE:]
    noise = math.sqrt((spread(first) + spread(last)) / EDGE)
    return fmean(last) - fmean(first) > NOISE * noise
