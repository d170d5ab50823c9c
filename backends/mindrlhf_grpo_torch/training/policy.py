"""The trained language model: log-probs, and the reference policy.

Dropout is always off, so the ratio of an on-policy update is 1.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mindrlhf_grpo.backend import BackendConfig, LogProbs, Loss
from mindrlhf_grpo.batches.row_arrays import fill_rows
from mindrlhf_grpo.model_files.folder import find_folder, read_header
from mindrlhf_grpo.model_files.safetensors import read_tensor, write_tensors
from mindrlhf_grpo.model_files.value_head import NAME, SHARED_HEAD, load_value_head
from mindrlhf_grpo.parallel.residency import Role
from mindrlhf_grpo.parallel.single_process import SingleProcess
from mindrlhf_grpo.types import Batch

from ..comm import TorchRanks
from ..models import hf
from ..models.lean_layers import make_lean
from ..models.part_loading import causal_lm_parts
from ..models.value_head import value_head
from ..sync.swap import DeviceMemory
from .layouts import ModelInput
from .log_probs import LogProbModel
from .optim import AdamW
from .parallel import passes
from .reference import Reference
from .trained_model import TrainedModel


class TorchPolicy(TrainedModel):
    """Implements ``backend.Policy``."""

    def __init__(self, config: BackendConfig, device: torch.device, comm: SingleProcess | TorchRanks) -> None:
        super().__init__(config.train, device, comm, config.parallel)
        self.config = config
        start = self.division.start(config.model, causal_lm_parts)
        model: Any = hf.load_causal_lm(config.model, device) if start is None else start.model
        self.head: nn.Module | None = None
        if config.critic is not None and config.critic.shared:
            folder, hidden = find_folder(config.model.path), model.config.get_text_config().hidden_size
            self.head = value_head(load_value_head(folder, hidden, seed=config.seed)).to(device)
        if config.model.freeze is not None:
            hf.freeze(model, config.model.freeze.prefixes)
        adapted: Any = hf.add_lora(model, config.model, seed=config.seed) if config.model.lora_rank else model
        slices = self.division.cut(adapted, start)
        self.take_weights(adapted)
        make_lean(self.model)
        self.scorer = LogProbModel(
            self.model, config.model.layout, recompute=config.model.recompute, slices=slices, start=start
        )
        self.layout, self.layout_reason = self.scorer.layout, self.scorer.layout_reason
        self.shard(self.scorer, start)
        self.reference = Reference(config.model, device, self.division)

    def take_weights(self, model: Any) -> None:
        """Train the model's weights and those of the value head of a shared critic."""
        super().take_weights(model)
        if self.head is not None:
            self.trainable |= {f"{NAME}.{name}": weight for name, weight in self.head.named_parameters()}
            self.optimizer = AdamW(self.trainable.items(), self.train)

    @property
    def packed(self) -> LogProbModel:
        return self.scorer

    @torch.no_grad()
    def values(self, batch: Batch) -> NDArray[np.float32]:
        """Values of a shared critic before each token ``[N, T]``, without gradient."""
        assert self.head is not None
        head = self.head
        (values,) = fill_rows(
            batch,
            self.micro_batches(batch),
            lambda micro: [self.scorer.values(self.scorer.input(micro), head).cpu().numpy()],
        )
        return values

    @torch.no_grad()
    def logps(self, batch: Batch, *, reference: bool = False, entropy: bool = False) -> LogProbs:
        """Log-probs of this rank's rows, without gradient; ``reference`` uses the reference weights."""
        every = self.micro_batches(batch)
        holder = self.reference.scorer_for(self.scorer) if reference else nullcontext(self.scorer)
        with holder as scorer, self.passes(len(every), reference=reference):

            def compute(micro: Batch) -> list[NDArray[np.float32]]:
                logps, entropies = scorer.logps(
                    scorer.input(micro), temperature=micro.temperature, entropy="metric" if entropy else "none"
                )
                return [array.cpu().numpy() for array in (logps, entropies) if array is not None]

            logps, *entropies = fill_rows(batch, every, compute, outputs=1 + entropy)
        return LogProbs(logps=logps, entropy=entropies[0] if entropy else None)

    def passes(self, count: int, *, reference: bool) -> AbstractContextManager[None]:
        """Run so many passes without gradient."""
        return passes(self.reference.shards if reference else self.shards, count, gradient=False)

    def outputs(
        self, inputs: ModelInput, batch: Batch, tensors: dict[str, Tensor], loss: Loss
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Log-probs, and the sum of entropies, which a loss that reads them receives with gradient.

        A loss that reads values receives those of the shared critic.
        """
        if loss.reads_values:
            assert self.head is not None
            return self.scorer.values(inputs, self.head), {}
        logps, entropies = self.scorer.logps(
            inputs, temperature=batch.temperature, entropy="loss" if loss.reads_entropy else "metric"
        )
        assert entropies is not None
        if loss.reads_entropy:
            tensors["entropies"] = entropies
        return logps, {"entropy": (entropies.detach() * tensors["mask"]).sum()}

    def empty_sums(self) -> dict[str, float]:
        return {"tokens": 0.0, "entropy": 0.0}

    def sync_reference(self, share: float) -> None:
        """Move the reference to ``share`` * policy + (1 - share) * reference (TR-DPO, arXiv:2404.09656).

        Raises:
            BackendError: the policy has adapters.
        """
        self.reference.sync(self.scorer, share)

    def save_model(self, folder: Path, *, merge: bool = False) -> None:
        """Write the Hugging Face layout: for LoRA the adapter alone unless ``merge``."""
        hf.save_model(self.model, folder, merge=merge, tensors=self.gathered_weights())

    def roles(self) -> dict[str, Role]:
        """Weights, optimizer, and the frozen copy."""
        return {**super().roles(), "reference": DeviceMemory(self.reference.weights, self.device)}

    def gather(self) -> None:
        """See ``TrainedModel.gather``; a reference is gathered only if it was moved."""
        super().gather()
        self.reference.gather(keep=self.comm.rank == 0)

    def save_state(self, folder: Path) -> None:
        """Write the optimizer, and the reference if it was moved."""
        super().save_state(folder)
        self.reference.save(folder)
        if self.head is not None:
            tensors = {f"{NAME}.{name}": weight.detach().cpu().numpy() for name, weight in self.head.named_parameters()}
            write_tensors(folder / SHARED_HEAD, tensors)

    def load_state(self, model: Path, state: Path) -> None:
        """Copy saved weights, optimizer and reference into the live ones, whose storage stays."""
        if not self.read_parts(model):
            hf.load_weights(self.model, self.config.model, model, own=self.local_parts)
        self.load_optimizer(state)
        self.reference.load(state, self.scorer)
        if self.head is not None:
            saved = read_header(state / SHARED_HEAD)
            for name, weight in self.head.named_parameters():
                weight.data.copy_(torch.from_numpy(read_tensor(state / SHARED_HEAD, saved[f"{NAME}.{name}"])))
