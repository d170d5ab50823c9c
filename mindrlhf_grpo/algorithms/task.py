"""What can be learned from rows that are there, by name: which rows, which loss, which model, what it needs before.

``resolve_objective`` turns the configuration into a ``Task``; trainer and backends know nothing of objectives beyond
it. A key set in the configuration wins over the preset, that over the loss's own value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Protocol

from ..backend import Loss
from ..config.offline import ObjectiveConfig, OfflineConfig
from ..data.row_encoders import Encoder, encode_labelled, encode_pair, encode_supervised
from ..errors import ConfigError, did_you_mean
from ..losses import preference, reward_model
from ..losses.supervised import NegativeLogLikelihood
from ..types import FloatArray
from .batch_constants import Preparation, baseline, mean_ratio, partners, unpaired_partners


class OfflineLoss(Loss, Protocol):
    """A loss with what a trainer asks about it.

    Attributes:
        counted_by: the sum that the others are divided by in metrics: ``pairs``, ``rows``, ``tokens``.
    """

    counted_by: ClassVar[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """One entry of ``OBJECTIVES``.

    Attributes:
        rows: the kind of rows: ``conversations``, ``pairs``, ``labelled``.
        model: whether a policy learns, or a model of values (a reward model).
        prepare: makes the numbers of rows that depend on the whole batch, before an update.
        peers: who has it, and under which name.
    """

    name: str
    rows: Literal["conversations", "pairs", "labelled"]
    loss: Callable[..., OfflineLoss]
    model: Literal["policy", "value"]
    source: str
    peers: str
    prepare: Preparation | None = None


ENCODERS: dict[str, Encoder] = {
    "conversations": encode_supervised,
    "pairs": encode_pair,
    "labelled": encode_labelled,
}


def paired(
    name: str, loss: Callable[..., OfflineLoss], source: str, peers: str, prepare: Preparation | None = None
) -> Objective:
    """A preference loss of a policy."""
    return Objective(name=name, rows="pairs", loss=loss, model="policy", source=source, peers=peers, prepare=prepare)


ENTRIES = (
    Objective(name="sft", rows="conversations", loss=NegativeLogLikelihood, model="policy",
              source="maximum likelihood", peers="trl SFTTrainer; openrlhf train_sft; mindrlhf SFT"),
    paired("sigmoid", preference.Sigmoid, "arXiv:2305.18290", "trl sigmoid"),
    paired("cdpo", preference.CDPO, "ericmitchell.ai/cdpo.pdf", "openrlhf, mindrlhf: sigmoid with label_smoothing"),
    paired("robust", preference.Robust, "arXiv:2403.00409", "trl, mindrlhf: robust"),
    paired("hinge", preference.Hinge, "arXiv:2305.10425", "trl, mindrlhf: hinge"),
    paired("ipo", preference.IPO, "arXiv:2310.12036", "trl: ipo (per token)"),
    paired("ipo_sum", preference.IPOSum, "arXiv:2310.12036", "openrlhf --ipo; mindrlhf: ipo (sums)"),
    paired("sigmoid_norm", preference.SigmoidNorm, "arXiv:2405.14734", "trl: sigmoid_norm; mindrlhf: DPOLossV2"),
    paired("apo_zero", preference.APOZero, "arXiv:2408.06266", "trl, mindrlhf: apo_zero"),
    paired("apo_down", preference.APODown, "arXiv:2408.06266", "trl, mindrlhf: apo_down"),
    paired("nca_pair", preference.NCAPair, "arXiv:2402.05369", "trl, mindrlhf: nca_pair"),
    paired("bco_pair", preference.BCOPair, "arXiv:2404.04656", "trl: bco_pair (mindrlhf: with a running mean)", mean_ratio),
    paired("sppo_hard", preference.SPPOHard, "arXiv:2405.00675", "trl, mindrlhf: sppo_hard"),
    paired("aot", preference.AOT, "arXiv:2406.05882", "trl: aot", partners),
    paired("aot_unpaired", preference.AOTUnpaired, "arXiv:2406.05882", "trl: aot_unpaired; mindrlhf: aot_pair", unpaired_partners),
    paired("exo_pair", preference.EXOPair, "arXiv:2402.00856", "trl, mindrlhf: exo_pair"),
    paired("discopop", preference.DiscoPOP, "arXiv:2406.08414", "trl: discopop"),
    paired("simpo", preference.SimPO, "arXiv:2405.14734", "trl: CPO simpo"),
    paired("orpo", preference.ORPO, "arXiv:2403.07691", "trl: ORPO"),
    Objective(name="kto", rows="labelled", loss=preference.KTO, model="policy", source="arXiv:2402.01306",
              peers="trl: kto; openrlhf train_kto", prepare=baseline),
    Objective(name="bradley_terry", rows="pairs", loss=reward_model.BradleyTerry, model="value",
              source="arXiv:2203.02155", peers="trl RewardTrainer; openrlhf --loss sigmoid"),
    Objective(name="logexp", rows="pairs", loss=reward_model.LogExp, model="value",
              source="arXiv:2204.05862", peers="openrlhf --loss logexp"),
    Objective(name="bce", rows="labelled", loss=reward_model.BinaryCrossEntropy, model="value",
              source="cross-entropy", peers="trl: PRM-like labels on whole completions"),
)  # fmt: skip
OBJECTIVES: dict[str, Objective] = {entry.name: entry for entry in ENTRIES}
ALIASES = {"dpo": "sigmoid", "aot_pair": "aot_unpaired", "reward_model": "bradley_terry", "rm": "bradley_terry"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Instead:
    """What a peer computes under a name: which objective of ours, with which numbers."""

    objective: str
    values: Mapping[str, float]


# Only where a peer differs from what stands under the same name here.
PRESETS: dict[str, dict[str, Instead]] = {
    "trl": {"simpo": Instead(objective="simpo", values={"beta": 0.1, "gamma": 0.5, "sft_coef": 1.0})},
    "openrlhf": {
        "sigmoid": Instead(objective="cdpo", values={"beta": 0.1, "label_smoothing": 0.0}),
        "ipo": Instead(objective="ipo_sum", values={"beta": 0.1}),
    },
    "mindrlhf": {
        "sigmoid": Instead(objective="sigmoid_norm", values={"beta": 0.1}),
        "ipo": Instead(objective="ipo_sum", values={"beta": 0.1}),
    },
    "mindrlhf_v1": {
        "sigmoid": Instead(objective="cdpo", values={"beta": 0.1, "label_smoothing": 0.0}),
        "ipo": Instead(objective="ipo_sum", values={"beta": 0.1}),
    },
}
OPTIONS = (
    "beta", "label_smoothing", "reference_free", "sft_coef", "gamma", "tau", "desirable", "undesirable", "centering"
)  # fmt: skip


DIVISORS = {"reward_desirable": "desirable", "reward_undesirable": "undesirable"}  # else what the loss counts by


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """An objective with its numbers.

    Attributes:
        loss: called as ``loss(xp, outputs, tensors)``.
        needs_reference: whether the batch carries the reference's log-probs.
    """

    objective: Objective
    loss: OfflineLoss
    needs_reference: bool

    @property
    def pairs(self) -> bool:
        return self.objective.rows == "pairs"

    @property
    def encoder(self) -> Encoder:
        return ENCODERS[self.objective.rows]

    @property
    def headline(self) -> str:
        """The held-out figure a run is judged by; of ``nll`` less is better."""
        return "nll" if self.loss.counted_by == "tokens" else "accuracy"

    @property
    def better(self) -> int:
        """1 where more of the headline figure is better, else -1."""
        return -1 if self.headline == "nll" else 1

    def threshold(self, tensors: Mapping[str, Any]) -> Any:
        """Score above which a single row counts as good ``[N]``, or 0."""
        threshold = getattr(self.loss, "threshold", None)
        return 0.0 if threshold is None else threshold(tensors)

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Metrics from the sums of a loss: means over pairs, rows or tokens."""
        figures: dict[str, float] = {}
        for name, total in sums.items():
            divisor = DIVISORS.get(name, self.loss.counted_by)
            if name not in ("tokens", "entropy", divisor):
                figures[name.replace("_", "/", 1)] = total / max(1.0, sums.get(divisor, 0.0))
        if "nll" in figures:
            figures["perplexity"] = math.exp(min(50.0, figures["nll"]))
        return figures

    def scores(self, xp: Any, outputs: Any, tensors: Mapping[str, Any]) -> FloatArray | None:
        """Reward of each row ``[N]``; None where the loss gives none."""
        scores = getattr(self.loss, "scores", None)
        found: FloatArray | None = None if scores is None else scores(xp, outputs, tensors)
        return found


def objective_of(config: ObjectiveConfig) -> tuple[Objective, Mapping[str, float]]:
    """The objective a configuration names, and the numbers its preset fills in.

    Raises:
        ConfigError: unknown name or preset.
    """
    name = ALIASES.get(config.name, config.name)
    if name not in OBJECTIVES:
        raise ConfigError(unknown("objective.name", config.name, [*OBJECTIVES, *ALIASES]))
    if config.preset is None:
        return OBJECTIVES[name], {}
    if config.preset not in PRESETS:
        raise ConfigError(unknown("objective.preset", config.preset, list(PRESETS)))
    instead = PRESETS[config.preset].get(name, Instead(objective=name, values={}))
    return OBJECTIVES[instead.objective], instead.values


def resolve_objective(config: OfflineConfig) -> Task:
    """The task a configuration asks for.

    Raises:
        ConfigError: unknown name or preset, an option its loss does not read, or settings that do not go together.
    """
    objective, values = objective_of(config.objective)
    explicit = {name: getattr(config.objective, name) for name in OPTIONS}
    given = {name: value for name, value in explicit.items() if value is not None}
    read = options_of(objective)
    for name in given:
        if name not in read:
            raise ConfigError(not_read(name, objective))
    loss = objective.loss(**{**values, **given})
    compared = getattr(loss, "compared", False) and not getattr(loss, "reference_free", False)
    task = Task(objective=objective, loss=loss, needs_reference=bool(compared))
    check_task(task, config)
    return task


def check_task(task: Task, config: OfflineConfig) -> None:
    """Refuse combinations that would not do what they say."""
    objective, stored = task.objective, config.objective.reference_logps == "stored"
    if stored and not task.needs_reference:
        raise ConfigError(
            f"objective.reference_logps: stored does not go with {objective.name}, which has no reference"
        )
    if stored and objective.rows != "pairs":
        raise ConfigError(
            f"objective.reference_logps: stored does not go with {objective.name}: its baseline asks the reference about "
            "other completions in every batch; set on_the_fly"
        )
    if objective.prepare is baseline and config.train.prompts_per_step < 2:
        raise ConfigError(
            f"train.prompts_per_step is 1: {objective.name} estimates its baseline on completions of other rows of the "
            "batch and needs at least 2"
        )
    if "margin" in config.data.columns and objective.name != "bradley_terry":
        raise ConfigError(f"data.columns names a margin, which {objective.name} does not read; bradley_terry does")


def options_of(objective: Objective) -> tuple[str, ...]:
    """The options of a configuration that its loss reads."""
    names = {field.name for field in fields(objective.loss)}  # type: ignore[arg-type]
    return tuple(name for name in OPTIONS if name in names)


def not_read(option: str, objective: Objective) -> str:
    """Why an option is refused."""
    readers = ", ".join(name for name, entry in OBJECTIVES.items() if option in options_of(entry))
    text = f"objective.{option} is not read by {objective.name}; accepted with: {readers}"
    if option == "label_smoothing" and objective.name == "sigmoid":
        text += " (TRL accepts it with sigmoid and ignores it; OpenRLHF's and MindRLHF's sigmoid is cdpo here)"
    return text


def unknown(key: str, value: str, known: list[str]) -> str:
    """The message for a name that does not exist, with the nearest one that does."""
    return f"{key} {value!r} is unknown{did_you_mean(value, known)}; there are {', '.join(known)}"
