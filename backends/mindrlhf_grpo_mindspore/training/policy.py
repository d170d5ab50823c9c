"""The trained language model: log-probs, and the reference policy.

Dropout does not exist here, so the ratio of an on-policy update is 1.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mindspore import Parameter, Tensor
from numpy.typing import NDArray

from mindrlhf_grpo.backend import BackendConfig, LogProbs, Loss
from mindrlhf_grpo.batches.row_arrays import fill_rows
from mindrlhf_grpo.model_files.folder import find_folder, read_header
from mindrlhf_grpo.model_files.safetensors import read_tensor, write_tensors
from mindrlhf_grpo.model_files.value_head import SHARED_HEAD, ValueHead, load_value_head
from mindrlhf_grpo.parallel.residency import Role
from mindrlhf_grpo.types import Batch

from ..graph import Compiled, overwrite
from ..models import hf
from ..models.value_head import head_weights
from ..sync.swap import DeviceMemory
from .log_probs import LogProbModel
from .reference import Reference
from .trained_model import RunContext, TrainedModel, describe_bucket
from .value_model import ValueOutputs


class MindSporePolicy(TrainedModel):
    """Implements ``backend.Policy``."""

    gives_entropies = True
    read_at = "before"

    def __init__(self, config: BackendConfig, context: RunContext) -> None:
        architecture = hf.load_architecture(find_folder(config.model.path))
        super().__init__(config.model, config.train, architecture, context)
        self.config = config
        weights = hf.load_weights(self.folder, architecture, config.model.dtype, self.slices)
        if config.model.lora_rank:
            weights = hf.add_lora(weights, config.model, architecture, seed=config.seed, slices=self.slices)
        self.head: ValueHead | None = None
        if config.critic is not None and config.critic.shared:
            self.head = load_value_head(self.folder, architecture.hidden, seed=config.seed)
            self.head_weights = head_weights(self.head)
        self.take_weights(weights)
        heads = architecture.vocabulary * architecture.hidden * (1 if architecture.tied else 2)
        body = sum(weight.size for name, weight in weights.items() if ".lora_" not in name) - heads
        self.make_buckets(body=body, head=architecture.vocabulary * architecture.hidden)
        self.reference = Reference(config.model, architecture, self.folder, self.slices)
        self.scorers: dict[tuple[bool, bool], Compiled] = {}  # by reference and entropy
        self.valuer: Compiled | None = None

    def take_weights(self, weights: dict[str, Parameter]) -> None:
        """Train the model's weights and those of the value head of a shared critic."""
        super().take_weights(weights)
        if self.head is not None:
            self.trainable = {**self.trainable, **self.head_weights}
            self.make_optimizer()

    def values(self, batch: Batch) -> NDArray[np.float32]:
        """Values of a shared critic before each token ``[N, T]``, without gradient."""
        if self.valuer is None:
            bucket = lambda *tensors: describe_bucket(tensors[1:])  # noqa: E731
            self.valuer = Compiled("values", self.value_cells().construct, self.log, bucket=bucket)
        valuer = self.valuer
        (values,) = fill_rows(batch, self.micro_batches(batch), lambda micro: self.outputs(valuer, micro))
        return values

    def value_cells(self) -> ValueOutputs:
        """Body and value head for one compiled function."""
        assert self.head is not None
        return ValueOutputs(
            self.architecture, {**self.weights, **self.head_weights}, self.head, self.layout, lora_scale=self.lora_scale,
            recompute=self.model_config.recompute, group=self.group,
        )  # fmt: skip

    def logps(self, batch: Batch, *, reference: bool = False, entropy: bool = False) -> LogProbs:
        """Log-probs of this rank's rows, without gradient; ``reference`` uses the reference weights."""
        scorer = self.scorer(reference, entropy)
        logps, *entropies = fill_rows(
            batch, self.micro_batches(batch), lambda micro: self.outputs(scorer, micro), outputs=1 + entropy
        )
        return LogProbs(logps=logps, entropy=entropies[0] if entropy else None)

    def sync_reference(self, share: float) -> None:
        """Move the reference to ``share`` * policy + (1 - share) * reference (TR-DPO, arXiv:2404.09656).

        Raises:
            BackendError: the policy has adapters.
        """
        self.reference.sync(self.weights, share)

    def roles(self) -> dict[str, Role]:
        """Weights, optimizer, and the frozen copy."""
        frozen = DeviceMemory(lambda: (self.reference.frozen or {}).values(), self.context.device)
        return {**super().roles(), "reference": frozen}

    def gather(self) -> None:
        """See ``TrainedModel.gather``; the reference too, if it was moved."""
        super().gather()
        self.reference.gather(main=self.comm.rank == 0)

    def save_model(self, folder: Path, *, merge: bool = False) -> None:
        """Write the Hugging Face layout: for LoRA the adapter alone unless ``merge``."""
        hf.save_model(self.weights, self.architecture, folder, self.model_config, merge=merge, values=self.whole)
        self.whole = None

    def save_state(self, folder: Path) -> None:
        """Write optimizer and buckets, and the reference if it was moved."""
        super().save_state(folder)
        self.reference.save(folder)
        if self.head is not None:
            write_tensors(
                folder / SHARED_HEAD, {name: hf.numbers(weight) for name, weight in self.head_weights.items()}
            )

    def load_state(self, model: Path, state: Path) -> None:
        """Copy saved weights, optimizer and reference into the live ones, which stay where they are."""
        hf.restore_weights(self.weights, self.architecture, model, self.slices)
        self.restore_state(state)
        self.reference.load(state)
        if self.head is not None:
            for name, info in read_header(state / SHARED_HEAD).items():
                overwrite(self.head_weights[name], Tensor(read_tensor(state / SHARED_HEAD, info)))

    def scorer(self, reference: bool, entropy: bool) -> Compiled:
        """Log-probs, and entropies where asked, compiled on first use."""
        if (reference, entropy) not in self.scorers:
            model = self.model(reference=reference)
            name = f"{'reference ' if reference else ''}log-probs{' and entropies' if entropy else ''}"
            function = model.construct if entropy else model.logps
            self.scorers[reference, entropy] = Compiled(
                name, function, self.log, bucket=lambda *tensors: describe_bucket(tensors[1:])
            )
        return self.scorers[reference, entropy]

    def cells(self, loss: Loss) -> LogProbModel | ValueOutputs:
        """Log-probs and entropies, these with gradient where the loss reads them; or a shared critic's values."""
        if loss.reads_values:
            return self.value_cells()
        return self.model(entropy_gradient=loss.reads_entropy)

    def model(self, *, reference: bool = False, entropy_gradient: bool = False) -> LogProbModel:
        """Cells for one compiled function, over the policy's weights or the reference's."""
        weights = self.reference.weights_for(self.weights) if reference else self.weights
        return LogProbModel(
            self.architecture, weights, self.layout, lora_scale=0.0 if reference else self.lora_scale,
            recompute=self.model_config.recompute and not reference, entropy_gradient=entropy_gradient,
            group=self.group,
        )  # fmt: skip
