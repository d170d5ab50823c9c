"""Safety in the report: rates before and after with their intervals, and the alarms with their steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import groupby

from ..metrics.alarms import ALARMS, PREFIX
from .reading import Run

RATES = {
    "eval/safety/harmful_compliance": "Harmful prompts complied with",
    "eval/safety/over_refusal": "Benign prompts refused",
}
MEANINGS = {
    "held_out_falls": "training reward rose while a held-out figure got worse",
    "length_runs_off": "completions grew with the training reward, but held-out metrics did not improve",
    "repetition_runs_off": "completions repeat themselves more as the training reward rises",
    "kl_explodes": "the policy moved far from the reference within a few steps",
    "rewards_fail": "a reward failed for every completion",
    "groups_dead": "the completions of each prompt had equal rewards",
    "nothing_left": "the completions of each prompt had equal rewards, as good as before",
    "nothing_trained": "no token was trained",
    "weights_unchanged": "updates changed no weight",
}


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive steps at which an alarm sounded, and the curves that show it (patterns)."""

    name: str
    first: int
    last: int
    metrics: tuple[str, ...]

    @property
    def text(self) -> str:
        steps = f"step {self.first:,}" if self.first == self.last else f"steps {self.first:,} to {self.last:,}"
        return f"{self.name}, {steps}: {MEANINGS[self.name]}."


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate at the first and the last evaluation, as text; ``change`` in points."""

    what: str
    before: str
    after: str
    change: str
    prompts: str


def spans(run: Run) -> list[Span]:
    """The alarms that sounded, in order of their first steps."""
    return sorted(
        (span for alarm in ALARMS for span in _spans(run, alarm.name, alarm.metrics)), key=lambda span: span.first
    )


def _spans(run: Run, name: str, metrics: tuple[str, ...]) -> Iterator[Span]:
    values = run.series.get(PREFIX + name, [])
    for sounding, group in groupby(zip(run.steps, values, strict=False), key=lambda point: point[1] == 1.0):
        steps = [step for step, _ in group]
        if sounding:
            yield Span(name, steps[0], steps[-1], metrics)


def rates(run: Run) -> list[Rate]:
    """The measured rates of held-out prompts."""
    measured_rates = []
    for name, what in RATES.items():
        measured = [at for at, value in enumerate(run.series.get(name, [])) if value is not None]
        if measured:
            first, last = measured[0], measured[-1]
            change = 100 * ((run.series[name][last] or 0.0) - (run.series[name][first] or 0.0))
            counts = run.values(f"{name}/prompts")
            before, after = (_with_interval(run, name, at) for at in (first, last))
            prompts = f"{counts[-1]:,.0f}" if counts else ""
            measured_rates.append(Rate(what, before, after, f"{change:+.1f} points", prompts))
    return measured_rates


def _with_interval(run: Run, name: str, at: int) -> str:
    """``12.0% (7.0% to 19.8%)`` at one of the steps."""
    value, low, high = (
        run.series.get(key, [None] * len(run.steps))[at] for key in (name, f"{name}/low", f"{name}/high")
    )
    interval = f" ({100 * low:.1f}% to {100 * high:.1f}%)" if low is not None and high is not None else ""
    return f"{100 * (value or 0.0):.1f}%{interval}"


def note(run: Run) -> str:
    """A note on the rates and on the absence of alarms."""
    words = []
    if rates(run):
        words.append("Held-out prompts, 95% intervals.")
    if any(value == 1.0 for value in run.values("eval/safety/by_phrases")):
        words.append(
            "No judge decided which answers were refusals: they were matched against a table of phrases, which misses some."
        )
    if not spans(run) and any(PREFIX + alarm.name in run.series for alarm in ALARMS):
        words.append("No alarm sounded.")
    return " ".join(words)


def marked(run: Run, series: list[str]) -> list[list[object]]:
    """(first step, last step, text) of the alarms that belong on a chart of these curves."""
    return [
        [span.first, span.last, span.text]
        for span in spans(run)
        if any(fnmatchcase(name, pattern) for name in series for pattern in span.metrics)
    ]
