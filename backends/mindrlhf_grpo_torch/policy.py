"""The trained model: log-probs, one optimizer step, saving and exact resume.

Dropout is always off, so the ratio of an on-policy update is 1. Gradients are summed over micro-batches and
ranks; the loss weights of the batch carry the denominators.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mindrlhf_grpo.backend import LogProbs, Loss, UpdateResult
from mindrlhf_grpo.batching import micro_batches
from mindrlhf_grpo.config import RunConfig
from mindrlhf_grpo.errors import RunFailed
from mindrlhf_grpo.types import Batch
from mindrlhf_grpo.update_sums import clip_scale, combine

from . import hf, xp
from .attention import attending
from .comm import SingleProcess, TorchRanks
from .fingerprint import fingerprint
from .lean_layers import make_lean
from .log_probs import LogProbModel
from .optim import AdamW, gradient_norm


class TorchPolicy:
    """Implements ``backend.Policy``; ``model`` is the Hugging Face model, wrapped by peft for LoRA."""

    def __init__(self, config: RunConfig, device: torch.device, comm: SingleProcess | TorchRanks) -> None:
        self.config, self.device, self.comm = config, device, comm
        model = hf.load_causal_lm(config.model, device)
        self.model: Any = hf.add_lora(model, config.model, seed=config.seed) if config.model.lora_rank else model
        make_lean(self.model)
        self.scorer = LogProbModel(self.model, config.model.layout, recompute=config.model.recompute)
        self.layout, self.layout_reason = self.scorer.layout, self.scorer.layout_reason
        self.trainable = {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}
        self.optimizer = AdamW(self.trainable.items(), betas=config.train.betas, weight_decay=config.train.weight_decay)
        self.frozen: LogProbModel | None = None

    @torch.no_grad()
    def logps(self, batch: Batch, *, reference: bool = False, entropy: bool = False) -> LogProbs:
        """Log-probs of this rank's rows, without gradient; ``reference`` uses the initial weights."""
        logps = np.zeros(batch.ids.shape, dtype=np.float32)
        entropies = np.zeros_like(logps)
        with self.reference() if reference else nullcontext(self.scorer) as scorer:
            for rows in self.micro_batches(batch):
                inputs = scorer.input(micro := batch.take(rows))
                values, spread = scorer.logps(inputs, temperature=micro.temperature, entropy=entropy)
                width = values.shape[1]
                logps[rows, :width] = values.cpu().numpy()
                if spread is not None:
                    entropies[rows, :width] = spread.cpu().numpy()
        return LogProbs(logps=logps, entropy=entropies if entropy else None)

    def update(self, batch: Batch, loss: Loss, *, learning_rate: float) -> UpdateResult:
        """One AdamW step on the summed gradient; every rank calls it, also without rows.

        Raises:
            RunFailed: the gradient is not finite; the weights are unchanged.
        """
        trained = batch.take(np.flatnonzero(batch.mask.any(axis=1)))
        parts = [self.backward(trained.take(rows), loss) for rows in self.micro_batches(trained)]
        self.comm.sum_gradients(self.trainable.values())
        norm = gradient_norm(self.trainable.values())
        if not math.isfinite(norm):
            self.drop_gradients()
            raise RunFailed(f"the gradient norm is {norm}: the update was not made")
        self.optimizer.step(
            learning_rate=learning_rate, gradient_scale=clip_scale(norm, self.config.train.max_grad_norm)
        )
        sums = combine([sums for rank in self.comm.gather_objects(parts) for sums in rank])
        return UpdateResult(loss=sums.pop("loss", 0.0), grad_norm=norm, sums={"tokens": 0.0, "entropy": 0.0, **sums})

    def backward(self, batch: Batch, loss: Loss) -> dict[str, float]:
        """Add one micro-batch's gradient; returns its loss and metric sums."""
        inputs = self.scorer.input(batch)
        tensors = {name: self.tensor(array) for name, array in batch.loss_tensors().items()}
        with attending(inputs.attention):
            logps, entropy = self.scorer.logps(inputs, temperature=batch.temperature, entropy=True)
            value, metrics = loss(xp, logps, tensors)
            value.backward()
        assert entropy is not None
        mask = tensors["mask"]
        sums = {"loss": value, "tokens": mask.sum(), "entropy": (entropy * mask).sum(), **metrics}
        return {name: float(number.detach()) for name, number in sums.items()}

    def fingerprint(self) -> str:
        """Digest of the weights by Hugging Face name, adapters merged."""
        return fingerprint(hf.hf_tensors(self.model))

    def save_model(self, folder: Path, *, merge: bool = False) -> None:
        """Write the Hugging Face layout: for LoRA the adapter alone unless ``merge``."""
        hf.save_model(self.model, folder, merge=merge)

    def save_state(self, folder: Path) -> None:
        """Write the optimizer."""
        self.optimizer.save(folder)

    def load_state(self, model: Path, state: Path) -> None:
        """Copy saved weights and optimizer into the live ones, whose storage stays."""
        hf.load_weights(self.model, self.config.model, model)
        self.optimizer.load(state)

    def micro_batches(self, batch: Batch) -> list[NDArray[np.int64]]:
        """Rows of every micro-batch; none for an empty batch."""
        if not len(batch):
            return []
        return micro_batches(batch, self.config.train.tokens_per_micro_batch, shared=self.layout == "shared")

    @contextmanager
    def reference(self) -> Iterator[LogProbModel]:
        """The reference: adapters disabled, or a frozen copy of the initial weights, loaded on first use."""
        if hf.is_lora(self.model):
            disabled: AbstractContextManager[None] = self.model.disable_adapter()
            with disabled:
                yield self.scorer
            return
        if self.frozen is None:
            model = hf.load_causal_lm(self.config.model, self.device).requires_grad_(False)
            self.frozen = LogProbModel(model, self.scorer.layout, recompute=False)
        yield self.frozen

    def drop_gradients(self) -> None:
        for weight in self.trainable.values():
            weight.grad = None

    def tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)
