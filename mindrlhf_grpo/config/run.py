"""The configuration of an online run: typed sections whose keys each have a description.

``mindrlhf-grpo explain`` lists and counts the keys; ``explain KEY`` prints a key's description, and ``peers``, its names
in other frameworks. Reading YAML, overrides and error messages with line numbers are in ``config/file.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from .algorithm import AlgorithmConfig, CriticConfig, ItemsConfig
from .environment import EnvironmentConfig
from .parallel import EngineParallelConfig, ParallelConfig, SwapConfig
from .paths import FolderPath, OptionalSource, PathText, Source
from .rendering import RenderingConfig
from .section import LARGEST_COUNT, LARGEST_GROUP, LARGEST_RATE, Decay, Section, Unit, key
from .vision import FreezeConfig, ImagesConfig

ENDING = ("linear", "cosine")  # schedules that end at the last step
WarmUp = Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, lt=1)]


class ModelConfig(Section):
    """The policy and how it is held in memory."""

    path: PathText = key(
        ...,
        "Folder or hub id of a Hugging Face causal LM; or a run or checkpoint, whose policy it is (LoRA: over its base).",
        peers="trl: model; verl: actor_rollout_ref.model.path; openrlhf: --pretrain",
    )
    tokenizer: PathText | None = key(
        None,
        "Folder, file or hub id of another tokenizer for the model's vocabulary; null: the model's own.",
        peers="verl: model.tokenizer_path; openrlhf: --pretrain",
    )
    dtype: Literal["float32", "bfloat16"] = key(
        "float32",
        "Compute and storage type of the weights; bfloat16 keeps float32 master weights in the optimizer.",
        peers="trl: bf16; verl: model.fsdp_config.model_dtype",
    )
    device: str = key("auto", "auto, cpu, cuda, npu: where the torch backend computes.")
    lora_rank: int = key(
        0, "Rank of LoRA adapters; 0 trains all weights.", peers="trl: peft_config.r; verl: model.lora_rank", ge=0
    )
    lora_alpha: float = key(
        32.0, "LoRA scale numerator (scale = alpha / rank).", peers="trl: peft_config.lora_alpha", gt=0
    )
    lora_targets: str | list[str] = key(
        "all-linear",
        "Modules that get adapters: all-linear or a list of names.",
        peers="trl: peft_config.target_modules",
    )
    recompute: bool = key(
        False,
        "Recompute activations in the backward pass: less memory, about a third more time.",
        peers="trl, verl: gradient_checkpointing",
    )
    layout: Literal["auto", "shared", "plain"] = key(
        "auto",
        "shared computes a group's prompt once in training, plain repeats it; auto takes shared where a probe at start shows it exact.",
    )
    trust_remote_code: bool = key(
        False, "Run Python code shipped with the model folder.", peers="trl, verl: trust_remote_code"
    )
    freeze: FreezeConfig | None = key(None, "Weights that are not trained; null: all are.")

    @property
    def tokenizer_path(self) -> str:
        """Where the tokenizer is."""
        return self.tokenizer or self.path


class DataConfig(Section):
    """The source of prompts."""

    source: Source = key(
        ...,
        "JSONL, JSON, CSV, parquet or Arrow file, datasets folder, hub:NAME, reasoning_gym:TASK, or a function (pkg.module:function or file.py:function); with arguments as a mapping: {name: SOURCE, argument: value}. Several: a list of these, or of {source: SOURCE, name: NAME, weight: SHARE} (docs/data.md).",
        peers="trl: train_dataset; verl: data.train_files; openrlhf: --prompt_data",
    )
    prompt_column: str = key(
        "prompt",
        "Column with the prompt: text or a list of messages. Rows of other published forms need none (docs/data.md).",
        peers="verl: data.prompt_key; openrlhf: --input_key",
    )
    system_prompt: str | None = key(None, "System message put before every prompt.")
    chat_template: PathText = key(
        "auto",
        "auto: the tokenizer's, if it has one; none: plain text; or a Jinja file.",
        peers="openrlhf: --apply_chat_template",
    )
    max_prompt_tokens: int = key(
        1024,
        "Longest prompt in tokens; at its default also what the model's context leaves beside rollout.max_tokens.",
        peers="trl: max_prompt_length; verl: data.max_prompt_length",
        ge=1,
    )
    overlong: Literal["error", "drop", "truncate"] = key(
        "error",
        "Treatment of a longer prompt; truncate keeps its end.",
        peers="verl: data.truncation, data.filter_overlong_prompts",
    )
    bad_rows: Literal["stop", "skip"] = key(
        "stop", "A row that cannot be used stops the run, or is skipped and counted."
    )
    shuffle: bool = key(True, "Draw rows in a seeded random order, anew each epoch.", peers="verl: data.shuffle")
    images: ImagesConfig | None = key(None, "Images of the prompts; null: prompts are text.")
    rendering: RenderingConfig | None = key(None, "Details of rendering rows as text; null: the defaults.")

    @property
    def rendered(self) -> RenderingConfig:
        """The details of rendering, defaults included."""
        return self.rendering or RenderingConfig()


class RewardConfig(Section):
    """One reward component."""

    function: PathText = key(
        ...,
        "Built-in name, pkg.module:function, file.py:function, or model:FOLDER for a reward model (its folder, or the run that trained it).",
        peers="trl: reward_funcs; verl: custom_reward_function",
    )
    name: str | None = key(None, "Name in metrics and report; default: the function's.")
    weight: float = key(1.0, "Factor in the sum of components.", peers="trl: reward_weights")
    arguments: dict[str, Any] = key({}, "Keyword settings of the function.")
    completions: Literal["text", "messages"] = key(
        "text",
        "Form of completions and prompts that the function gets: texts, or lists of messages as TRL passes conversations.",
        peers="trl: conversational rewards",
    )
    timeout: float = key(
        0.0, "Seconds a call may take in a process that can be killed; 0 runs it in this process without a limit.", ge=0
    )
    on_failure: float | None = key(
        0.0, "Value of a sample whose reward crashed, hung or was not finite; null: not applicable."
    )


class MetricConfig(Section):
    """A function of the user's that turns a step's completions and rewards into further metrics."""

    function: PathText = key(..., "pkg.module:function or file.py:function; returns a dict of name -> number.")
    arguments: dict[str, Any] = key({}, "Keyword settings of the function.")


class RolloutConfig(Section):
    """Sampling of completions."""

    group_size: int = key(
        8,
        "Completions per prompt (G).",
        peers="trl: num_generations; verl: rollout.n; openrlhf: --n_samples_per_prompt",
        ge=1,
        le=LARGEST_GROUP,
    )
    max_tokens: int = key(
        512,
        "Longest completion in tokens.",
        peers="trl: max_completion_length; verl: data.max_response_length",
        ge=1,
        le=LARGEST_COUNT,
    )
    min_tokens: int = key(0, "Tokens before an end token may be sampled.", ge=0)
    temperature: float = key(1.0, "Sampling temperature; training log-probs use it too. 0 is greedy.", ge=0)
    top_k: int = key(0, "Sample among the k most likely tokens; 0: all.", ge=0)
    top_p: float = key(1.0, "Sample within this probability mass; 1: all.", gt=0, le=1)
    min_p: Unit = key(0.0, "Drop tokens less likely than this fraction of the likeliest; 0: none.")
    repetition_penalty: float = key(1.0, "Penalty on tokens already seen; 1: none.", gt=0)
    stop: list[str] = key([], "Strings that end a completion.")
    slots: int = key(64, "Completions decoded at once.", peers="vllm: max_num_seqs", ge=1, le=LARGEST_COUNT)
    parallel: EngineParallelConfig | None = key(
        None, "The engine's division of the model over ranks; null: that of the training (parallel.tensor)."
    )


class AdamWConfig(Section):
    """Details of AdamW."""

    epsilon: float = key(1e-8, "Added to the root of the second moment.", peers="trl: adam_epsilon", gt=0, lt=1)
    decayed: Literal["all", "matrices"] = key(
        "all",
        "Weights that decay: all, or matrices only, embeddings among them; norms and biases are left out, as in the trainers of Hugging Face.",
    )


class TrainConfig(Section):
    """Steps, batch and optimizer."""

    steps: int = key(
        100,
        "Rollout batches to train on.",
        peers="trl: max_steps; verl: trainer.total_training_steps",
        ge=1,
        le=LARGEST_COUNT,
    )
    epochs: float | None = key(
        None,
        "Passes over the rows, instead of steps: as many steps as it takes to draw each row so often; null: train.steps counts.",
        peers="trl: num_train_epochs; verl: trainer.total_epochs; openrlhf: --num_episodes",
        gt=0,
    )
    prompts_per_step: int = key(
        8,
        "Prompts in one rollout batch, over all ranks.",
        peers="verl: data.train_batch_size; trl: batch / num_generations",
        ge=1,
        le=LARGEST_COUNT,
    )
    tokens_per_micro_batch: int = key(
        8192,
        "Tokens computed at once in training: sets memory, never the result.",
        peers="verl: ppo_max_token_len_per_gpu; trl: per_device_train_batch_size; openrlhf: --micro_train_batch_size",
        ge=1,
    )
    learning_rate: float = key(
        1e-6,
        "Peak learning rate of AdamW.",
        peers="verl: actor.optim.lr; openrlhf: --actor_learning_rate",
        gt=0,
        le=LARGEST_RATE,
    )
    schedule: Literal["constant", "linear", "cosine", "inverse_sqrt"] | dict[int, float] = key(
        "constant",
        "Learning rate after warm-up; or other rates from some steps on: {8000: 1e-7}.",
        peers="trl: lr_scheduler_type; verl: actor.optim.lr_scheduler_type; openrlhf: --lr_scheduler",
    )
    warmup_steps: WarmUp = key(
        0,
        "Steps of linear warm-up; below 1 it is a share of train.steps.",
        peers="trl: warmup_ratio; verl: actor.optim.lr_warmup_steps, actor.optim.lr_warmup_steps_ratio; openrlhf: --lr_warmup_ratio",
    )
    min_learning_rate: float = key(
        0.0,
        "Rate at which linear and cosine end.",
        peers="trl: lr_scheduler_kwargs; verl: actor.optim.min_lr_ratio; openrlhf: --min_lr",
        ge=0,
        le=LARGEST_RATE,
    )
    weight_decay: float = key(0.0, "Decoupled weight decay.", ge=0)
    betas: tuple[Decay, Decay] = key(
        (0.9, 0.999), "AdamW's moment decays.", peers="trl: adam_beta1, adam_beta2; openrlhf: --adam_betas"
    )
    max_grad_norm: float = key(
        1.0,
        "Clip the global gradient norm; 0: never.",
        peers="verl: actor.optim.clip_grad, grad_clip; openrlhf: --max_norm",
        ge=0,
    )
    on_alarm: Literal["stop", "warn"] = key(
        "stop",
        "A run that learns nothing (rewards that fail, groups that are all dead, updates without effect) stops, or goes on with a warning.",
    )
    adamw: AdamWConfig | None = key(None, "Details of AdamW; null: the defaults.")

    @property
    def optimizer(self) -> AdamWConfig:
        """The details of AdamW, defaults included."""
        return self.adamw or AdamWConfig()

    @property
    def bound_to_steps(self) -> bool:
        """True where another number of steps would give the steps already made other learning rates."""
        return self.schedule in ENDING or isinstance(self.warmup_steps, float)

    def lengths(self) -> Iterator[str]:
        """A text if the run's length is given twice."""
        if self.epochs is not None and "steps" in self.model_fields_set:
            yield f"train.steps ({self.steps}) and train.epochs ({self.epochs:g}) are both given, and only one can count: leave one out (train.epochs=null on the command line)"


class HeldOutConfig(Section):
    """Held-out rows."""

    source: OptionalSource = key(
        None,
        "Held-out rows, written like data.source; null: no evaluation.",
        peers="trl: eval_dataset; verl: data.val_files; openrlhf: --eval_dataset",
    )
    every: int = key(
        0,
        "Evaluate each n steps; 0: only before and after.",
        peers="trl: eval_steps; verl: trainer.test_freq; openrlhf: --eval_steps",
        ge=0,
    )
    limit: int | None = key(
        None, "Evaluate on the first n held-out rows; null: on all.", peers="verl: data.val_max_samples", ge=1
    )
    stop_at: float | None = key(
        None,
        "Stop when the held-out metric reaches this: online the mean of the first reward component (the accuracy, where its values are 0 and 1), offline the accuracy, or the nll of sft.",
    )
    patience: int = key(
        0,
        "Stop after this many evaluations in a row without a better held-out metric; 0: never.",
        peers="trl: early_stopping_patience",
        ge=0,
    )

    def without_source(self, rows: str) -> Iterator[str]:
        """A text for each key that has no effect because there are no held-out rows."""
        if self.source is None:
            for name, info in type(self).model_fields.items():
                if getattr(self, name) != info.default:
                    yield f"eval.{name} needs eval.source, the held-out {rows}"


class EvalConfig(HeldOutConfig):
    """Held-out prompts and the sampling of their completions."""

    samples: int = key(
        1,
        "Completions of each held-out prompt; with several, accuracy is their mean (avg@n), and pass@n is measured.",
        peers="verl: actor_rollout_ref.rollout.val_kwargs.n; openrlhf: --eval_n_samples_per_prompt",
        ge=1,
    )
    temperature: float = key(
        0.0,
        "Sampling temperature of held-out completions; 0 is greedy.",
        peers="verl: actor_rollout_ref.rollout.val_kwargs.temperature; openrlhf: --eval_temperature",
        ge=0,
    )


class CheckpointConfig(Section):
    """Checkpoints on disk."""

    every: int = key(
        0,
        "Save each n steps; 0: only at the end.",
        peers="trl: save_steps; verl: trainer.save_freq; openrlhf: --save_steps",
        ge=0,
    )
    keep_last: int = key(
        2, "Newest checkpoints kept; 0: all.", peers="trl: save_total_limit; verl: trainer.max_actor_ckpt_to_keep", ge=0
    )
    keep_best: bool = key(
        False, "Also keep the checkpoint with the best held-out metric.", peers="trl: load_best_model_at_end"
    )
    damaged: Literal["stop", "skip"] = key(
        "stop", "A newest checkpoint that the disk has damaged: stop, or set it aside and go on from the one before."
    )


class TrackersConfig(Section):
    """Trackers that get the metrics besides metrics.jsonl."""

    to: list[Literal["wandb", "wandb-offline", "tensorboard"]] = key(
        [],
        "Trackers. Weights & Biases takes its key, project, name and mode from the environment: WANDB_API_KEY, WANDB_PROJECT, WANDB_NAME (else the folder's), WANDB_MODE.",
        peers="trl: report_to; verl: trainer.logger",
    )


class TrackingConfig(TrackersConfig):
    """Trackers besides metrics.jsonl, and the rollouts that are kept."""

    rollouts_every: int = key(1, "Save the rollouts of each n-th step for the report; 0: none.", ge=0)
    print_every: int = key(
        0,
        "Print the best and the worst completion of some prompts each n steps; 0: never.",
        peers="trl: log_completions; verl: trainer.log_val_generations",
        ge=0,
    )


class RunConfig(Section):
    """An online run."""

    backend: str = key("torch", "torch, mindspore, or another installed backend.")
    run_dir: FolderPath = key(
        Path("runs/default"),
        "Folder of everything the run writes; an unfinished run in it is resumed.",
        peers="trl: output_dir; verl: trainer.default_local_dir; openrlhf: --save_path",
    )
    seed: int = key(0, "Seed of data order and sampling.", ge=0, lt=2**63)
    model: ModelConfig = key(..., "The policy.")
    data: DataConfig = key(..., "Training prompts.")
    rewards: list[RewardConfig] = key(..., "Reward components, summed by weight.", min_length=1)
    rollout: RolloutConfig = key(RolloutConfig(), "Sampling.")
    algorithm: AlgorithmConfig = key(AlgorithmConfig(), "Advantages and loss.")
    train: TrainConfig = key(TrainConfig(), "Steps and optimizer.")
    eval: EvalConfig = key(EvalConfig(), "Held-out evaluation.")
    checkpoint: CheckpointConfig = key(CheckpointConfig(), "Checkpoints.")
    tracking: TrackingConfig = key(TrackingConfig(), "Trackers.")
    critic: CriticConfig | None = key(None, "The value model of algorithms that need one (ppo).")
    parallel: ParallelConfig | None = key(None, "Division of weights over ranks; null: each rank holds all.")
    swap: SwapConfig | None = key(None, "Parts that leave the device in phases that do not need them; null: none.")
    metrics: list[MetricConfig] | None = key(
        None, "Functions that add metrics of your own to each step and evaluation.", peers="verl: custom metrics"
    )
    items: ItemsConfig | None = key(None, "Items of a completion, where rewards are by item; null: its lines.")
    environment: EnvironmentConfig | None = key(
        None, "What answers the model's turns: tools and observations; null: a completion is one turn."
    )

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        broken = list(self._broken_rules())
        if broken:
            raise ValueError("\n".join(broken))
        return self

    def _broken_rules(self) -> Iterator[str]:
        """Conflicts between keys; each text starts with the key to change."""
        prompts, updates = self.train.prompts_per_step, self.algorithm.updates_per_batch
        if prompts % updates:
            yield f"train.prompts_per_step ({prompts}) must be a multiple of algorithm.updates_per_batch ({updates})"
        if self.rollout.temperature == 0:
            yield "rollout.temperature must be above 0 in training: greedy completions of a group are all equal"
        if self.rollout.min_tokens > self.rollout.max_tokens:
            yield f"rollout.min_tokens ({self.rollout.min_tokens}) is above rollout.max_tokens ({self.rollout.max_tokens})"
        names = [component.name or component.function for component in self.rewards]
        if len(set(names)) < len(names):
            yield f"rewards have the same name twice: {', '.join(names)}; give each a name"
        if isinstance(self.train.schedule, dict):
            wrong = [at for at, rate in self.train.schedule.items() if at < 1 or not 0 < rate <= LARGEST_RATE]
            if wrong:
                yield (
                    f"train.schedule takes steps of at least 1 and rates above 0 and at most {LARGEST_RATE:g}, not "
                    f"{wrong[0]}: {self.train.schedule[wrong[0]]}"
                )
        if self.critic is not None and self.critic.shared:
            apart = {
                "critic.path": self.critic.path, "critic.warmup_steps": self.critic.warmup_steps,
                "parallel": self.parallel, "swap": self.swap,
            }  # fmt: skip
            yield from (
                f"{name} does not go with critic.shared: that critic is part of the policy"
                for name, value in apart.items()
                if value
            )
        yield from self._rules_of_environment()
        yield from self.train.lengths()
        yield from self.eval.without_source("prompts")
        if self.eval.patience and not self.eval.every:
            yield "eval.patience needs eval.every: it counts the evaluations during training"
        if self.checkpoint.keep_best and self.eval.source is None:
            yield "checkpoint.keep_best needs eval.source, the held-out prompts"
        if self.eval.samples > 1 and self.eval.temperature == 0:
            yield f"eval.samples ({self.eval.samples}) needs eval.temperature above 0: greedy completions of a prompt are all equal"

    def _rules_of_environment(self) -> Iterator[str]:
        """Conflicts with an environment, or with its absence."""
        if self.environment is None:
            if any(reward.function == "environment" for reward in self.rewards):
                yield "rewards: function: environment is the environment's own reward, and there is no environment"
            return
        one_turn: dict[str, Any] = {
            "items": self.items,
            "data.images": self.data.images,
            "rollout.repetition_penalty": self.rollout.repetition_penalty != 1,
            "rollout.min_tokens": self.rollout.min_tokens,
        }
        yield from (
            f"{name} does not go with environment: it is made for completions of one turn"
            for name, value in one_turn.items()
            if value
        )
        divided = {"parallel.tensor": self.parallel, "rollout.parallel.tensor": self.rollout.parallel}
        yield from (
            f"{name} above 1 does not go with environment: each rank of a group would have an environment of its own"
            for name, part in divided.items()
            if part is not None and part.tensor > 1
        )
