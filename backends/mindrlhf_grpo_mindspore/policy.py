"""The trained model: log-probs, one optimizer step, saving and exact resume.

Dropout does not exist here, so the ratio of an on-policy update is 1. Gradients are summed over micro-batches and
ranks; the loss weights of the batch carry the denominators.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor
from numpy.typing import NDArray

from mindrlhf_grpo.backend import LogProbs, Loss, UpdateResult
from mindrlhf_grpo.batching import micro_batches
from mindrlhf_grpo.compiling import CompileLog
from mindrlhf_grpo.config import RunConfig
from mindrlhf_grpo.errors import RunFailed
from mindrlhf_grpo.types import Batch
from mindrlhf_grpo.update_sums import clip_scale, combine

from . import hf
from .buckets import Buckets, Cost, Sizes
from .comm import MindSporeRanks, SingleProcess
from .devices import Device
from .fingerprint import fingerprint
from .graph import Compiled
from .layouts import LAYOUTS, ModelInput, needed
from .log_probs import LogProbModel
from .optim import AdamW, gradient_norm
from .train_step import TrainStep, loss_arrays, named_sums, sum_names

BUCKETS = "buckets.json"


class MindSporePolicy:
    """Implements ``backend.Policy``; ``weights`` holds the parameters by Hugging Face name, adapters among them."""

    def __init__(
        self, config: RunConfig, device: Device, comm: SingleProcess | MindSporeRanks, compile_log: CompileLog
    ) -> None:
        self.config, self.device, self.comm, self.log = config, device, comm, compile_log
        self.folder = Path(config.model.path).expanduser()
        self.architecture = hf.load_architecture(self.folder)
        weights = hf.load_weights(self.folder, self.architecture, config.model.dtype)
        self.lora_scale = hf.lora_scale(config.model)
        if config.model.lora_rank:
            weights = hf.add_lora(weights, config.model, self.architecture, seed=config.seed)
        self.weights: dict[str, Parameter] = weights
        self.layout, self.layout_reason = layout_of(config.model.layout)
        self.buckets = Buckets(self.cost(), shared=self.layout == "shared", limits=self.limits())
        self.trainable = {name: weight for name, weight in weights.items() if weight.requires_grad}
        self.optimizer = AdamW(
            self.trainable, betas=config.train.betas, weight_decay=config.train.weight_decay, log=compile_log
        )
        self.frozen: dict[str, Parameter] = {}
        self.scorers: dict[tuple[bool, bool], Compiled] = {}  # by reference and entropy
        self.steps: dict[tuple[Loss, tuple[str, ...], bool], tuple[Compiled, tuple[str, ...]]] = {}

    def logps(self, batch: Batch, *, reference: bool = False, entropy: bool = False) -> LogProbs:
        """Log-probs of this rank's rows, without gradient; ``reference`` uses the initial weights."""
        logps = np.zeros(batch.ids.shape, dtype=np.float32)
        entropies = np.zeros_like(logps)
        scorer = self.scorer(reference, entropy)
        for rows in self.micro_batches(batch):
            micro = batch.take(rows)
            count, width = micro.ids.shape
            values, *spread = scorer(sharpness(micro), *self.input(micro)[0].tensors())
            logps[rows, :width] = values.asnumpy()[:count, :width]
            if entropy:
                entropies[rows, :width] = spread[0].asnumpy()[:count, :width]
        return LogProbs(logps=logps, entropy=entropies if entropy else None)

    def update(self, batch: Batch, loss: Loss, *, learning_rate: float) -> UpdateResult:
        """One AdamW step on the summed gradient; every rank calls it, also without rows.

        Raises:
            RunFailed: the gradient is not finite; the weights are unchanged.
        """
        trained = batch.take(np.flatnonzero(batch.mask.any(axis=1)))
        parts, gradients = self.backward(trained, loss)
        gradients = self.comm.sum_gradients(gradients)
        norm = gradient_norm(gradients, on_host=self.device.kind == "cpu")
        if not math.isfinite(norm):
            raise RunFailed(f"the gradient norm is {norm}: the update was not made")
        self.optimizer.step(
            gradients, learning_rate=learning_rate, gradient_scale=clip_scale(norm, self.config.train.max_grad_norm)
        )
        sums = combine([sums for rank in self.comm.gather_objects(parts) for sums in rank])
        return UpdateResult(loss=sums.pop("loss", 0.0), grad_norm=norm, sums={"tokens": 0.0, "entropy": 0.0, **sums})

    def backward(self, batch: Batch, loss: Loss) -> tuple[list[Mapping[str, float]], list[Tensor]]:
        """Sums of each micro-batch, and the gradient of all of them by trainable weight."""
        parts: list[Mapping[str, float]] = []
        total: list[Tensor] = []
        for rows in self.micro_batches(batch):
            sums, gradients = self.backward_part(batch.take(rows), loss)
            parts.append(sums)
            total = add_up(total, gradients)
        return parts, total or [zeros_like(weight) for weight in self.trainable.values()]

    def backward_part(self, batch: Batch, loss: Loss) -> tuple[Mapping[str, float], list[Tensor]]:
        """Sums and gradients of one micro-batch."""
        inputs, sizes = self.input(batch)
        names, floats, segments = loss_arrays(batch, sizes.rows, sizes.completion)
        step, sums = self.step(loss, names, segments is not None)
        items = np.zeros((1, 1), np.int32) if segments is None else segments
        values, gradients = step(sharpness(batch), Tensor(floats), Tensor(items), *inputs.tensors())
        return named_sums(sums, values), list(gradients)

    def fingerprint(self) -> str:
        """Digest of the weights by Hugging Face name, adapters merged."""
        return fingerprint(hf.hf_tensors(self.weights, self.lora_scale))

    def save_model(self, folder: Path, *, merge: bool = False) -> None:
        """Write the Hugging Face layout: for LoRA the adapter alone unless ``merge``."""
        hf.save_model(self.weights, self.architecture, folder, self.config.model, merge=merge)

    def save_state(self, folder: Path) -> None:
        """Write the optimizer, and the buckets known: how sums are rounded depends on them."""
        self.optimizer.save(folder)
        (folder / BUCKETS).write_text(json.dumps(self.buckets.saved()))

    def load_state(self, model: Path, state: Path) -> None:
        """Copy saved weights and optimizer into the live ones, which stay where they are."""
        hf.restore_weights(self.weights, self.architecture, model)
        self.optimizer.load(state)
        saved = state / BUCKETS  # absent where another backend wrote the state
        self.buckets.restore(json.loads(saved.read_text()) if saved.is_file() else {"known": [], "wasted": 0.0})

    def input(self, batch: Batch) -> tuple[ModelInput, Sizes]:
        """A micro-batch as model input, padded to its bucket."""
        sizes = self.buckets.choose(needed(batch, shared=self.layout == "shared"))
        return LAYOUTS[self.layout](batch, sizes), sizes

    def micro_batches(self, batch: Batch) -> list[NDArray[np.int64]]:
        """Rows of every micro-batch; none for an empty batch."""
        if not len(batch):
            return []
        return micro_batches(batch, self.config.train.tokens_per_micro_batch, shared=self.layout == "shared")

    def scorer(self, reference: bool, entropy: bool) -> Compiled:
        """Log-probs, and entropies where asked, compiled on first use."""
        if (reference, entropy) not in self.scorers:
            model = self.model(reference=reference)
            name = f"{'reference ' if reference else ''}log-probs{' and entropies' if entropy else ''}"
            function = model.construct if entropy else model.logps
            self.scorers[reference, entropy] = Compiled(
                name, function, self.log, bucket=lambda *tensors: bucket_of(tensors[1:])
            )
        return self.scorers[reference, entropy]

    def model(self, *, reference: bool = False) -> LogProbModel:
        """Cells for one compiled function, over the policy's weights or the reference's.

        A function compiled from cells that another one has used can compute something else (MindSpore 2.10), so no
        two share any. The reference is the model without adapters, or a frozen copy of the initial weights, loaded on
        first use.
        """
        weights, scale = self.weights, 0.0 if reference else self.lora_scale
        if reference and not self.lora_scale:
            self.frozen = self.frozen or hf.load_weights(self.folder, self.architecture, self.config.model.dtype)
            weights = self.frozen
        recompute = self.config.model.recompute and not reference
        return LogProbModel(self.architecture, weights, self.layout, lora_scale=scale, recompute=recompute)

    def step(self, loss: Loss, names: tuple[str, ...], segments: bool) -> tuple[Compiled, tuple[str, ...]]:
        """The compiled train step of a loss, and the names of its sums."""
        key = (loss, names, segments)
        if key not in self.steps:
            cell = TrainStep(self.model(), loss, ParameterTuple(self.trainable.values()), names, segments=segments)
            step = Compiled("train step", cell.construct, self.log, bucket=lambda *tensors: bucket_of(tensors[3:]))
            self.steps[key] = (step, sum_names(loss, names, segments=segments))
        return self.steps[key]

    def cost(self) -> Cost:
        """What computing costs, for the choice of buckets."""
        model = self.architecture
        heads = model.vocabulary * model.hidden * (1 if model.tied else 2)
        body = sum(weight.size for name, weight in self.weights.items() if ".lora_" not in name) - heads
        return Cost(
            token=2.0 * body, prediction=2.0 * model.vocabulary * model.hidden,
            score=2.0 * model.layers * model.heads * (model.key_size + model.value_size),
        )  # fmt: skip

    def limits(self) -> Sizes:
        """The largest micro-batch that this run can meet, as far as the configuration says."""
        rollout, prompts = self.config.rollout, -(-self.config.train.prompts_per_step // self.comm.world_size)
        group = rollout.group_size
        prompts, group = (prompts, group) if self.layout == "shared" else (prompts * group, 1)
        return Sizes(prompts=prompts, group=group, prompt=1, completion=rollout.max_tokens, tokens=1, predicted=1)


def layout_of(requested: str) -> tuple[str, str]:
    """Layout and reason: every model of this backend can share prompts, its attention being the backend's own."""
    return ("plain", "asked for") if requested == "plain" else ("shared", "the attention is the backend's own")


def sharpness(batch: Batch) -> Tensor:
    """1 / temperature."""
    return Tensor(np.float32(1.0 / batch.temperature))


def add_up(total: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
    """The sum of two lists of gradients, tensor by tensor, each freed when it has been added."""
    if not total:
        return gradients
    for place in range(len(total)):
        total[place] = total[place] + gradients[place]
        gradients[place] = total[place]
    return total


def zeros_like(weight: Tensor) -> Tensor:
    return Tensor(np.zeros(weight.shape, np.float32)).astype(weight.dtype)


def bucket_of(inputs: Sequence[Tensor]) -> str:
    """The bucket of a ``ModelInput.tensors``, for the compile log."""
    ids, _, predictors, _, rows = inputs[:5]
    return f"{ids.shape[0]} tokens, {predictors.shape[0]} predicted, {rows.shape[0]} completions of {rows.shape[1]}"
