"""A critic or reward model: a language model's body with a head of one number, read before or at each token."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mindrlhf_grpo.backend import Loss, ReadAt, UpdateResult
from mindrlhf_grpo.batches.row_arrays import fill_rows
from mindrlhf_grpo.config.parallel import ParallelConfig
from mindrlhf_grpo.config.run import ModelConfig, TrainConfig
from mindrlhf_grpo.errors import BackendError, CheckpointError, ConfigError
from mindrlhf_grpo.model_files.folder import find_folder
from mindrlhf_grpo.model_files.value_head import (
    NAME,
    ValueHead,
    load_value_head,
    mark_head_in_adapter,
    write_head_settings,
)
from mindrlhf_grpo.parallel.single_process import SingleProcess
from mindrlhf_grpo.types import Batch

from ..comm import TorchRanks
from ..models import hf
from ..models.lean_layers import make_lean
from ..models.part_loading import classifier_parts
from ..models.tensor_slices import TensorSlices
from ..models.value_head import value_head
from .division import Start
from .layout_choice import PackedModel, recompute_activations, unpack
from .layouts import ModelInput
from .parallel import passes
from .trained_model import TrainedModel

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.05 / 8}  # of hidden states, relative norm
ADAPTER, PREFIX = "adapter_model.safetensors", "base_model.model."


class ValueOutputs(PackedModel):
    """Body and head as a function from completions to values; the probe compares hidden states."""

    probed = "hidden states"

    def __init__(
        self,
        model: nn.Module,
        requested: str,
        read_at: ReadAt,
        *,
        recompute: bool,
        slices: TensorSlices | None = None,
        start: Start | None = None,
    ) -> None:
        super().__init__(model, read_at, slices, None if start is None else start.device)
        if start is not None:
            start.fill(self)
        self.head: nn.Module = self.unwrapped.score
        self.tolerance = TOLERANCE[next(self.body.parameters()).dtype]
        self.find_attention()
        self.layout, self.layout_reason = self.choose_layout(requested)
        if recompute:
            recompute_activations(self.unwrapped)
        if start is not None:
            start.end()

    def values(self, inputs: ModelInput) -> Tensor:
        """``[N, T]`` float32, 0 past each length."""
        values: Tensor = self.with_weights(self.outputs_within, inputs)
        return values

    def outputs(self, inputs: ModelInput) -> Tensor:
        """Values."""
        return self.values(inputs)

    def outputs_within(self, inputs: ModelInput) -> Tensor:
        return unpack(self.head(self.hidden(inputs))[:, 0], inputs)

    @torch.no_grad()
    def probe_outputs(self) -> Tensor:
        """Hidden states ``[R, E]`` of the probe group."""
        states: Tensor = self.with_weights(self.hidden, self.input(self.probe))
        return states.float()

    def deviation(self, outputs: Tensor, truth: Tensor) -> float:
        """Norm of the difference over the norm."""
        gap = float((outputs - truth).norm() / truth.norm())
        return gap if np.isfinite(gap) else float("inf")

    def find_attention(self) -> None:
        """Eager attention where sdpa refuses the model (soft-capped scores)."""
        try:
            self.probe_outputs()
        except ValueError:
            self.unwrapped.set_attn_implementation("eager")
            self.model_attention = "eager"


class TorchValueModel(TrainedModel):
    """Implements ``backend.ValueModel``."""

    def __init__(
        self,
        config: ModelConfig,
        train: TrainConfig,
        read_at: ReadAt,
        device: torch.device,
        comm: SingleProcess | TorchRanks,
        *,
        seed: int,
        parallel: ParallelConfig | None = None,
    ) -> None:
        super().__init__(train, device, comm, parallel)
        self.config, self.read_at, self.seed = config, read_at, seed
        self.held: ValueOutputs | None = None
        self.restored = False
        self.load()

    @torch.enable_grad()
    def load(self) -> ValueOutputs:
        """Read the weights from the folder."""
        start = self.division.start(self.config, classifier_parts)
        classifier: Any = hf.load_classifier(self.config, self.device) if start is None else start.model
        self.stored_head = load_value_head(
            find_folder(self.config.path), classifier.config.get_text_config().hidden_size, seed=self.seed
        )
        classifier.score = value_head(self.stored_head).to(self.device)
        adapted = self.with_adapters(classifier)
        slices = self.division.cut(adapted, start)
        self.take_weights(adapted)
        make_lean(self.model)
        self.held = ValueOutputs(
            self.model, self.config.layout, self.read_at, recompute=self.config.recompute, slices=slices, start=start
        )
        self.layout, self.layout_reason = self.held.layout, self.held.layout_reason
        self.shard(self.held, start)
        return self.held

    def with_adapters(self, classifier: Any) -> Any:
        """Add LoRA to the body where it is configured; the head is always trained."""
        if not self.config.lora_rank:
            return classifier
        if self.parallel is not None and (self.parallel.strategy != "replicate" or self.parallel.tensor > 1):
            asked = f"parallel.strategy={self.parallel.strategy}, parallel.tensor={self.parallel.tensor}"
            raise BackendError(
                f"{asked} is not made for a reward model with LoRA; accepted: "
                "parallel.strategy=replicate with parallel.tensor=1, or model.lora_rank=0"
            )
        model = hf.add_lora(classifier, self.config, seed=self.seed, task=None)
        classifier.score.requires_grad_(True)
        return model

    @property
    def packed(self) -> ValueOutputs:
        return self.awake()

    def awake(self) -> ValueOutputs:
        """Return the weights, read again if they were released."""
        return self.held or self.load()

    @torch.no_grad()
    def values(self, batch: Batch) -> NDArray[np.float32]:
        """Values ``[N, T]`` float32 without gradient, 0 past each length."""
        packed = self.packed
        every = self.micro_batches(batch)
        with passes(self.shards, len(every), gradient=False):
            (values,) = fill_rows(batch, every, lambda micro: [packed.values(packed.input(micro)).cpu().numpy()])
        return values

    @torch.no_grad()
    def embeddings(self, batch: Batch) -> NDArray[np.float32]:
        """Hidden states ``[N, E]`` that the head reads at the last token of each row."""
        packed = self.packed
        embeddings = np.zeros((len(batch), packed.unwrapped.config.get_text_config().hidden_size), dtype=np.float32)
        for rows in self.micro_batches(batch):
            micro = batch.take(rows)
            last = np.cumsum(micro.lengths, dtype=np.int64) - 1  # the read states lie row by row
            embeddings[rows] = packed.hidden(packed.input(micro))[last].float().cpu().numpy()
        return embeddings

    def update(
        self, batch: Batch, loss: Loss, *, learning_rate: float, also: Sequence[tuple[Batch, Loss]] = ()
    ) -> UpdateResult:
        """See ``TrainedModel.update``."""
        self.awake()
        return super().update(batch, loss, learning_rate=learning_rate, also=also)

    def outputs(
        self, inputs: ModelInput, batch: Batch, tensors: dict[str, Tensor], loss: Loss
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Values."""
        return self.packed.values(inputs), {}

    def empty_sums(self) -> dict[str, float]:
        return {"tokens": 0.0}

    def release(self) -> None:
        """Free the weights until the next call, which reads the folder again.

        Raises:
            BackendError: the model has been trained, so the folder no longer holds its weights.
        """
        if self.held is None:
            return
        if self.optimizer.steps or self.restored:
            raise BackendError(f"{self.config.path}: a value model that has been trained cannot be released")
        self.held = None
        del self.model, self.trainable, self.optimizer
        gc.collect()  # modules and their lean forms point at each other
        if self.device.type != "cpu":
            torch.accelerator.empty_cache()

    def save_state(self, folder: Path) -> None:
        """Write the optimizer."""
        self.awake()
        super().save_state(folder)

    def save_model(self, folder: Path, *, merge: bool = False) -> None:
        """Write transformers' classification layout; for LoRA the adapter with the head alone unless ``merge``."""
        classifier = self.packed.unwrapped
        hf.save_model(self.model, folder, merge=merge, tensors=self.gathered_weights())
        if hf.is_lora(self.model) and not merge:
            add_head_to_adapter(folder, classifier.score)
        else:
            write_head_settings(folder, self.stored_head)

    def load_state(self, model: Path, state: Path) -> None:
        """Copy saved weights and optimizer into the live ones, whose storage stays.

        Raises:
            CheckpointError: the folder does not fit the model.
        """
        classifier = self.packed.unwrapped
        try:
            if hf.is_lora(self.model):
                load_adapter_with_head(self.model, classifier.score, model)
            elif not self.read_parts(model):
                hf.copy_tensors(dict(hf.hf_tensors(self.model)), self.local_parts(saved_tensors(self.config, model)))
        except (ConfigError, OSError, RuntimeError, KeyError, ValueError) as error:
            raise CheckpointError(f"{model} does not hold this model's weights: {error}") from None
        self.load_optimizer(state)
        self.restored = True


def saved_tensors(config: ModelConfig, folder: Path) -> dict[str, Tensor]:
    """Weights of a saved value model by name."""
    saved: Any = hf.load_classifier(config.model_copy(update={"path": str(folder)}), torch.device("cpu"))
    saved.score = value_head(stored_head(folder, saved))
    return dict(hf.hf_tensors(saved))


def stored_head(folder: Path, classifier: Any) -> ValueHead:
    return load_value_head(folder, classifier.config.get_text_config().hidden_size, seed=0)


def add_head_to_adapter(folder: Path, head: nn.Module) -> None:
    """Write the head beside the adapter, in the file layout of peft's ``modules_to_save``."""
    from safetensors.torch import load_file, save_file

    tensors = {f"{PREFIX}{NAME}.{name}": weight.detach().contiguous() for name, weight in head.named_parameters()}
    save_file({**load_file(folder / ADAPTER), **tensors}, folder / ADAPTER, metadata={"format": "pt"})
    mark_head_in_adapter(folder)


def load_adapter_with_head(model: Any, head: nn.Module, folder: Path) -> None:
    """Copy a saved adapter and its head into the live ones."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import load_file

    live = get_peft_model_state_dict(model, save_embedding_layers=False)
    live |= {f"{PREFIX}{NAME}.{name}": weight.detach() for name, weight in head.named_parameters()}
    hf.copy_tensors(live, load_file(folder / ADAPTER))
