"""ZeRO stages 1 and 2 (arXiv:1910.02054): each rank keeps and steps its share of the optimizer state.

The trained weights are laid end to end in flat float32 buckets, of which every data-parallel rank owns an equal slice
(with tensor parallelism, of the slices of weights that these ranks hold). A step sums the gradients into the owners'
slices, steps these with AdamW, and gathers them back into the weights. AdamW knows nothing of it: to it the slices are
the parameters, and they are also the master weights of 16-bit ones.
Stages 1 and 2 are one here: a gradient is freed when its bucket has been summed, and between steps there are none.
Legend: n weights of a bucket, w ranks, s = ceil(n / w) of a slice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, ops
from numpy.typing import NDArray

from mindrlhf_grpo.errors import CheckpointError
from mindrlhf_grpo.model_files.folder import read_header
from mindrlhf_grpo.model_files.optimizer_state import TENSORS, check_names, named_state, read_steps

from ..comm import MindSporeRanks, buckets
from ..graph import overwrite
from ..models.hf import numbers
from .optim import AdamW, ReadSlice

BUCKET = (
    8 * 1024 * 1024
)  # weights that are summed, stepped and gathered at once; a larger tensor is a bucket of its own
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Some of the weights end to end, and this rank's slice of them ``[s]``.

    Attributes:
        cut: whether tensor-parallel ranks hold slices of these weights; else each of them steps all.
    """

    parameters: dict[str, Parameter]
    own: Parameter
    cut: bool

    @property
    def size(self) -> int:
        return sum(parameter.size for parameter in self.parameters.values())


class OptimizerShards:
    """The shares of all ranks in the optimizer state of some weights.

    Attributes:
        parameters: this rank's slices by the name of their bucket: what AdamW steps.
    """

    def __init__(
        self,
        trainable: Mapping[str, Parameter],
        comm: MindSporeRanks,
        is_cut: Callable[[str], bool] = lambda name: False,
    ) -> None:
        self.comm = comm
        self.buckets: dict[str, Bucket] = {}
        for cut in (True, False):
            names = [name for name in trainable if is_cut(name) == cut]
            for first, last in buckets([trainable[name].size for name in names], BUCKET):
                number = str(len(self.buckets))
                members = {name: trainable[name] for name in names[first:last]}
                own = Parameter(Tensor(self.own_slice(flat_numbers(members.values()))), name=f"slice/{number}")
                self.buckets[number] = Bucket(parameters=members, own=own, cut=cut)

    @property
    def parameters(self) -> dict[str, Parameter]:
        return {name: bucket.own for name, bucket in self.buckets.items()}

    def own_slice(self, flat: Floats) -> Floats:
        """This rank's slice ``[s]`` of ``[n]``, zeros past its end."""
        size = self.slice_size(len(flat))
        own = flat[self.comm.data_rank * size : (self.comm.data_rank + 1) * size]
        return np.pad(own, (0, size - len(own)))

    def slice_size(self, size: int) -> int:
        return -(-size // self.comm.data_size)

    def reduce(self, gradients: dict[str, Tensor]) -> list[Tensor]:
        """This rank's slices of the gradients' sums over ranks, by bucket; each gradient is freed once it is summed."""
        slices: list[Tensor] = []
        for bucket in self.buckets.values():
            parts = [gradients.pop(name).reshape(-1).astype(ms.float32) for name in bucket.parameters]
            padding = self.slice_size(bucket.size) * self.comm.data_size - bucket.size
            flat = ops.cat([*parts, ops.zeros((padding,), ms.float32)]) if padding else ops.cat(parts)
            slices.append(self.comm.sum_to_owners(flat))
        return slices

    def gather_weights(self) -> None:
        """Overwrite the weights on every rank by the slices that their owners have stepped."""
        for bucket in self.buckets.values():
            flat, start = self.comm.gather_slices(bucket.own), 0
            for parameter in bucket.parameters.values():
                overwrite(parameter, flat[start : start + parameter.size].reshape(parameter.shape))
                start += parameter.size

    def gathered_state(self, optimizer: AdamW) -> dict[str, Floats]:
        """The state of all ranks by weight, under the names of an optimizer that holds everything; every rank calls it."""
        averages = self.full(optimizer.averages)
        square_averages = self.full(optimizer.square_averages)
        narrow = self.narrow()
        slices = self.full(self.parameters) if narrow else {}
        masters = {name: values for name, values in slices.items() if name in narrow}
        return named_state(averages, square_averages, masters) if averages else {}

    def load_state(self, optimizer: AdamW, folder: Path, read: ReadSlice) -> None:
        """Cut this rank's slices from a saved state, and from the weights, which are loaded already.

        Raises:
            CheckpointError: the state belongs to other parameters or cannot be read.
        """
        try:
            optimizer.steps = read_steps(folder)
            saved = {name: read(folder / TENSORS, info, name) for name, info in read_header(folder / TENSORS).items()}
            shapes = {name: tuple(parameter.shape) for name, parameter in self.weights().items()}
            masters = {name: shapes[name] for name in self.narrow()}
            expected = named_state(shapes, shapes, masters) if saved else {}
            check_names(saved, expected, "tensors")
            for name, shape in expected.items():
                if saved[name].shape != shape:
                    raise ValueError(f"{name} is {saved[name].shape}, here {shape}")
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{folder} does not hold this optimizer's state: {error}") from None
        weights = {name: saved.get(f"master/{name}", numbers(weight)) for name, weight in self.weights().items()}
        self.overwrite(self.parameters, weights)
        if saved:
            optimizer.create_state()
            self.overwrite(optimizer.averages, {name: saved[f"average/{name}"] for name in weights})
            self.overwrite(optimizer.square_averages, {name: saved[f"square_average/{name}"] for name in weights})

    def weights(self) -> dict[str, Parameter]:
        return {name: weight for bucket in self.buckets.values() for name, weight in bucket.parameters.items()}

    def narrow(self) -> set[str]:
        """The weights of 16 bits, of which the slices are the master weights."""
        return {name for name, weight in self.weights().items() if weight.dtype != ms.float32}

    def full(self, slices: Mapping[str, Parameter]) -> dict[str, Floats]:
        """The values of every weight, from all ranks' slices by bucket; every rank calls it. Empty without slices."""
        values: dict[str, Floats] = {}
        for name, own in slices.items():
            flat, start = self.comm.gather_slices(own).asnumpy(), 0
            for weight, parameter in self.buckets[name].parameters.items():
                values[weight] = flat[start : start + parameter.size].reshape(parameter.shape).copy()
                start += parameter.size
        return values

    def overwrite(self, slices: Mapping[str, Parameter], values: Mapping[str, Floats]) -> None:
        """Overwrite this rank's slices by bucket from full values by weight."""
        for name, own in slices.items():
            flat = np.concatenate([values[weight].reshape(-1) for weight in self.buckets[name].parameters])
            overwrite(own, Tensor(self.own_slice(flat)))


def flat_numbers(parameters: Iterable[Parameter]) -> Floats:
    """The values of parameters end to end, in float32."""
    return np.concatenate([numbers(parameter).reshape(-1) for parameter in parameters])
