"""The reference of a policy: the model without its adapters, or a frozen copy of the weights, which may be moved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from mindspore import Parameter, Tensor
from numpy.typing import NDArray

from mindrlhf_grpo.config.run import ModelConfig
from mindrlhf_grpo.errors import CheckpointError, UserError
from mindrlhf_grpo.model_files.architecture import Architecture
from mindrlhf_grpo.model_files.folder import read_header
from mindrlhf_grpo.model_files.optimizer_state import check_names
from mindrlhf_grpo.model_files.reference_state import FILE, check_move
from mindrlhf_grpo.model_files.safetensors import write_tensors

from ..graph import overwrite
from ..models import hf
from ..models.weight_slices import WeightSlices


class Reference:
    """The reference of one policy.

    Attributes:
        frozen: the copy, loaded on first use; None until then, and always for LoRA.
        moved: whether it differs from the model folder, so that a checkpoint must hold it.
    """

    def __init__(
        self, config: ModelConfig, architecture: Architecture, folder: Path, slices: WeightSlices | None = None
    ) -> None:
        self.config, self.architecture, self.folder = config, architecture, folder
        self.slices = slices or WeightSlices(architecture)
        self.frozen: dict[str, Parameter] | None = None
        self.moved = False
        self.whole: dict[str, NDArray[np.float32]] = {}  # gathered for a checkpoint

    def weights_for(self, weights: dict[str, Parameter]) -> dict[str, Parameter]:
        """Weights of a policy's reference, to be computed without adapters (a LoRA scale of 0)."""
        return weights if hf.is_lora(weights) else self.copy()

    def copy(self) -> dict[str, Parameter]:
        """The frozen copy; functions compiled over it read these parameters from then on."""
        if self.frozen is None:
            self.frozen = hf.load_weights(self.folder, self.architecture, self.config.dtype, self.slices)
        return self.frozen

    def sync(self, weights: Mapping[str, Parameter], share: float) -> None:
        """Move to ``share`` * policy + (1 - share) * reference, each weight rounded once to its type.

        Raises:
            BackendError: the policy has adapters.
            ValueError: a share outside (0, 1].
        """
        check_move(share, lora=hf.is_lora(weights))
        for name, weight in self.copy().items():
            old, new = hf.numbers(weight), hf.numbers(weights[name])
            way = new - old  # from the nearer end, so that a share of 1 gives the policy's bits
            moved = old + np.float32(share) * way if share < 0.5 else new - np.float32(1 - share) * way
            overwrite(weight, Tensor(moved))
        self.moved = True

    def gather(self, *, main: bool) -> None:
        """Bring the slices of a moved reference to the rank that saves it; every rank calls it."""
        if self.moved and self.slices.divided:
            for name, weight in self.copy().items():
                values = self.slices.whole(name, weight)
                if main:
                    self.whole[name] = values

    def save(self, folder: Path) -> None:
        """Write a moved reference into a saved state; remove the file of an older one that was."""
        if self.moved:
            whole = self.whole or {name: hf.numbers(weight) for name, weight in self.copy().items()}
            write_tensors(folder / FILE, whole)
            self.whole = {}
        else:
            (folder / FILE).unlink(missing_ok=True)

    def load(self, folder: Path) -> None:
        """Restore what ``save`` wrote, or the reference of the model folder.

        Raises:
            CheckpointError: a file that belongs to another model.
        """
        path = folder / FILE
        if path.is_file():
            self.restore(path)
        elif self.moved:
            hf.restore_weights(self.copy(), self.architecture, self.folder, self.slices)
        self.moved = path.is_file()

    def restore(self, path: Path) -> None:
        """Copy the tensors of a file into the frozen copy."""
        try:
            header, live = read_header(path), self.copy()
            check_names(header, live, "weights")
            for name, weight in live.items():
                values = self.slices.of_parts(name, header[name].shape, [(path, header[name])])
                if values.shape != tuple(weight.shape):
                    raise ValueError(f"{name} is {header[name].shape}, here {tuple(weight.shape)}")
                overwrite(weight, Tensor(values))
        except (UserError, OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{path} does not hold this policy's reference: {error}") from None
