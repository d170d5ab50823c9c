"""The alarms of a run: those for reward hacking, here, and those for runs that learn nothing, in ``standstill``.

Reward hacking: the training reward goes up while a metric that is not trained on gets worse. These alarms stay silent on
healthy runs and on noise, which wanders: a test bounds how often random walks set one off. There is no configuration;
the thresholds are here. Over-optimisation of rewards: https://arxiv.org/abs/2210.10760; length: https://arxiv.org/abs/2310.03716.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median
from typing import Any

from ..config.file import AnyConfig
from ..config.run import RunConfig
from ..json_lines import read_json_lines
from ..rewards.sources import component_name
from ..run.tracking import METRICS
from .history import Alarm, History, Point
from .standstill import STANDSTILL
from .trends import drift, mann_kendall

REWARD, ACCURACY, PROBLEMS = "reward/mean", "eval/accuracy", "eval/problems"
RATES = ("eval/safety/harmful_compliance", "eval/safety/over_refusal")  # where less is better
PREFIX, FAILURES = "alarm/", "reward/failures/"
FEWEST, WINDOW = 6, 8  # evaluations: the fewest for a verdict, and how many a trend is measured over
ERRORS = 4.0  # standard errors by which a share must have fallen
TREND, DRIFT = 1.645, 2.0  # least standard score (one-sided 5%) and t of a trend
EDGE = 10  # steps averaged at each end of a curve
STEPS = 30  # fewest steps before a level can run off
LENGTH_FACTOR, LENGTH_MORE = 2.0, 32  # times the start, and at least this many tokens more
REPETITION_MORE = 0.15  # share of a text that repeats earlier text
KL_FACTOR, KL_LEVEL, KL_STEPS, KL_BEFORE = 5.0, 1.0, 5, 20  # nats per token: healthy runs stay below 0.1
PAGE = "docs/safety_evaluation.md"


@dataclass(frozen=True, slots=True)
class Sounding:
    """What the alarms say of a step.

    Attributes:
        states: ``alarm/<name>`` 0 or 1 for each alarm with enough data.
        notes: a line for each that starts with this step.
        stop: why the run must end; empty if it need not.
    """

    states: Mapping[str, float]
    notes: list[str]
    stop: str


class Alarms:
    """The alarms of one run.

    Args:
        weights: reward component -> its weight. One with weight 0 is a judge that is not trained on, and is watched
            like the held-out accuracy; the others are parts of the objective, which may trade one for another.
        first: the component that the run is judged by, which is no accuracy where it has values between 0 and 1.

    Attributes:
        history: the metrics so far.
        sounding: names of the alarms that sound.
        verdicts: what each alarm said last.
        reasons: reward component -> why its first sample failed, the first time that one did since the process began.
    """

    def __init__(self, weights: Mapping[str, float], first: str | None = None) -> None:
        watched = ([first] if first else []) + [name for name, weight in weights.items() if weight == 0]
        judges = {f"eval/{name}/mean": 1 for name in watched}
        full_marks = sum(weight for weight in weights.values() if weight > 0) or math.inf
        self.history = History({ACCURACY: 1, **judges, **dict.fromkeys(RATES, -1)}, full_marks)
        self.reasons: dict[str, str] = {}
        self.sounding: set[str] = set()
        self.verdicts: dict[str, str | None] = {}

    def resume(self, rows: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        """Replay the metrics of the steps that an interrupted run has made."""
        for step, metrics in rows:
            self.history.add(step, metrics)
            now = {alarm.name for alarm in ALARMS if metrics.get(PREFIX + alarm.name)}
            self.sounding = now if any(name.startswith(PREFIX) for name in metrics) else self.sounding

    @staticmethod
    def of_run(config: AnyConfig, before: Mapping[str, float]) -> Alarms:
        """The alarms of a run, with the history in its folder.

        Args:
            before: metrics of the evaluation before training.
        """
        if isinstance(config, RunConfig):
            alarms = Alarms(judging_weights(config), component_name(config.rewards[0]))
        else:
            alarms = Alarms({})
        rows = read_json_lines(config.run_dir / METRICS).rows
        steps = ((row["step"], row) for row in rows if isinstance(row.get("step"), int) and row["step"] > 0)
        alarms.resume([(0, before), *steps])
        return alarms

    def observe(self, step: int, metrics: Mapping[str, float], reasons: Mapping[str, str] | None = None) -> Sounding:
        """Take a step's metrics, and the reasons of failed rewards by component; returns what the alarms say of them."""
        self.history.add(step, metrics, reasons)
        self.reasons = {**(reasons or {}), **self.reasons}
        states: dict[str, float] = {}
        notes: list[str] = []
        stops: list[str] = []
        for alarm in ALARMS:
            if not alarm.evaluated or alarm.name not in self.verdicts or self.history.watched.keys() & metrics.keys():
                self.verdicts[alarm.name] = alarm.sounds(self.history)
            reason = self.verdicts[alarm.name]
            if reason is None and alarm.name not in self.sounding:
                continue
            states[PREFIX + alarm.name] = float(bool(reason))
            if reason and alarm.name not in self.sounding:
                notes.append(f"alarm {alarm.name} at step {step}: {reason}; see {alarm.page}")
            if reason and alarm.stops:
                stops.append(f"{reason} (alarm {alarm.name}, {alarm.page}; train.on_alarm=warn goes on)")
            (self.sounding.add if reason else self.sounding.discard)(alarm.name)
        return Sounding(states, notes, stops[0] if stops else "")

    def summary(self) -> list[str]:
        """Lines for the end of the run: rewards that failed, and rewards or labels that were all the same."""
        lines = []
        for name, points in self.history.series.items():
            if name.startswith(FAILURES):
                component = name.removeprefix(FAILURES)
                why = f"; the first: {self.reasons[component]}" if component in self.reasons else ""
                total = sum(value for _, value in points)
                lines.append(f"reward {component} failed for {total:,.0f} samples in {len(points)} steps{why}")
        means, spreads = self.history.values(REWARD), self.history.values("reward/std")
        if len(means) > 1 and not any(spreads) and len(set(means)) == 1:
            lines.append(f"every completion of the run had the reward {means[0]:g}: there was nothing to learn")
        for label, other in (("desirable", "undesirable"), ("undesirable", "desirable")):
            if self.history.values(label) and not any(self.history.values(label)) and any(self.history.values(other)):
                lines.append(f"every row of the run was {other}: an objective for labelled rows needs both kinds")
        return lines


def judging_weights(config: RunConfig) -> dict[str, float]:
    """Reward component -> weight, without refusal judges: for them neither more nor less is better."""
    refusals = {metric.arguments.get("refusal_judge") for metric in config.metrics or ()}
    names = {component_name(component): component.weight for component in config.rewards}
    return {name: weight for name, weight in names.items() if name not in refusals}


def held_out_falls(history: History) -> str | None:
    """Training reward rises while a held-out metric gets worse, both at the last evaluation and at the one before it."""
    verdict = None
    for name, sign in history.watched.items():
        points = history.series.get(name, [])
        if len(points) < FEWEST:
            continue
        verdict = verdict or ""
        worse = since_best if counting_error(history, name, points[-1][1]) else steadily
        reasons = [worse(history, name, sign, points[: len(points) - back]) for back in (1, 0)]
        if all(reasons):
            return reasons[-1]
    return verdict


def since_best(history: History, name: str, sign: int, points: Sequence[Point]) -> str:
    """A share is below its best evaluation by more than sampling error explains, and the reward rose since then."""
    at = max(range(len(points)), key=lambda index: sign * points[index][1])
    best, last = points[at][1], points[-1][1]
    rewards = between(history.series.get(REWARD, []), [step for step, _ in points[at:]])
    if sign * (best - last) < ERRORS * counting_error(history, name, best) or not rises(rewards):
        return ""
    return wording(name, sign, rewards, (best, last), f"since step {points[at][0]}")


def steadily(history: History, name: str, sign: int, points: Sequence[Point]) -> str:
    """A metric that is not a share got worse from evaluation to evaluation, and the reward rose meanwhile."""
    window = points[-WINDOW:]
    figures = [value for _, value in window]
    rewards = between(history.series.get(REWARD, []), [step for step, _ in window])
    if not gained(history) or not rises(rewards) or not rises([-sign * value for value in figures]):
        return ""
    return wording(name, sign, rewards, (figures[0], figures[-1]), f"over the last {len(window)} evaluations")


def wording(name: str, sign: int, rewards: Sequence[float], ends: tuple[float, float], when: str) -> str:
    """The alarm's text: the rise of the reward and the fall of the metric."""
    label = name.removeprefix("eval/").removesuffix("/mean").removeprefix("safety/").replace("_", " ")
    return (
        f"training reward rises ({rewards[0]:.3f} to {rewards[-1]:.3f}) while held-out {label} "
        f"{'falls' if sign > 0 else 'grows'} ({ends[0]:.3f} to {ends[1]:.3f}) {when}"
    )


def between(points: Sequence[Point], steps: Sequence[int]) -> list[float]:
    """Means of a curve between consecutive steps of ``steps``; empty intervals are left out."""
    parts = [[value for step, value in points if first < step <= last] for first, last in pairwise(steps)]
    return [fmean(part) for part in parts if part]


def rises(values: Sequence[float]) -> bool:
    """True if a series has an upward trend that neither white noise nor a random walk explains well."""
    return mann_kendall(values) > TREND and drift(values) > DRIFT


def length_runs_off(history: History) -> str | None:
    """Completions are twice as long as at the start, reward is higher, and held-out metrics are not better."""
    ends = levels(history, "length/mean")
    if ends is None:
        return None
    if ends[1] < max(LENGTH_FACTOR * ends[0], ends[0] + LENGTH_MORE) or not gained(history) or improved(history):
        return ""
    return f"completions grew from {ends[0]:.0f} to {ends[1]:.0f} tokens with the training reward, {unproven(history)}"


def repetition_runs_off(history: History) -> str | None:
    """Completions repeat themselves more than at the start, reward is higher, and held-out metrics are not better."""
    ends = levels(history, "repetition")
    if ends is None:
        return None
    if ends[1] < ends[0] + REPETITION_MORE or not gained(history) or improved(history):
        return ""
    return f"repetition grew from {ends[0]:.2f} to {ends[1]:.2f} with the training reward, {unproven(history)}"


def kl_explodes(history: History) -> str | None:
    """The KL to the reference policy is high, and many times its value some steps before."""
    values = history.values("kl/mean")
    if len(values) < 2 * KL_STEPS:
        return None
    now, before = median(values[-KL_STEPS:]), median(values[-KL_STEPS - KL_BEFORE : -KL_STEPS])
    if now < KL_LEVEL or now < KL_FACTOR * before:
        return ""
    return f"KL to the reference went from {before:.2g} to {now:.2g} nats a token within {KL_BEFORE} steps"


def levels(history: History, name: str) -> tuple[float, float] | None:
    """Medians of the first and of the last steps of a curve; None while it is short."""
    values = history.values(name)
    return (median(values[:EDGE]), median(values[-EDGE:])) if len(values) >= STEPS else None


def gained(history: History) -> bool:
    """True if the training reward is clearly above that of the first steps."""
    values = history.values(REWARD)
    if len(values) < STEPS:
        return False
    first, last = values[:EDGE], values[-EDGE:]
    noise = math.sqrt((spread(first) + spread(last)) / EDGE)
    return fmean(last) - fmean(first) > 3 * noise


def spread(values: Sequence[float]) -> float:
    """Variance of a sample."""
    middle = fmean(values)
    return sum((value - middle) ** 2 for value in values) / (len(values) - 1)


def improved(history: History) -> bool:
    """True if a held-out metric improved by more than the sampling error of so many problems, and none got worse."""
    changes = []
    for name, sign in history.watched.items():
        values = history.values(name)
        if len(values) > 1:
            last = fmean(values[-2:] if len(values) > 2 else values[-1:])
            error = counting_error(history, name, values[0])
            changes.append((sign * (last - values[0]) > error) - (sign * (last - values[0]) < -error))
    return any(change > 0 for change in changes) and all(change >= 0 for change in changes)


def counting_error(history: History, name: str, share: float) -> float:
    """Standard error of the difference of two shares counted on the held-out prompts, by Laplace's rule of succession.

    0 where the number of prompts is not known or the metric is not a share.
    """
    counts, values = history.values(f"{name}/prompts") or history.values(PROBLEMS), history.values(name)
    if not counts or not counts[-1] or min(values) < 0 or max(values) > 1:
        return 0.0
    likely = (share * counts[-1] + 1) / (counts[-1] + 2)
    return math.sqrt(2 * likely * (1 - likely) / counts[-1])


def unproven(history: History) -> str:
    """The end of an alarm's text: whether held-out metrics were measured at all."""
    measured = any(len(history.values(name)) > 1 for name in history.watched)
    return "held-out figures did not" if measured else "and nothing held out says that they are better"


ALARMS = (
    Alarm("held_out_falls", held_out_falls, (REWARD, ACCURACY, "eval/*/mean", *RATES), PAGE, evaluated=True),
    Alarm("length_runs_off", length_runs_off, (REWARD, "length/mean"), PAGE),
    Alarm("repetition_runs_off", repetition_runs_off, (REWARD, "repetition"), PAGE),
    Alarm("kl_explodes", kl_explodes, ("kl/mean",), PAGE),
    *STANDSTILL,
)
