"""Loading a model of which each rank keeps a part, without a whole copy anywhere.

The model is made without memory (on torch's meta device) and cut; then each module's weights are read from the
safetensors, of every tensor only this rank's slices. Where weights are sharded as well (FSDP), a layer is read, sharded and
freed before the next one. What cannot be read this way (weights under other names than the model's, adapters,
other types than floats) is loaded whole and cut afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mindrlhf_grpo.config.run import ModelConfig
from mindrlhf_grpo.model_files.folder import find_folder, read_headers, weight_files
from mindrlhf_grpo.model_files.weights import file_parts
from mindrlhf_grpo.parallel.resharding import Box, Parameter, RankLayout, slices

from . import hf
from .tensor_slices import TensorSlices, bare, fill_part, whole_parameters

GENERATION = "generation_config.json"


class StoredWeights:
    """The tensors of a folder of safetensors, read by slices.

    Attributes:
        read_bytes: bytes that have been read so far.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shapes = {name: tuple(info.shape) for name, info in read_headers(folder).items()}
        self.read_bytes = 0
        self.files: dict[str, Any] = {}
        self.opened = ExitStack()

    def missing(self, parameters: Iterable[tuple[str, tuple[int, ...]]]) -> list[str]:
        """Weights of a model, by name and full shape, that the files do not have in this form."""
        return [
            name
            for name, shape in parameters
            if any(self.shapes.get(part) != stored for part, stored in self.stored_parts(name, shape))
        ]

    def stored_parts(self, name: str, shape: tuple[int, ...]) -> list[tuple[str, tuple[int, ...]]]:
        """The tensors that a weight is stored as: itself, or one of each expert."""
        return [(name, shape)] if name in self.shapes else file_parts(name, shape)

    def read(self, name: str, shape: tuple[int, ...], box: Box) -> Tensor:
        """A box of a weight of this full shape."""
        parts = self.stored_parts(name, shape)
        if len(parts) == 1:
            return self.read_slice(parts[0][0], box)
        return self.read_experts(parts, shape, box)

    def read_experts(self, parts: list[tuple[str, tuple[int, ...]]], shape: tuple[int, ...], box: Box) -> Tensor:
        """A box of stacked experts: of each, one tensor, or gate and up one after the other."""
        by_expert = len(parts) // shape[0]
        (first, last), rows, columns = box
        stacked = []
        for expert in range(first, last):
            begin, pieces = 0, []
            for part, stored in parts[expert * by_expert : (expert + 1) * by_expert]:
                low, high = max(rows[0] - begin, 0), min(rows[1] - begin, stored[0])
                if low < high:
                    pieces.append(self.read_slice(part, ((low, high), columns)))
                begin += stored[0]
            stacked.append(torch.cat(pieces))
        return torch.stack(stacked)

    def read_slice(self, name: str, box: Box) -> Tensor:
        """A box of a stored tensor."""
        stored = self.file_of(name).get_slice(name)
        part: Tensor = stored[slices(box)] if box else self.file_of(name).get_tensor(name)
        self.read_bytes += part.nbytes
        return part

    def file_of(self, name: str) -> Any:
        """The open file that has a tensor."""
        from safetensors import safe_open

        if not self.files:
            for path in weight_files(self.folder):
                opened = self.opened.enter_context(safe_open(path, framework="pt"))
                self.files |= dict.fromkeys(opened.keys(), opened)
        return self.files[name]

    def __enter__(self) -> StoredWeights:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self.opened.close()
        self.files = {}


class PartLoader:
    """A model on the meta device, and what fills it with this rank's slices.

    Attributes:
        model: to be cut before it is filled.
        parameters: full shape and cut of every weight by bare name.
        peak_bytes: the most bytes of weights that this rank has held at once.
    """

    def __init__(self, model: Any, stored: StoredWeights, device: torch.device) -> None:
        self.model, self.stored, self.device = model, stored, device
        self.parameters: dict[str, Parameter] = {}
        self.layout, self.place = RankLayout(), 0
        self.peak_bytes = 0

    def note(self, slices: TensorSlices | None) -> None:
        """Note how the model has been cut; None: each rank reads all of it."""
        if slices is None:
            self.parameters = whole_parameters(self.model)
        else:
            self.parameters = slices.parameters
            self.layout, self.place = RankLayout(tp=slices.group.size), slices.group.place

    @torch.no_grad()
    def fill(self, module: nn.Module) -> None:
        """Read the weights and saved buffers of a module that have no memory yet, this rank's part of each."""
        names = {id(one): bare(name) for name, one in self.model.named_parameters()}
        for parameter in list(module.parameters()):
            if parameter.is_meta:
                name = names[id(parameter)]
                self.put(parameter, self.read_part(self.parameters[name], parameter))
        held = (hf.local(one).nbytes for one in self.model.parameters() if not one.is_meta)
        self.peak_bytes = max(self.peak_bytes, sum(held))

    def put(self, old: nn.Parameter, values: Tensor) -> None:
        """Replace a parameter wherever the model has it: tied weights stay one."""
        new = nn.Parameter(values, requires_grad=old.requires_grad)
        for module in self.model.modules():
            for key, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
                if parameter is old:
                    setattr(module, key, new)

    def read_part(self, parameter: Parameter, like: Tensor) -> Tensor:
        """This rank's part of a weight, in the type of the model."""
        part = torch.empty(like.shape, dtype=like.dtype, device=self.device)
        fill_part(part, parameter, self.layout, self.place, partial(self.stored.read, parameter.name, parameter.shape))
        return part


def causal_lm_parts(model: ModelConfig, device: torch.device) -> PartLoader | None:
    """The language model of a folder, to be filled part by part; None where it must be loaded whole.

    Raises:
        ConfigError: no such folder, no config.json, an unknown architecture.
    """
    hf.check_folder(model.path)
    with hf.quiet_loading(), hf.refused_as_config_error(model.path):
        return skeleton(model, hf.model_class(model), device)


def classifier_parts(model: ModelConfig, device: torch.device) -> PartLoader | None:
    """The same for a sequence classifier, whose head the caller sets."""
    from transformers import AutoModelForSequenceClassification

    hf.check_folder(model.path)
    with hf.quiet_loading(), hf.refused_as_config_error(model.path):
        return skeleton(model, AutoModelForSequenceClassification, device, **hf.classifier_settings(model.path))


def skeleton(model: ModelConfig, cls: Any, device: torch.device, **settings: Any) -> PartLoader | None:
    """A model without memory for its weights; None where its files cannot be read by slices.

    Args:
        cls: transformers' auto class.
    """
    from transformers import AutoConfig, GenerationConfig

    folder = find_folder(model.path)
    config = settings.pop("config", None) or AutoConfig.from_pretrained(folder, **settings)
    if model.trust_remote_code or getattr(config, "quantization_config", None) is not None:
        return None
    try:
        with torch.device("meta"):
            made = cls.from_config(config, dtype=hf.DTYPES[model.dtype])
    except (ValueError, TypeError, RuntimeError, NotImplementedError):
        return None
    stored = StoredWeights(folder)
    wanted = [(name, tuple(one.shape)) for name, one in made.named_parameters() if not name.startswith("score.")]
    buffers = dict(hf.saved_buffers(made))
    if stored.missing([*wanted, *((name, tuple(buffer.shape)) for name, buffer in buffers.items())]):
        return None
    if made.can_generate() and (folder / GENERATION).is_file():
        made.generation_config = GenerationConfig.from_pretrained(folder)
    fill_buffers(made, stored, set(buffers), device)
    return PartLoader(hf.in_eval_mode(made), stored, device)


@torch.no_grad()
def fill_buffers(made: Any, stored: StoredWeights, saved: set[str], device: torch.device) -> None:
    """Read saved buffers, and compute the others, such as the frequencies of rotary embeddings, as the model does."""
    computed: dict[str, nn.Module] = {}
    for name, buffer in list(made.named_buffers()):
        place, _, key = name.rpartition(".")
        owner = made.get_submodule(place)
        if name in saved:
            value = stored.read_slice(name, tuple((0, size) for size in buffer.shape)).to(buffer.dtype)
        else:
            value = torch.empty(buffer.shape, dtype=buffer.dtype)
            computed[place] = owner
        owner._buffers[key] = value.to(device)
    for owner in computed.values():
        made._init_weights(owner)
