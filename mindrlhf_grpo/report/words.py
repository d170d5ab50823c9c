"""The run in words: headline, summary sentences, facts and warnings, from the numbers in the run folder."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..data.mixture import named_sources
from ..metrics.agreement import ACCEPTED
from ..metrics.intervals import wilson_interval
from ..run.printable import printable
from .reading import Run, as_number

EDGE = 5  # steps averaged at each end of a curve


@dataclass(frozen=True, slots=True)
class Headline:
    """The headline: a value before and after training. ``trend``: ``better``, ``worse``, or ``same`` as it is shown."""

    what: str
    before: str
    after: str
    change: str
    trend: str
    small_print: str


@dataclass(frozen=True, slots=True)
class Remark:
    """A remark for the reader. ``level``: ``error``, ``warning`` or ``note``."""

    level: str
    text: str


def held_out(run: Run) -> tuple[str, float | None, float | None]:
    """(``accuracy`` or ``reward``, before training, at the end): the held-out figure of an online run, or an accuracy.

    It is an accuracy where all its values were 0 or 1. From the summary, else from the curves; None where not measured.
    """
    before, after = (as_number(run.summary.get(f"accuracy_{when}")) for when in ("before", "after"))
    if before is None and after is None:
        before, after = measured(run, "accuracy")
    curve = ends(run, "eval/accuracy")
    before, after = (curve[0] if before is None else before), (curve[1] if after is None else after)
    named = [run.summary.get(f"reward_{when}") for when in ("before", "after")]
    if named == [None, None] and is_accuracy(run, before, after):
        return "accuracy", before, after
    rewards = ends(run, "eval/reward/mean")
    figures = (as_number(given) for given in named) if named != [None, None] else (before, after)
    before, after = (one if one is not None else other for one, other in zip(figures, rewards, strict=True))
    return "reward", before, after


def is_accuracy(run: Run, *shown: float | None) -> bool:
    """True for shares whose last evaluation is one, too: later rewards may have turned out to lie in between."""
    evaluated = [at for at, value in enumerate(run.series.get("eval/problems", [])) if value is not None]
    last = run.series.get("eval/accuracy", [None] * len(run.steps))[evaluated[-1]] if evaluated else 0.0
    return last is not None and all(value is None or 0 <= value <= 1 for value in shown)


def ends(run: Run, name: str) -> tuple[float | None, float | None]:
    """A curve's value at step 0, and its last one after it; None where not measured."""
    curve = run.series.get(name, [])
    untrained = curve[0] if curve and run.steps[0] <= 0 else None
    later = [value for step, value in zip(run.steps, curve, strict=False) if step > 0 and value is not None]
    return untrained, later[-1] if later else None


def measured(run: Run, name: str) -> tuple[float | None, float | None]:
    """A held-out metric before and after an offline run, from the summary; None where not measured."""
    parts = [run.summary.get(key) for key in ("before", "after")]
    before, after = (as_number(part.get(name)) if isinstance(part, dict) else None for part in parts)
    return before, after


def headline(run: Run) -> Headline | None:
    """Held-out accuracy, reward or perplexity where measured, else training reward or loss; None for an empty run."""
    what, before, after = held_out(run)
    if before is not None and after is not None:
        problems = problem_count(run)
        if what == "reward":
            counted = f"mean over {problems:,} problems" if problems else ""
            return compared("held-out reward", f"{before:.3f}", f"{after:.3f}", f"{after - before:+.3f}", 1, counted)
        small_print = interval_text(before, after, problems) if problems else ""
        change = f"{100 * (after - before):+.1f} points"
        return compared("held-out accuracy", percent(before), percent(after), change, 1, small_print)
    before, after = measured(run, "perplexity")
    if before is not None and after is not None:
        small_print = f"{problem_count(run):,} rows; exp of the mean negative log-likelihood of a token"
        change = f"{100 * (after / before - 1):+.1f}%" if before else ""
        return compared("held-out perplexity", f"{before:.2f}", f"{after:.2f}", change, -1, small_print)
    for name, metric, sign in (("reward", "reward/mean", 1), ("loss", "loss", -1)):
        values = run.values(metric)
        if len(values) > 1 and (name == "reward" or run.setting("objective")):
            return training_headline(name, values, sign)
    return None


def training_headline(name: str, values: list[float], sign: int) -> Headline:
    """The headline from both ends of a training curve; ``sign`` is -1 where less is better."""
    first, last = edges(values)
    unknown = "held-out accuracy before training is unknown" if sign > 0 else "there was no held-out evaluation"
    small_print = f"training {name}, mean of the first and the last {edge(values)} steps; {unknown}"
    return compared(f"training {name}", f"{first:.3f}", f"{last:.3f}", f"{last - first:+.3f}", sign, small_print)


def compared(what: str, before: str, after: str, change: str, sign: int, small_print: str) -> Headline:
    """The headline of two figures as they are shown: a change that shows no digit is none, whatever its sign."""
    if not any(digit in change for digit in "123456789"):
        return Headline(what, before, after, "no change", "same", small_print)
    trend = "better" if change.startswith("+") == (sign > 0) else "worse"
    return Headline(what, before, after, change, trend, small_print)


def interval_text(before: float, after: float, problems: int) -> str:
    """The 95% Wilson intervals of both accuracies, and whether they overlap."""
    low, high = (wilson_interval(min(1.0, max(0.0, rate)) * problems, problems) for rate in (before, after))
    text = f"{problems:,} problems; 95% intervals {percent(low[0])} to {percent(low[1])}, then {percent(high[0])} to {percent(high[1])}"
    overlap = low[0] <= high[1] and high[0] <= low[1]
    return text + (". They overlap: the change may be due to chance" if overlap else "")


def problem_count(run: Run) -> int:
    """Held-out problems, 0 if unknown."""
    counts = run.values("eval/problems")
    return max(
        0, int(as_number(run.summary.get("problems")) or measured(run, "problems")[1] or (counts[-1:] or [0])[0])
    )


def sentences(run: Run) -> list[str]:
    """The run's story, one fact per sentence."""
    if not run.steps:
        return ["No step has been recorded yet."]
    lines = [_opening(run)]
    what, before, after = held_out(run)
    if before is not None and after is not None:
        shown = [percent(value) if what == "accuracy" else f"{value:.3f}" for value in (before, after)]
        lines.append(moved(f"Held-out {what}", shown[0], shown[1], after > before))
    before, after = measured(run, "perplexity")
    if before is not None and after is not None:
        lines.append(moved("Held-out perplexity", f"{before:.2f}", f"{after:.2f}", after > before))
    rewards = run.values("reward/mean")
    if len(rewards) > 1:
        first, last = edges(rewards)
        lines.append(
            f"Mean training reward went from {first:.3f} (first {edge(rewards)} steps) to {last:.3f} (last {edge(rewards)})."
        )
    dead = run.values("dead_group_frac")
    if dead:
        lines.append(f"{percent(mean(dead))} of the groups taught nothing: all their rewards were equal.")
    lines.extend(agreement(run))
    lines.extend(_costs(run))
    reason = run.summary.get("stopped_because")
    if isinstance(reason, str) and reason != "all steps done":
        lines.append(f"The run ended because {reason}.")
    return [printable(line) for line in lines]


def moved(what: str, before: str, after: str, up: bool) -> str:
    """A sentence on two figures as they are shown."""
    if before == after:
        return f"{what} stayed at {after}."
    return f"{what} {'rose' if up else 'fell'} from {before} to {after}."


def _opening(run: Run) -> str:
    algorithm = run.setting("algorithm", "name") or run.setting("objective", "name")
    last, planned = run.steps[-1], planned_steps(run)
    made = f"{last:,} of {planned:,} steps" if last < planned else f"{last:,} steps"
    seconds = duration(run)
    took = f" in {span(seconds)}" if seconds else ""
    return f"{str(algorithm).upper() if algorithm else 'Training'} ran {made}{took}."


def agreement(run: Run) -> list[str]:
    """A sentence on how far engine and policy were apart at most, and what is accepted."""
    metric, accepted = ACCEPTED.get(str(run.setting("model", "dtype")), ("", 0.0))
    values = run.values(metric)
    if not values:
        return []
    measure = "largest deviation of a token's ratio from 1" if metric == "ratio/max_dev" else "mean gap of log-probs"
    verdict = "agreed" if max(values) <= accepted else "disagreed"
    return [f"Engine and policy {verdict}: {measure} {max(values):.2g}, accepted up to {accepted:g}."]


def _costs(run: Run) -> list[str]:
    total = duration(run)
    if not total or not run.values("time/step"):
        return []
    shares = {name: sum(run.values(f"time/{name}")) / total for name in ("generate", "update")}
    if not run.values("tokens/generated"):
        return [f"The update took {percent(shares['update'])} of this time."]
    return [f"Generation took {percent(shares['generate'])} of this time, the update {percent(shares['update'])}."]


def facts(run: Run) -> list[tuple[str, str]]:
    """Short facts for the header, by name."""
    dtype = run.setting("model", "dtype")
    tokens, read = sum(run.values("tokens/generated")), sum(run.values("tokens/read"))
    memory = [value for name in run.series if name.startswith("memory/") for value in run.values(name)[-1:]]
    seconds = duration(run)
    pairs = [
        ("model", short_path(run.setting("model", "path"))),
        ("task", source_name(run.setting("data", "source"))),
        *((kind, " ".join(str(part) for part in (run.setting(kind, "name"), run.setting(kind, "preset")) if part))
          for kind in ("algorithm", "objective")),
        ("backend", " ".join(str(part) for part in (run.setting("backend"), dtype) if part)),
        ("steps", f"{run.steps[-1]:,}" if run.steps else "0"),
        ("duration", span(seconds) if seconds else ""),
        ("tokens generated", f"{tokens:,.0f}" if tokens else ""),
        ("tokens read", f"{read:,.0f}" if read else ""),
        ("peak memory", f"{max(memory):,.0f} MB" if memory else ""),
    ]  # fmt: skip
    return [(name, text) for name, text in pairs if text]


def remarks(run: Run) -> list[Remark]:
    """The run's own warnings and the problems that its numbers show, most serious first."""
    listed = [Remark("error", f"The run stopped itself: {run.failure}")] if run.failure else []
    for name, steps in run.not_finite.items():
        listed.append(Remark("error", f"{name} was not finite at {counted(steps)}."))
    listed += _reward_remarks(run)
    if not run.summary:
        listed.append(
            Remark("warning", f"{unfinished(run)} There is no summary.json: the run is still going or was interrupted.")
        )
    warnings = run.summary.get("warnings")
    notes = [str(text) for text in warnings] if isinstance(warnings, list) else []
    listed += [Remark("warning", text) for text in notes if text.startswith("alarm ")]
    listed += [Remark("note", text) for text in notes if not text.startswith("alarm ")]
    if run.skipped:
        listed.append(Remark("note", f"Not on this page: {'; '.join(run.skipped)}."))
    return [Remark(remark.level, printable(remark.text)) for remark in listed]


def _reward_remarks(run: Run) -> list[Remark]:
    listed = []
    for name in run.series:
        failures = sum(run.values(name)) if name.startswith("reward/failures/") else 0
        if failures:
            component = name.removeprefix("reward/failures/")
            listed.append(
                Remark(
                    "warning",
                    f"Reward {component!r} failed on {failures:,.0f} samples; they were given its failure value.",
                )
            )
    dead = run.series.get("dead_group_frac", [])
    all_dead = [step for step, value in zip(run.steps, dead, strict=False) if value == 1.0]
    if all_dead:
        listed.append(Remark("warning", f"All groups were dead at {counted(all_dead)}: nothing was learned."))
    truncated = run.values("truncated_frac")[-EDGE:]
    if truncated and mean(truncated) > 0.5:
        listed.append(
            Remark(
                "warning",
                f"{percent(mean(truncated))} of the completions in the last steps were cut at the token limit.",
            )
        )
    return listed


def legend(run: Run) -> str:
    """The meaning of the rollout browser's numbers in an offline run; empty for an online run."""
    if not run.setting("objective"):
        return ""
    return "These are held-out rows. Reward: the score of the row; advantage: the log-ratio to the reference policy, or a reward model's value."


def when_kept(run: Run) -> str:
    """A hint on when completions, or held-out rows, are written to disk."""
    if run.setting("objective"):
        return "Held-out rows are written at each evaluation if eval.source is set."
    return "They are written every tracking.rollouts_every steps."


def unfinished(run: Run) -> str:
    """The progress of an unfinished run."""
    planned = planned_steps(run)
    last = run.steps[-1] if run.steps else 0
    return f"Step {last:,} of {planned:,}." if planned else f"Step {last:,}."


def planned_steps(run: Run) -> int:
    """``train.steps`` of the configuration, or the steps that its epochs come to; 0 if unknown."""
    steps, epochs = run.setting("train", "steps"), as_number(run.setting("train", "epochs"))
    done = [(step, epoch) for step, epoch in zip(run.steps, run.series.get("epoch", []), strict=False) if epoch]
    if steps is None and epochs is not None and done:
        return max(run.steps[-1], math.ceil(round(epochs * done[-1][0] / done[-1][1], 6)))
    return steps if isinstance(steps, int) and not isinstance(steps, bool) else 0


def duration(run: Run) -> float:
    """Seconds that the run took. The summary counts the last process only, so the steps may add up to more."""
    return max(as_number(run.summary.get("seconds")) or 0.0, sum(run.values("time/step")))


def counted(steps: list[int]) -> str:
    """``step 3`` or ``12 steps (first 3, last 40)``."""
    return (
        f"step {steps[0]:,}" if len(steps) == 1 else f"{len(steps):,} steps (first {min(steps):,}, last {max(steps):,})"
    )


def edge(values: list[float]) -> int:
    """Steps averaged at each end: at most half of them."""
    return max(1, min(EDGE, len(values) // 2))


def edges(values: list[float]) -> tuple[float, float]:
    """Mean of the first and of the last few values."""
    count = edge(values)
    return mean(values[:count]), mean(values[-count:])


def mean(values: list[float]) -> float:
    """Arithmetic mean of a non-empty list."""
    return sum(values) / len(values)


def percent(fraction: float) -> str:
    """A fraction as percent with one decimal."""
    return f"{100 * fraction:.1f}%"


def span(seconds: float) -> str:
    """Seconds in words of two units: ``4 min 12 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def short_path(value: Any) -> str:
    """The last part of a path or hub id."""
    return str(value).rstrip("/").split("/")[-1] if value else ""


def source_name(source: Any) -> str:
    """A data source as one short text, or the names of several."""
    if isinstance(source, list) or (isinstance(source, dict) and source and "name" not in source):
        return ", ".join(one.name for one in named_sources(source))
    name = source.get("name") if isinstance(source, dict) else source
    return short_path(name)
