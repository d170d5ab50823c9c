"""The curves of the report, with their order and captions. A metric that no chart names gets a chart of its own."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import accumulate, chain
from typing import Any

from .reading import Run
from .safety import marked
from .words import is_accuracy

PHASES = ("generate", "reward", "logps", "values", "update", "sync", "eval", "save", "compile")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One set of axes.

    Attributes:
        metrics: metric names or patterns, drawn in this order.
        says: the caption: what to look for, in one line.
        stacked: the series are parts of a whole and drawn as stacked bars.
        percent: the values are fractions and shown as percentages.
        zero: the axis includes 0.
        wide: the chart takes two columns.
    """

    section: str
    title: str
    says: str
    metrics: tuple[str, ...]
    stacked: bool = False
    percent: bool = False
    zero: bool = True
    wide: bool = False


CHARTS = (
    Chart(section="Learning", title="Reward", says="Mean over the step's completions; each component before weighting.",
          metrics=("reward/mean", "reward/*/mean"), wide=True),
    Chart(section="Learning", title="Held-out accuracy", says="Share of right answers (or of pairs ranked right) on rows never trained on; 95% interval.", metrics=("eval/accuracy", "eval/pass@*"), percent=True),
    Chart(section="Learning", title="Reward spread", says="Standard deviation over the completions.", metrics=("reward/std",)),
    Chart(section="Learning", title="Held-out reward", says="Mean over rows never trained on; each component before weighting.", metrics=("eval/reward/mean", "eval/*/mean")),
    Chart(section="Learning", title="Perplexity", says="exp of the mean negative log-likelihood of a token.",
          metrics=("perplexity", "eval/perplexity"), zero=False),
    Chart(section="Learning", title="Accuracy in training", says="Share of the batch's rows ranked or judged right, before the step.",
          metrics=("accuracy",), percent=True),
    Chart(section="Learning", title="Rewards", says="Implicit rewards: beta × log-ratio to the reference policy.",
          metrics=("reward/chosen", "reward/rejected", "reward/desirable", "reward/undesirable")),
    Chart(section="Learning", title="Held-out implicit rewards", says="The same on rows never trained on.", metrics=("eval/reward/*",)),
    Chart(section="Learning", title="Scores", says="Scores that the reward model gives.", metrics=("score", "score/*", "eval/score", "eval/score/*")),
    Chart(section="Learning", title="Margin", says="Chosen minus rejected.", metrics=("margin", "eval/margin")),
    Chart(section="Learning", title="Log-probs", says="Log-probs of whole completions; both may fall, chosen should fall less.",
          metrics=("logp/*", "eval/logp/*")),
    Chart(section="Learning", title="Calibration error", says="|confidence − accuracy|; at 0 a score difference means the probability it implies.",
          metrics=("eval/ece",), percent=True),
    Chart(section="Safety", title="Safety, held-out", says="Harmful prompts complied with, benign ones refused; with 95% intervals.",
          metrics=("eval/safety/harmful_compliance", "eval/safety/over_refusal"), percent=True, wide=True),
    Chart(section="Safety", title="Safety, training prompts", says="The same rates on sampled completions.",
          metrics=("safety/harmful_compliance", "safety/over_refusal"), percent=True, wide=True),
    Chart(section="Optimisation", title="Loss", says="Online it hovers near 0: watch for jumps. Offline it should fall.",
          metrics=("loss", "eval/loss"), zero=False),
    Chart(section="Optimisation", title="KL", says="Distance from the reference policy, per token.", metrics=("kl/*",)),
    Chart(section="Optimisation", title="Entropy", says="Nats per token; at 0 exploration has ended.", metrics=("entropy",)),
    Chart(section="Optimisation", title="Gradient norm", says="Before clipping.", metrics=("grad_norm",)),
    Chart(section="Optimisation", title="Ratio, largest deviation", says="Largest |ratio − 1| of any token. First update: below 0.01 in float32; in bfloat16 single tokens scatter, and the rollout gap counts.",
          metrics=("ratio/max_dev", "ratio/max_*")),
    Chart(section="Optimisation", title="Rollout gap", says="Mean |log-prob in training − log-prob when sampled|; in bfloat16 accepted up to 0.2.", metrics=("ratio/rollout_gap",)),
    Chart(section="Optimisation", title="Clipped tokens", says="Share of tokens whose ratio lies outside the clip range.", metrics=("clip_frac/*",), percent=True),
    Chart(section="Optimisation", title="Learning rate", says="As scheduled.", metrics=("lr",)),
    Chart(section="Rollouts", title="Dead groups", says="Share of groups whose rewards are all equal: nothing to learn.", metrics=("dead_group_frac",), percent=True),
    Chart(section="Rollouts", title="Completion length", says="Tokens per completion.", metrics=("length/*", "eval/length")),
    Chart(section="Rollouts", title="Repetition", says="Share of a completion that repeats earlier text.", metrics=("repetition", "eval/repetition"), percent=True),
    Chart(section="Rollouts", title="Truncated", says="Share of completions cut at the token limit.", metrics=("truncated_frac", "eval/truncated_frac"), percent=True),
    Chart(section="Rollouts", title="Turns", says="Turns of the model in a rollout.", metrics=("environment/turns", "eval/environment/turns")),
    Chart(section="Rollouts", title="Tool use", says="Share of rollouts with a call, and of calls that failed.", metrics=("environment/used_frac", "environment/failed_calls"), percent=True),
    Chart(section="Rollouts", title="Tokens per step", says="Generated or read, and trained on.",
          metrics=("tokens/generated", "tokens/read", "tokens/trained")),
    Chart(section="Rollouts", title="Generation rounds", says="Rounds of sampling per step; above 1 where dead groups are replaced.", metrics=("generation_rounds",)),
    Chart(section="Rollouts", title="Reward failures", says="Samples whose reward crashed, hung or was not finite.", metrics=("reward/failures/*",)),
    Chart(section="Rollouts", title="Unscored", says="Share of completions to which no reward component applied.", metrics=("reward/unscored_frac",), percent=True),
    Chart(section="Cost", title="Time per step", says="Seconds by phase.",
          metrics=(*(f"time/{phase}" for phase in PHASES), "time/other"), stacked=True, wide=True),
    Chart(section="Cost", title="Speed", says="Tokens generated or read per second, over the whole step.", metrics=("tokens/second",)),
    Chart(section="Cost", title="Memory", says="Peak, in MB.", metrics=("memory/*",)),
)  # fmt: skip

# Drawn under another name, or of no interest by themselves.
UNPLOTTED = (
    "time/step", "updates", "prompts", "rows", "eval/problems", "eval/unscored", "epoch", "ratio/mean", "nll", "eval/nll", "label", "eval/label",
    "desirable", "undesirable", "eval/desirable", "eval/undesirable", "eval/baseline",
)  # fmt: skip
LABELS = {
    "reward/mean": "reward",
    "ratio/max_dev": "first update",
    "ratio/max_update_dev": "all updates",
    "memory/peak_rss_mb": "host",
    "memory/peak_device_mb": "device",
    "eval/length": "held-out mean",
    "eval/truncated_frac": "held-out",
    "eval/reward/mean": "reward",
    "baseline": "KL of mismatched completions",
    **{
        f"{split}safety/{rate}": rate.replace("_", " ")
        for split in ("", "eval/")
        for rate in ("harmful_compliance", "over_refusal")
    },
}
# Written as text or shaded, not drawn as curves.
BESIDE = (
    "alarm/*",
    "eval/accuracy/*",
    "*safety/by_phrases",
    "*safety/*/low",
    "*safety/*/high",
    "*safety/*/prompts",
    "*safety/*/unjudged",
)
HIDDEN_WHILE_ZERO = ("time/", "kl/", "reward/failures/", "reward/unscored_frac")


def chart_data(run: Run) -> dict[str, Any]:
    """Steps, series and charts as the page's script reads them. Empty series and empty charts are left out."""
    series = {name: values for name, values in run.series.items() if any(value is not None for value in values)}
    series.update(derived(run))
    left = dict.fromkeys(
        name for name in series if name not in UNPLOTTED and not any(fnmatchcase(name, one) for one in BESIDE)
    )
    if not is_accuracy(run):  # a reward that happened to be 0 or 1 at first
        left = {name: None for name in left if not name.startswith(("eval/accuracy", "eval/pass@"))}
    charts: list[dict[str, Any]] = []
    for chart in CHARTS:
        names = [name for name in matching(chart.metrics, left) if worth_drawing(name, series)]
        for name in matching(chart.metrics, left):
            left.pop(name)
        if names:
            charts.append(described(chart, names, run))
    for name in left:
        charts.append(described(Chart(section="Other", title=name, says="", metrics=(name,), zero=False), [name], run))
    used = {name for chart in charts for name in (*chart["series"], *chain(*chart["bands"].values()))}
    return {
        "steps": run.steps,
        "series": {name: [shortened(value) for value in values] for name, values in series.items() if name in used},
        "charts": charts,
        "across": across(run),
    }


def matching(patterns: tuple[str, ...], names: dict[str, None]) -> list[str]:
    """Names that match a pattern, in the order of the patterns."""
    return list(dict.fromkeys(name for pattern in patterns for name in names if fnmatchcase(name, pattern)))


def worth_drawing(name: str, series: dict[str, list[float | None]]) -> bool:
    """False for what never happened (failures, phases without time, a second round) and for a copy of the accuracy."""
    if name == "generation_rounds":
        return any(value not in (None, 1.0) for value in series[name])
    if name == "eval/reward/mean":  # of a single component
        return all(series[name] != values for other, values in series.items() if is_component(other))
    if is_component(name):
        return series[name] != series.get("eval/accuracy")
    return any(series[name]) or not name.startswith(HIDDEN_WHILE_ZERO)


def is_component(name: str) -> bool:
    """True for the held-out mean of a reward component."""
    return name.startswith("eval/") and name.endswith("/mean") and name != "eval/reward/mean"


def across(run: Run) -> dict[str, list[float]]:
    """What a curve can be drawn over: steps, and where they were measured tokens, epochs and minutes up to each step."""
    axes: dict[str, list[float]] = {"step": [float(step) for step in run.steps]}
    if not run.steps or run.steps[-1] - run.steps[0] >= len(run.steps):  # steps are missing, so sums would be too small
        return axes
    for name, metric, unit in (
        ("tokens", "tokens/generated", 1.0), ("tokens", "tokens/read", 1.0), ("minutes", "time/step", 60.0),
    ):  # fmt: skip
        if run.values(metric):
            sums = accumulate((value or 0.0) / unit for value in run.series[metric])
            axes[name] = [float(f"{value:.6g}") for value in sums]
    epochs = run.series.get("epoch", [])
    if any(epochs):
        axes["epochs"] = [value or 0.0 for value in epochs]
    return axes


def described(chart: Chart, names: list[str], run: Run) -> dict[str, Any]:
    """A chart for the page's script."""
    return {
        "section": chart.section,
        "title": chart.title,
        "says": chart.says,
        "series": names,
        "labels": [label(name) for name in names],
        "stacked": chart.stacked,
        "percent": chart.percent,
        "zero": chart.zero,
        "wide": chart.wide,
        "bands": {name: [f"{name}/low", f"{name}/high"] for name in names if f"{name}/low" in run.series},
        "alarms": marked(run, names),
    }


def label(name: str) -> str:
    """A metric's short name within its chart."""
    if name in LABELS:
        return LABELS[name]
    if name in ("eval/loss", "eval/margin", "eval/perplexity", "eval/score") or name.startswith(
        ("eval/reward/", "eval/score/", "eval/logp/")
    ):
        return "held-out" if name.count("/") == 1 else f"held-out {name.rsplit('/', 1)[1]}"
    for head in ("reward/failures/", "reward/", "eval/"):
        if name.startswith(head):
            return name.removeprefix(head).removesuffix("/mean")
    return name.split("/", 1)[-1].replace("_", " ")


def derived(run: Run) -> dict[str, list[float | None]]:
    """Series computed from others: time outside the named phases, and speed."""
    total, tokens = run.series.get("time/step"), run.series.get("tokens/generated")
    if total is None:
        return {}
    phases = [run.series[f"time/{phase}"] for phase in PHASES if f"time/{phase}" in run.series]
    spent = [sum(phase[at] or 0.0 for phase in phases) for at in range(len(total))]
    other = [None if seconds is None else max(0.0, seconds - part) for seconds, part in zip(total, spent, strict=True)]
    made: dict[str, list[float | None]] = {"time/other": other}
    tokens = run.series.get("tokens/read") if tokens is None else tokens
    if tokens is not None:
        pairs = zip(tokens, total, strict=True)
        made["tokens/second"] = [count / seconds if count is not None and seconds else None for count, seconds in pairs]
    return made


def shortened(value: float | None) -> float | None:
    """Round to five significant digits, all that a screen can show."""
    return None if value is None else float(f"{value:.5g}")
