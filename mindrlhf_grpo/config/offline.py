"""The configuration of training on a fixed dataset: supervised fine-tuning, preferences, reward models.

A file whose top level has ``objective`` is one of these. Sections that mean the same as online are the same classes;
a row counts as one prompt, so ``train.prompts_per_step`` is the number of rows of an optimizer step.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from .algorithm import PretrainingConfig
from .parallel import ParallelConfig
from .paths import FolderPath, PathText, Source
from .rendering import RenderingConfig
from .run import CheckpointConfig, HeldOutConfig, ModelConfig, RolloutConfig, RunConfig, TrackersConfig, TrainConfig
from .section import Section, key

PARTS = ("prompt", "completion", "messages", "text", "chosen", "rejected", "label", "margin", "tools")


class OfflineDataConfig(Section):
    """The source of rows, and how they become tokens."""

    source: Source = key(
        ...,
        "JSONL, JSON, CSV, parquet or Arrow file, datasets folder, hub:NAME, or a function (pkg.module:function or file.py:function); with arguments as a mapping: {name: SOURCE, argument: value}. Several: a list of these, or of {source: SOURCE, name: NAME, weight: SHARE} (docs/data.md).",
        peers="trl: train_dataset; openrlhf: --dataset; mindrlhf: --dataset_file",
    )
    columns: dict[str, str] = key(
        {},
        "Other names of the parts of a row: {prompt: question, chosen: good}. Parts: prompt, completion, messages, text, chosen, rejected, label, margin, tools; a margin is read only where it is named.",
        peers="openrlhf: --input_key, --output_key, --chosen_key, --rejected_key",
    )
    system_prompt: str | None = key(None, "System message put before every prompt.")
    chat_template: PathText = key(
        "auto",
        "auto: the tokenizer's, if it has one; none: plain text; or a Jinja file.",
        peers="openrlhf: --apply_chat_template",
    )
    max_tokens: int = key(
        2048, "Longest prompt with completion, in tokens.", peers="trl: max_length; openrlhf: --max_len", ge=2
    )
    overlong: Literal["error", "drop", "truncate"] = key(
        "error",
        "Treatment of a longer row; truncate cuts the completion at its end, and drops a row of which nothing would be left, or a pair that would become equal.",
        peers="trl: truncation_mode",
    )
    bad_rows: Literal["stop", "skip"] = key(
        "stop",
        "A row that cannot be used (empty or equal completions among them) stops the run, or is skipped and counted.",
    )
    shuffle: bool = key(True, "Draw rows in a seeded random order, anew each epoch.")
    turns: Literal["together", "apart"] = key(
        "together",
        "Conversations of objective sft: together trains all assistant messages of a row in one example; apart makes an example of each, for templates that write earlier turns otherwise (Qwen3 drops their thoughts).",
    )
    trained: Literal["answers", "all"] = key(
        "answers",
        "Tokens that objective sft learns: answers are completions and assistant messages; all are those of the prompt and of other roles too. Rows of text alone are learned whole.",
        peers="trl: completion_only_loss, assistant_only_loss",
    )
    rendering: RenderingConfig | None = key(None, "Details of rendering rows as text; null: the defaults.")

    @property
    def rendered(self) -> RenderingConfig:
        """The details of rendering, defaults included."""
        return self.rendering or RenderingConfig()


class ObjectiveConfig(Section):
    """The objective that is learned from the rows. Keys left at null take the value of the preset, else of the objective."""

    name: str = key(
        ...,
        "sft; dpo and its family, simpo, orpo, kto; bradley_terry, logexp, bce for reward models (docs/algorithms.md lists all); or your own, file.py:thing or pkg.module:thing.",
        peers="trl: loss_type; openrlhf: --loss",
    )
    preset: str | None = key(
        None, "A peer's version of this objective: trl, openrlhf, mindrlhf (DPOLossV2), mindrlhf_v1 (DPOLoss)."
    )
    beta: float | None = key(
        None, "Strength of the preference, or of the reference's hold.", peers="trl, openrlhf, mindrlhf: beta", gt=0
    )
    label_smoothing: float | None = key(
        None, "Share of pairs taken to be the wrong way round.", peers="trl, openrlhf: label_smoothing", ge=0, lt=0.5
    )
    reference_free: bool | None = key(
        None, "Compare log-probs instead of log-ratios to a reference.", peers="trl, mindrlhf: reference_free"
    )
    sft_coef: float | None = key(
        None,
        "Weight of the chosen completions' negative log-likelihood (mean over tokens) beside the preference.",
        peers="trl: rpo_alpha, cpo_alpha; openrlhf: --nll_loss_coef; mindrlhf: alpha",
        ge=0,
    )
    gamma: float | None = key(None, "SimPO's target margin.", peers="trl: simpo_gamma", ge=0)
    tau: float | None = key(None, "DiscoPOP's temperature.", peers="trl: discopop_tau", gt=0)
    desirable: float | None = key(None, "Weight of desirable rows in KTO.", peers="trl: desirable_weight", ge=0)
    undesirable: float | None = key(None, "Weight of undesirable rows in KTO.", peers="trl: undesirable_weight", ge=0)
    centering: float | None = key(
        None, "Draws a reward model's scores around 0.", peers="trl: center_rewards_coefficient", ge=0
    )
    reference_logps: Literal["on_the_fly", "stored"] = key(
        "on_the_fly",
        "Log-probs of the reference: with each batch, or once before training, kept in the run folder (no second copy of the weights).",
        peers="trl: precompute_ref_log_probs",
    )


class OfflineConfig(Section):
    """A run on a fixed dataset."""

    backend: str = key("torch", "torch, mindspore, or another installed backend.")
    run_dir: FolderPath = key(
        Path("runs/default"),
        "Folder of everything the run writes; an unfinished run in it is resumed.",
        peers="trl: output_dir; openrlhf: --save_path",
    )
    seed: int = key(0, "Seed of data order, and of weights that start at random.", ge=0, lt=2**63)
    model: ModelConfig = key(..., "The model that learns; untrained, it is the reference.")
    data: OfflineDataConfig = key(..., "Training rows.")
    objective: ObjectiveConfig = key(..., "The objective that is learned from them.")
    train: TrainConfig = key(TrainConfig(), "Steps and optimizer; a row counts as one prompt.")
    eval: HeldOutConfig = key(HeldOutConfig(), "Held-out rows.")
    checkpoint: CheckpointConfig = key(CheckpointConfig(), "Checkpoints.")
    tracking: TrackersConfig = key(TrackersConfig(), "Trackers.")
    parallel: ParallelConfig | None = key(None, "Division of weights over ranks; null: each rank holds all.")

    @property
    def rollout(self) -> RolloutConfig:
        """Sampling limits that a backend sizes itself by: at most two completions per row, none longer than a row."""
        return RolloutConfig(group_size=2, max_tokens=self.data.max_tokens)

    @property
    def critic(self) -> None:
        """No critic: nothing here has values."""
        return

    @model_validator(mode="after")
    def _consistent(self) -> OfflineConfig:
        broken = list(self._broken_rules())
        if broken:
            raise ValueError("\n".join(broken))
        return self

    def _broken_rules(self) -> Iterator[str]:
        """Conflicts between keys; each text starts with the key to change."""
        for part in self.data.columns:
            if part not in PARTS:
                yield f"data.columns names the part {part!r}; there are {', '.join(PARTS)}"
        yield from self.train.lengths()
        yield from self.eval.without_source("rows")
        if self.eval.patience and not self.eval.every:
            yield "eval.patience needs eval.every: it counts the evaluations during training"
        if self.checkpoint.keep_best and self.eval.source is None:
            yield "checkpoint.keep_best needs eval.source, the held-out rows"


def mixed_rows(config: RunConfig, settings: PretrainingConfig) -> OfflineDataConfig:
    """The data section of an online run's pretraining rows, which are read like its prompts."""
    return OfflineDataConfig(
        source=settings.source, chat_template=config.data.chat_template,
        rendering=config.data.rendering, system_prompt=config.data.system_prompt,
        max_tokens=settings.max_tokens, overlong="drop", bad_rows=config.data.bad_rows,
    )  # fmt: skip
