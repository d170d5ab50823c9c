"""The workload of a parity bundle: the batches, losses, samplings and optimizer steps that a backend runs.

Legend: N completions, T longest completion, M prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from ...config.run import DataConfig, ModelConfig, RewardConfig, RolloutConfig, RunConfig, TrainConfig
from ...losses import PolicyLoss
from ...types import Batch, FloatArray, IntArray, Prompt, Sampling

PROMPTS = (9, 5, 12)  # tokens of each prompt
COMPLETIONS = ((7, 12, 3), (12, 9, 1), (5, 11, 2))  # tokens of each completion, by prompt
BATCHES = 2  # optimizer steps take them in turn
UNUSED = "none"  # a run configuration must name data and rewards; neither is read
LOG_RATIO = 0.3  # standard deviation of current minus old log-probs: some ratios beyond every clip

LOSSES = {
    "clip and KL": PolicyLoss(kl_coef=0.1),
    "dual clip, wide": PolicyLoss(clip_low=0.2, clip_high=0.28, dual_clip=1.5),
    "clamped, KL k2": PolicyLoss(kl_coef=0.1, kl_estimator="k2", log_ratio_clamp=0.4, kl_clamp=0.1),
}
TRAINED_WITH = "clip and KL"
QUICK_SAMPLINGS = ("greedy", "plain", "all together")
SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "plain": {},
    "top-k": {"top_k": 5},
    "top-p": {"top_p": 0.8},
    "min-p": {"min_p": 0.2},
    "repetition penalty": {"repetition_penalty": 1.4},
    "min tokens": {"min_tokens": 9},
    "all together": {
        "temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.2, "min_tokens": 4
    },
}  # fmt: skip


Dtype = Literal["float32", "bfloat16", "float16"]


class Workload(BaseModel):
    """The settings of a bundle, as its manifest records them.

    Attributes:
        dtype: of weights and arithmetic. float16 is no type of a run: with it 16 bits are rehearsed where a processor
            multiplies no bfloat16.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int
    steps: int
    dtype: Dtype = "float32"
    learning_rate: float = 1e-4  # elements whose gradient is only rounding move at random, by less than the tolerance
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 1.0  # visible in one step at a tolerance of 1e-4
    max_grad_norm: float = 1.0
    lora_rank: int = 0
    lora_alpha: float = 8.0
    lora_targets: tuple[str, ...] = ()
    group_size: int = 2
    slots: int = 4
    max_tokens: int = 16
    vocabulary: int
    end_tokens: tuple[int, ...]
    temperatures: tuple[float, ...] = (1.0, 0.7)
    losses: dict[str, PolicyLoss] = LOSSES
    trained_with: str = TRAINED_WITH
    samplings: dict[str, dict[str, Any]] = SAMPLINGS

    def sampling(self, name: str) -> Sampling:
        """One of the samplings with all its settings."""
        return Sampling(max_tokens=self.max_tokens, seed=self.seed, **self.samplings[name])

    def run_config(self, backend: str, model: str, device: str) -> RunConfig:
        """The configuration a backend is built with."""
        its_model = ModelConfig(
            path=model, device=device, lora_rank=self.lora_rank, lora_alpha=self.lora_alpha,
            lora_targets=list(self.lora_targets) or "all-linear",
        )  # fmt: skip
        return RunConfig(
            backend=backend,
            seed=self.seed,
            model=its_model.model_copy(update={"dtype": self.dtype}),
            data=DataConfig(source=UNUSED),
            rewards=[RewardConfig(function=UNUSED)],
            rollout=RolloutConfig(group_size=self.group_size, slots=self.slots, max_tokens=self.max_tokens),
            train=TrainConfig(
                learning_rate=self.learning_rate, betas=self.betas, weight_decay=self.weight_decay,
                max_grad_norm=self.max_grad_norm,
            ),
        )  # fmt: skip


def random_batch(random: np.random.Generator, vocabulary: int) -> Batch:
    """Random completions of random prompts; every fifth completion or so has a hole in its mask."""
    lengths = np.array([length for group in COMPLETIONS for length in group], dtype=np.int32)
    shape = (len(lengths), int(lengths.max()))
    inside = (np.arange(shape[1]) < lengths[:, None]).astype(np.float32)
    mask = inside.copy()
    mask[1, 2:4] = 0.0  # tokens in the middle of a completion that are not trained
    advantages = np.repeat(random.normal(size=len(lengths)), shape[1]).reshape(shape)
    return Batch(
        prompts=tuple(random.integers(0, vocabulary, length).astype(np.int32) for length in PROMPTS),
        prompt_of=np.repeat(np.arange(len(PROMPTS)), [len(group) for group in COMPLETIONS]).astype(np.int32),
        ids=(random.integers(0, vocabulary, shape) * inside).astype(np.int32), lengths=lengths, mask=mask,
        weights=(mask / mask.sum()).astype(np.float32), advantages=advantages.astype(np.float32),
    )  # fmt: skip


def with_old_logps(batch: Batch, logps: FloatArray, random: np.random.Generator) -> Batch:
    """The batch with old, reference and sampling log-probs scattered around ``logps`` ``[N, T]``."""
    inside = np.arange(batch.ids.shape[1]) < batch.lengths[:, None]

    def scattered(deviation: float) -> FloatArray:
        return np.where(inside, logps + random.normal(size=logps.shape) * deviation, 0.0).astype(np.float32)

    return replace(batch, old_logps=scattered(LOG_RATIO), ref_logps=scattered(LOG_RATIO), rollout_logps=scattered(0.01))


def random_prompts(random: np.random.Generator, vocabulary: int) -> list[Prompt]:
    """Prompts to complete, with uids out of order."""
    return [
        Prompt(uid=uid, ids=random.integers(0, vocabulary, length).astype(np.int32), text="", row=row)
        for row, (uid, length) in enumerate(zip((102, 7, 55), PROMPTS, strict=True))
    ]


BATCH_ARRAYS = (
    "prompt_of", "ids", "lengths", "mask", "weights", "advantages", "rollout_logps", "old_logps", "ref_logps",
)  # fmt: skip


def pack(batches: list[Batch], prompts: list[Prompt]) -> dict[str, NDArray[Any]]:
    """Batches and prompts as named arrays."""
    arrays: dict[str, NDArray[Any]] = {}
    for index, batch in enumerate(batches):
        arrays |= {f"batch_{index}.{name}": getattr(batch, name) for name in BATCH_ARRAYS}
        arrays |= {f"batch_{index}.prompt_{m}": ids for m, ids in enumerate(batch.prompts)}
    for index, prompt in enumerate(prompts):
        arrays[f"prompt_{index}"] = prompt.ids
    arrays["uids"] = np.asarray([prompt.uid for prompt in prompts], dtype=np.int64)
    return arrays


def unpack(arrays: Mapping[str, NDArray[Any]]) -> tuple[list[Batch], list[Prompt]]:
    """Reverse :func:`pack`; raises KeyError for arrays that are absent."""

    def numbered(prefix: str) -> list[IntArray]:
        arrays_of_prefix: list[IntArray] = []
        while f"{prefix}{len(arrays_of_prefix)}" in arrays:
            arrays_of_prefix.append(arrays[f"{prefix}{len(arrays_of_prefix)}"])
        return arrays_of_prefix

    batches = [
        Batch(
            prompts=tuple(numbered(f"batch_{index}.prompt_")),
            temperature=1.0,
            **{name: arrays[f"batch_{index}.{name}"] for name in BATCH_ARRAYS},  # type: ignore[arg-type]
        )
        for index in range(BATCHES)
    ]
    prompts = [
        Prompt(uid=int(uid), ids=ids, text="", row=row)
        for row, (uid, ids) in enumerate(zip(arrays["uids"], numbered("prompt_"), strict=True))
    ]
    return batches, prompts
