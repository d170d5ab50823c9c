"""Alarms for runs that learn nothing: rewards that fail, groups without a difference, updates without an effect.

Each is a pure function of the metrics so far. A fault is told from bad luck by how long it lasts, and a problem that is
solved from a broken reward by the rewards themselves. There is no configuration but ``train.on_alarm``; the thresholds
are here, their reasons in ``docs/alarms.md``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from .history import Alarm, History

PAGE = "docs/alarms.md"
FAULTS = 3  # steps in a row in which everything fails; one is enough if no step of the run went well
DEAD_STEPS, DEAD_GROUPS = 20, 256  # fewest steps in a row, and fewest groups in them, without a difference in rewards
UNSCORED_GROUPS = 64  # fewest groups, in FAULTS steps or more, without any reward
CHANCE = 1e-3  # of so many dead groups in a row, at the rate at which groups differed before
MASKED_STEPS = 10  # steps in a row without a completion that may be trained
UNCHANGED = 5  # updates in a row after which no sampled weight was another number
BEFORE = 10  # steps before a stretch of dead groups that it is compared with
Step = Mapping[str, float]


def rewards_fail(history: History) -> str | None:
    """A reward component failed for every completion, or no completion got any reward."""
    failed = list(history.last(lambda step: step.get("reward/failed_frac", 0.0) >= 1.0))
    if lasts(failed, history) and (
        len(failed) >= FAULTS or groups(failed[-1:]) > 1
    ):  # one prompt may be at fault itself
        name, reason = next(iter(history.reasons.items()), ("", ""))
        named = f"reward {name}" if name else "a reward component"
        return f"{named} failed for {every(failed)}" + (f": {reason}" if reason else "")
    unscored = list(history.last(lambda step: step.get("reward/unscored_frac", 0.0) >= 1.0))
    if len(unscored) >= FAULTS and groups(unscored) >= UNSCORED_GROUPS:  # rewards of some rows may rightly not apply
        return f"{every(unscored)} has no reward: each component is None (not applicable) or has no value for a failure"
    return None


def groups_dead(history: History) -> str | None:
    """All groups have been dead for so long that it is no chance, and their reward is no sign of success."""
    steps = dead_stretch(history)
    if not steps or at_its_best(steps, history):
        return None
    return (
        f"the completions of each prompt have had equal rewards for {len(steps)} steps ({groups(steps):,.0f} prompts), "
        f"{fmean(rewards(steps)):.3g} on average: nothing can be learned. Look at completions and rewards (RUN/rollouts), "
        "at rollout.temperature, and for problems that the model can sometimes solve"
    )


def nothing_left(history: History) -> str | None:
    """All groups are dead with rewards as good as ever: what can be solved is solved. It never stops a run."""
    steps = dead_stretch(history)
    if not steps or not at_its_best(steps, history):
        return None
    return (
        f"the completions of each prompt have had equal rewards for {len(steps)} steps, and the reward "
        f"({fmean(rewards(steps)):.3g}) is as good as before: nothing is left to learn from these prompts"
    )


def nothing_trained(history: History) -> str | None:
    """No token was trained, and neither dead groups nor a critic's warm-up explain it."""

    def idle(step: Step) -> bool:
        return (
            step.get("tokens/trained") == 0
            and step.get("dead_group_frac", 0.0) < 1.0
            and "critic/loss" not in step
        )  # fmt: skip

    steps = list(history.last(idle))
    if steps and "rows" in steps[0]:  # an offline run
        if not lasts(steps, history):
            return None
        return "no token of the step's rows is trained: look at weights and losses of messages, and at data.max_tokens"
    if len(steps) < MASKED_STEPS:
        return None
    cut = steps[0].get("truncated_frac", 0.0)
    return (
        f"no completion was trained in {len(steps)} steps ({cut:.0%} of the last were cut at rollout.max_tokens): raise "
        "rollout.max_tokens, or set algorithm.mask_truncated: false"
    )


def weights_unchanged(history: History) -> str | None:
    """Updates with a gradient and a learning rate left every sampled weight as it was."""

    def without_effect(step: Step) -> bool:
        return (
            step.get("weights/changed_frac") == 0.0 and step.get("grad_norm", 0.0) > 0 and step.get("lr", 0.0) > 0
        )  # fmt: skip

    steps = list(history.last(without_effect))
    if len(steps) < UNCHANGED:
        return None
    return (
        f"{len(steps)} updates in a row changed no weight, though there is a gradient (norm {steps[0]['grad_norm']:.2g}): "
        f"the learning rate {steps[0]['lr']:.2g} is lost in rounding; raise train.learning_rate, or set "
        "model.dtype: float32"
    )


def every(steps: Sequence[Step]) -> str:
    """The completions of these steps, in words."""
    return "every completion of this step" if len(steps) == 1 else f"every completion of {len(steps)} steps in a row"


def lasts(steps: Sequence[Step], history: History) -> bool:
    """True if a fault has lasted for FAULTS steps, or since the run began."""
    return len(steps) >= FAULTS or 0 < len(steps) == len(history.steps)


def dead_stretch(history: History) -> list[Step]:
    """The last steps, newest first, in which every group was dead; none while chance may explain them."""
    steps = list(history.last(lambda step: step.get("dead_group_frac", 0.0) >= 1.0))
    count = groups(steps)
    if len(steps) < DEAD_STEPS or count < DEAD_GROUPS:
        return []
    earlier = history.steps[: -len(steps)]
    drawn = groups(earlier)
    alive = sum((1.0 - step.get("dead_group_frac", 1.0)) * groups([step]) for step in earlier)
    rate = (alive + 1) / (drawn + 2)  # Laplace's rule of succession; without earlier steps it tells nothing
    return steps if not drawn or count * math.log1p(-rate) < math.log(CHANCE) else []


def at_its_best(steps: Sequence[Step], history: History) -> bool:
    """True if the reward of dead groups is no worse than that of the steps before, or is full marks."""
    now = fmean(rewards(steps))
    before = rewards(history.steps[: -len(steps)][-BEFORE:])
    return now >= history.full_marks - 1e-9 or (bool(before) and now >= fmean(before))


def groups(steps: Sequence[Step]) -> float:
    """Number of groups drawn in these steps."""
    return sum(step.get("prompts/drawn", step.get("prompts", 0.0)) for step in steps)


def rewards(steps: Sequence[Step]) -> list[float]:
    """The mean reward of each step, of all completions that were drawn where that is known; 0 where there is none."""
    return [step.get("reward/drawn_mean", step.get("reward/mean", 0.0)) for step in steps]


STANDSTILL = (
    Alarm(
        "rewards_fail",
        rewards_fail,
        ("reward/failed_frac", "reward/failures/*", "reward/unscored_frac"),
        PAGE,
        stops=True,
    ),
    Alarm("groups_dead", groups_dead, ("dead_group_frac", "reward/mean"), PAGE, stops=True),
    Alarm("nothing_left", nothing_left, ("dead_group_frac", "reward/mean"), PAGE),
    Alarm("nothing_trained", nothing_trained, ("tokens/trained",), PAGE, stops=True),
    Alarm("weights_unchanged", weights_unchanged, ("weights/changed_frac", "grad_norm"), PAGE, stops=True),
)
