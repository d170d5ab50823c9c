"""A critic or reward model: a language model's body with a head of one number, read before or at each token."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn
from mindspore import ops as native
from numpy.typing import NDArray

from mindrlhf_grpo.backend import Loss, ReadAt, UpdateResult
from mindrlhf_grpo.batches.row_arrays import fill_rows
from mindrlhf_grpo.config.run import ModelConfig, TrainConfig
from mindrlhf_grpo.errors import BackendError, CheckpointError, UserError
from mindrlhf_grpo.model_files.architecture import Architecture
from mindrlhf_grpo.model_files.folder import find_folder, read_header, read_model_config
from mindrlhf_grpo.model_files.lora import PREFIX
from mindrlhf_grpo.model_files.safetensors import write_tensors
from mindrlhf_grpo.model_files.value_head import (
    ValueHead,
    body_config,
    is_head,
    load_value_head,
    mark_head_in_adapter,
    write_head_settings,
)
from mindrlhf_grpo.types import Batch

from ..graph import Compiled, empty, overwrite
from ..models import Decoder, hf, supported_architecture
from ..models.tensor_group import ALONE, TensorGroup
from ..models.value_head import FloatHead, head_weights
from ..models.weight_slices import WeightSlices
from .log_probs import ATTENTION, INPUTS, in_rows
from .trained_model import RunContext, TrainedModel, describe_bucket, sharpness

ADAPTER = "adapter_model.safetensors"


class ValueOutputs(nn.Cell):
    """Body and head; compiled as part of a train step or alone."""

    def __init__(
        self,
        architecture: Architecture,
        weights: Mapping[str, Parameter],
        head: ValueHead,
        layout: str,
        *,
        lora_scale: float,
        recompute: bool,
        group: TensorGroup = ALONE,
    ) -> None:
        super().__init__(auto_prefix=False)
        attend = ATTENTION[layout](architecture.attention_scale, recomputed=recompute)
        self.decoder = Decoder(architecture, weights, attend, lora_scale=lora_scale, recompute=recompute, group=group)
        self.head = FloatHead(weights, head)

    def construct(self, sharpness: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        """``ModelInput.tensors`` -> values ``[N, T]``, 0 past each length; the temperature is not used."""
        hidden = self.decoder(inputs[0], inputs[1], inputs[INPUTS:])
        values = self.head(native.gather(hidden, inputs[2], 0))
        return (in_rows(values, inputs[4], inputs[5]),)

    def read(self, sharpness: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        """``ModelInput.tensors`` -> hidden states ``[R, E]`` wherever the head reads."""
        return (native.gather(self.decoder(inputs[0], inputs[1], inputs[INPUTS:]), inputs[2], 0).astype(ms.float32),)


class MindSporeValueModel(TrainedModel):
    """Implements ``backend.ValueModel``."""

    gives_entropies = False

    def __init__(self, config: ModelConfig, train: TrainConfig, read_at: ReadAt, context: RunContext) -> None:
        architecture = supported_architecture(body_config(read_model_config(find_folder(config.path))))
        super().__init__(config, train, replace(architecture, headless=True), context)
        self.read_at = read_at
        self.awake = self.restored = False
        self.load()
        head = sum(values.size for values in self.head.tensors.values())
        body = sum(weight.size for name, weight in self.weights.items() if ".lora_" not in name) - head
        self.make_buckets(body=body - architecture.vocabulary * architecture.hidden, head=head)

    def load(self) -> None:
        """Read the weights from the folder, unless they are loaded."""
        if self.awake:
            return
        weights = hf.load_weights(self.folder, self.architecture, self.model_config.dtype, self.slices)
        self.head = load_value_head(self.folder, self.architecture.hidden, seed=self.context.seed)
        if self.model_config.lora_rank:
            weights = hf.add_lora(
                weights, self.model_config, self.architecture, seed=self.context.seed, slices=self.slices
            )
        self.take_weights({**weights, **head_weights(self.head)})
        self.readers: dict[str, Compiled] = {}
        self.awake = True

    def cells(self, loss: Loss | None = None) -> ValueOutputs:
        """Values."""
        return ValueOutputs(
            self.architecture, self.weights, self.head, self.layout, lora_scale=self.lora_scale,
            recompute=self.model_config.recompute, group=self.group,
        )  # fmt: skip

    def values(self, batch: Batch) -> NDArray[np.float32]:
        """Values ``[N, T]`` float32 without gradient, 0 past each length."""
        self.load()
        reader = self.reader("values")
        (values,) = fill_rows(batch, self.micro_batches(batch), lambda micro: self.outputs(reader, micro))
        return values

    def embeddings(self, batch: Batch) -> NDArray[np.float32]:
        """Hidden states ``[N, E]`` that the head reads at the last token of each row."""
        self.load()
        reader = self.reader("embeddings")
        embeddings = np.zeros((len(batch), self.architecture.hidden), dtype=np.float32)
        for rows in self.micro_batches(batch):
            micro = batch.take(rows)
            inputs = self.input(micro)[0]
            last = inputs.rows.asnumpy()[np.arange(len(micro)), np.asarray(micro.lengths, np.int64) - 1]
            (hidden,) = reader(sharpness(micro), *inputs.tensors())
            embeddings[rows] = hidden.asnumpy()[last]
        return embeddings

    def reader(self, what: str) -> Compiled:
        """``values`` or ``embeddings`` of a padded micro-batch, compiled on first use."""
        if what not in self.readers:
            cells = self.cells()
            construct = cells.construct if what == "values" else cells.read
            self.readers[what] = Compiled(
                what, construct, self.log, bucket=lambda *tensors: describe_bucket(tensors[1:])
            )
        return self.readers[what]

    def update(
        self, batch: Batch, loss: Loss, *, learning_rate: float, also: Sequence[tuple[Batch, Loss]] = ()
    ) -> UpdateResult:
        """See ``TrainedModel.update``."""
        self.load()
        return super().update(batch, loss, learning_rate=learning_rate, also=also)

    def fingerprint(self) -> str:
        """Digest of the weights by Hugging Face name, adapters merged."""
        self.load()
        return super().fingerprint()

    def release(self) -> None:
        """Free the weights and the functions compiled over them until the next call, which reads the folder again.

        Raises:
            BackendError: the model has been trained, so the folder no longer holds its weights.
        """
        if not self.awake:
            return
        if self.optimizer.steps or self.restored:
            raise BackendError(f"{self.model_config.path}: a value model that has been trained cannot be released")
        for compiled in [*self.readers.values(), *(step for step, _ in self.steps.values())]:
            compiled.forget()
        self.awake = False
        self.readers.clear()
        self.steps.clear()
        for weight in self.weights.values():
            empty(weight)
        del self.weights, self.trainable, self.optimizer
        gc.collect()  # cells point at each other

    def save_model(self, folder: Path, *, merge: bool = False) -> None:
        """Write transformers' classification layout; for LoRA the adapter with the head alone unless ``merge``."""
        self.load()
        hf.save_model(self.weights, self.architecture, folder, self.model_config, merge=merge, values=self.whole)
        if hf.is_lora(self.weights) and not merge:
            self.add_head_to_adapter(folder, self.whole or {})
        else:
            write_head_settings(folder, self.head)
        self.whole = None

    def save_state(self, folder: Path) -> None:
        """Write optimizer and buckets."""
        self.load()
        super().save_state(folder)

    def load_state(self, model: Path, state: Path) -> None:
        """Copy saved weights and optimizer into the live ones, which stay where they are.

        Raises:
            CheckpointError: the folder does not fit the model.
        """
        self.load()
        try:
            if hf.is_lora(self.weights):
                restore_adapter(self.saved_with_adapter(), model, self.slices)
            else:
                restore_all(self.weights, self.architecture, model, self.slices)
        except (UserError, OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{model} does not hold this model's weights: {error}") from None
        self.restore_state(state)
        self.restored = True

    def add_head_to_adapter(self, folder: Path, whole: Mapping[str, NDArray[np.float32]]) -> None:
        """Write the head beside the adapter, in the file layout of peft's ``modules_to_save``.

        Args:
            whole: adapters of which this rank holds slices.
        """
        saved = self.saved_with_adapter().items()
        tensors = {PREFIX + name: whole[name] if name in whole else hf.numbers(weight) for name, weight in saved}
        write_tensors(folder / ADAPTER, tensors)
        mark_head_in_adapter(folder)

    def saved_with_adapter(self) -> dict[str, Parameter]:
        """Adapters and head."""
        return {**hf.adapters(self.weights), **{name: self.weights[name] for name in self.head.tensors}}


def restore_adapter(live: Mapping[str, Parameter], folder: Path, slices: WeightSlices) -> None:
    """Copy a saved adapter and the head beside it into the live ones."""
    path = folder / ADAPTER
    saved = {name.removeprefix(PREFIX): info for name, info in read_header(path).items()}
    if saved.keys() != live.keys():
        raise KeyError(f"weights differ: {', '.join(sorted(saved.keys() ^ live.keys())[:3])}")
    for name, weight in live.items():
        values = slices.of_parts(name, saved[name].shape, [(path, saved[name])])
        if values.shape != tuple(weight.shape):
            raise ValueError(f"{name} is {saved[name].shape}, here {slices.whole_shape(name, tuple(weight.shape))}")
        overwrite(weight, Tensor(values))


def restore_all(
    weights: Mapping[str, Parameter], architecture: Architecture, folder: Path, slices: WeightSlices
) -> None:
    """Copy a saved body and head into the live ones."""
    saved = load_value_head(folder, architecture.hidden, seed=0).tensors
    live = {name: weight for name, weight in weights.items() if is_head(name)}
    if saved.keys() != live.keys():
        raise KeyError(f"heads differ: {', '.join(sorted(saved.keys() ^ live.keys()))}")
    body = {name: weight for name, weight in weights.items() if not is_head(name)}
    hf.restore_weights(body, architecture, folder, slices)
    for name, weight in live.items():
        overwrite(weight, Tensor(saved[name]))
