"""Weights, gradients and optimizer state sharded over ranks with torch's own ``fully_shard`` (FSDP2).

Every parameter is cut along its first axis; a layer's full weights exist only while it computes (``fsdp``, ZeRO-3,
arXiv:1910.02054), or from its forward to its backward pass (``zero2``); ``zero1`` also keeps full gradients until the
last micro-batch of a step. Between steps all three hold shards alone. Ranks must make equal numbers of passes: a
rank that runs out of rows continues with a tiny batch that adds nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mindrlhf_grpo.config.parallel import ParallelConfig
from mindrlhf_grpo.errors import BackendError, CheckpointError, ConfigError
from mindrlhf_grpo.parallel.resharding import Copy, Parameter, RankLayout, plan_resharding
from mindrlhf_grpo.parallel.resharding import slices as slices_of
from mindrlhf_grpo.parallel.single_process import SingleProcess

from ..comm import Group, TorchRanks
from ..models import hf
from ..models.part_loading import StoredWeights
from ..models.tensor_slices import TensorSlices, bare, fill_part, own_slice, whole_parameters
from .attention import attending
from .optim import AdamW, gradient_norm

if TYPE_CHECKING:
    from .layout_choice import PackedModel


class Entry(nn.Module):
    """The entry to a sharded model: the weights outside its layers are gathered while a function of it runs."""

    def __init__(self, unwrapped: nn.Module) -> None:
        super().__init__()
        self.unwrapped = unwrapped

    def forward(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)


def shard(
    packed: PackedModel,
    settings: ParallelConfig | None,
    device: torch.device,
    comm: SingleProcess | TorchRanks,
    slices: TensorSlices | None = None,
    fill: Callable[[nn.Module], None] | None = None,
) -> Shards | None:
    """Shard a model in place; None where every rank holds everything, as a single process does.

    Args:
        slices: how the model has been cut over tensor-parallel ranks.
        fill: gives a module its weights, for a model that has none yet.

    Raises:
        BackendError: a torch without ``fully_shard``.
    """
    if settings is None or (settings.strategy == "replicate" and slices is None):
        return None
    if isinstance(comm, SingleProcess):
        if settings.offload:
            raise BackendError("parallel.offload needs ranks: start the run with torchrun (one process is enough)")
        return None
    return Shards(packed, settings, device, comm, slices, fill)


class Shards:
    """One model of which each rank holds a part: tensor-parallel slices, shards of them, or shards of whole weights.

    Attributes:
        parameters: full shape and cut of every weight, by bare name.
        layout, group: how its weights lie over the ranks of a group; ranks outside it hold the same once more.
        units: the modules that FSDP gathers at once: each layer, and the rest; none with ``replicate``.
        copies: by weight, the copies from the ranks' parts that make it full.
    """

    def __init__(
        self,
        packed: PackedModel,
        settings: ParallelConfig,
        device: torch.device,
        comm: TorchRanks,
        slices: TensorSlices | None = None,
        fill: Callable[[nn.Module], None] | None = None,
    ) -> None:
        self.packed, self.settings, self.comm, self.slices = packed, settings, comm, slices
        self.sharded = settings.strategy != "replicate"
        self.parameters = whole_parameters(packed.unwrapped) if slices is None else slices.parameters
        self.layout = RankLayout(dp=comm.data.size if self.sharded else 1, tp=comm.mesh.tensor, sharded=self.sharded)
        self.group = comm.world if self.sharded or comm.tensor is None else comm.tensor
        parameters = list(self.parameters.values())
        every = RankLayout(dp=self.layout.ranks)
        plan = plan_resharding(self.layout, parameters, every, parameters, only=self.group.place)
        self.shapes = plan.sources
        self.copies: dict[str, list[Copy]] = {parameter.name: [] for parameter in parameters}
        for copy in plan.copies:
            self.copies[copy.target_parameter].append(copy)
        self.units = fully_sharded(packed, settings, device, comm.data, fill) if self.sharded else []

    @property
    def description(self) -> str:
        """The layout in words."""
        words = f"{self.settings.strategy} over {self.comm.data.size if self.slices else self.comm.world_size} ranks"
        return words if self.slices is None else f"{words}, in slices over {self.slices.group.size}"

    def begin(self) -> None:
        """Prepare for the passes of an optimizer step."""
        if self.settings.strategy == "zero1":
            self.units[-1].set_requires_gradient_sync(False)

    def reduce(self, trainable: Mapping[str, Tensor]) -> None:
        """Finish the passes of an optimizer step: each rank has its part of the summed gradient."""
        if self.settings.strategy == "zero1":
            self.units[-1].set_requires_gradient_sync(True)
            self.idle_pass(gradient=True)
        outside = not self.sharded
        self.comm.data.sum_gradients(
            one for name, one in trainable.items() if outside or bare(name) not in self.parameters
        )
        if self.slices is not None:
            seen_in_part = self.slices.partial
            self.slices.group.sum_gradients(one for name, one in trainable.items() if bare(name) in seen_in_part)

    def idle_pass(self, *, gradient: bool) -> None:
        """A pass over a tiny batch that adds nothing to the gradient."""
        inputs = self.packed.input(self.packed.probe)
        with attending(inputs.attention), torch.set_grad_enabled(gradient):
            nothing = self.packed.outputs(inputs).sum() * 0.0
            if gradient:
                nothing.backward()

    def norm(self, trainable: Mapping[str, Tensor]) -> float:
        """The L2 norm of the gradients of all ranks, in which every element counts once."""
        own = gradient_norm(one for name, one in trainable.items() if self.counts(bare(name)))
        return math.sqrt(math.fsum(part * part for part in self.comm.gather_objects(own)))

    def counts(self, name: str) -> bool:
        """True on the ranks whose part of a weight is no copy of another rank's."""
        if name not in self.parameters:
            return self.comm.rank == 0
        first_of_slices = self.comm.mesh.tensor_rank(self.comm.rank) == 0
        return (self.sharded or self.comm.data.place == 0) and (
            self.parameters[name].axis is not None if self.slices and not first_of_slices else True
        )

    def full_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """(Hugging Face name, full tensor), adapters merged, one after another; every rank must take all of them."""
        self.reshard()
        return hf.hf_tensors(self.packed.model, self.full_tensor)

    def reshard(self) -> None:
        """Free weights that are still gathered from a pass, so that every parameter is this rank's part."""
        for unit in self.units:
            unit.reshard()

    def full_tensor(self, name: str, tensor: Tensor) -> Tensor:
        """The full tensor of a parameter, by its name in the model."""
        return self.gather(bare(name), hf.local(tensor)) if bare(name) in self.parameters else tensor

    @torch.no_grad()
    def gather(self, name: str, own: Tensor) -> Tensor:
        """Gather all ranks' parts of a tensor that is cut like weight ``name``, on the device of this part."""
        parameter = self.parameters[name]
        if not self.sharded and parameter.axis is None:
            return own
        shapes = [shapes.get(name) for shapes in self.shapes]
        flat = own.new_zeros(max(math.prod(shape) for shape in shapes if shape is not None))
        flat[: own.numel()] = own.reshape(-1)
        pieces = self.group.gather(flat)
        full = own.new_empty(parameter.shape)
        for copy in self.copies[name]:
            shape = shapes[copy.source]
            assert shape is not None
            piece = pieces[copy.source][: math.prod(shape)].view(shape)
            full[slices_of(copy.target_box)] = piece[slices_of(copy.source_box)]
        return full

    @torch.no_grad()
    def read_weights(self, folder: Path) -> bool:
        """Fill this rank's parts from a folder of safetensors, reading only those; False where it has other names.

        Raises:
            CheckpointError: files that cannot be read.
        """
        self.reshard()
        named = {bare(name): hf.local(one) for name, one in self.packed.unwrapped.named_parameters()}
        buffers = dict(hf.saved_buffers(self.packed.unwrapped))
        wanted = [(name, self.parameters[name].shape) for name in named]
        try:
            with StoredWeights(folder) as stored:
                if stored.missing([*wanted, *((name, tuple(buffer.shape)) for name, buffer in buffers.items())]):
                    return False
                for name, own in named.items():
                    read = partial(stored.read, name, self.parameters[name].shape)
                    fill_part(own, self.parameters[name], self.layout, self.group.place, read)
                for name, buffer in buffers.items():
                    buffer.copy_(stored.read_slice(name, tuple((0, size) for size in buffer.shape)))
        except (ConfigError, OSError, RuntimeError, KeyError, ValueError) as error:
            raise CheckpointError(f"{folder} does not hold this model's weights: {error}") from None
        return True

    def read_part(self, name: str, own: Tensor, stored: Any) -> None:
        """Fill this rank's part of a tensor that is cut like weight ``name`` from slices of the saved one.

        Raises:
            ValueError: the saved tensor has another shape.
        """
        parameter = self.parameters.get(bare(name)) or Parameter(name=name, shape=tuple(own.shape))
        if tuple(stored.get_shape()) != parameter.shape:
            raise ValueError(f"{name} is {tuple(stored.get_shape())}, and must be {parameter.shape}")
        place = (self.layout, self.group.place) if bare(name) in self.parameters else (RankLayout(), 0)
        fill_part(own, parameter, *place, lambda box: stored[slices_of(box)])

    def local_part(self, name: str, full: Tensor) -> Tensor:
        """This rank's part of a weight or adapter; a buffer, which every rank holds, as it is."""
        parameter = self.parameters.get(bare(name))
        return full if parameter is None else own_slice(parameter, full, self.layout, self.group.place)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """Full tensors in host memory, empty on ranks other than 0."""

    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]


def gathered(shards: Shards, optimizer: AdamW) -> Gathered:
    """Weights and optimizer state from the shards of all ranks; each rank calls it."""
    adapted, state = hf.is_lora(shards.packed.model), {}
    tensors = shards.full_tensors()
    if adapted:  # the adapters alone are saved
        tensors = ((name, shards.full_tensor(name, one)) for name, one in optimizer.parameters.items())
    weights = to_host(tensors, shards.comm.rank)
    for name, shard in optimizer.named_state().items():
        weight = name.partition("/")[2]
        full = shards.full_tensor(weight, shard)
        state.update(to_host([(name, full)], shards.comm.rank))
    return Gathered(weights=weights, optimizer=state)


def to_host(tensors: Iterable[tuple[str, Tensor]], rank: int) -> dict[str, Tensor]:
    """Tensors in host memory on rank 0, nothing elsewhere."""
    return {name: tensor.cpu() for name, tensor in tensors if rank == 0}


@contextmanager
def passes(shards: Shards | None, count: int, *, gradient: bool) -> Iterator[None]:
    """Run this many passes over a model that may be sharded, then as many idle ones as other ranks have more.

    Without gradient, gathered weights are freed afterwards, so that no later pass meets old ones.
    """
    if shards is None or not shards.sharded:
        yield
        return
    idle = max(shards.comm.gather_objects(count)) - count  # before the first pass: collectives have an order
    try:
        yield
        for _ in range(idle):
            shards.idle_pass(gradient=gradient)
    finally:
        if not gradient:
            shards.reshard()


def fully_sharded(
    packed: PackedModel,
    settings: ParallelConfig,
    device: torch.device,
    group: Group,
    fill: Callable[[nn.Module], None] | None = None,
) -> list[Any]:
    """Apply ``fully_shard`` over the ranks of a group to every layer, then to the rest.

    Raises:
        BackendError: this torch has none, or not the sums of gradients that loss weights ask for.
    """
    try:
        from torch.distributed.device_mesh import DeviceMesh
        from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
    except ImportError as error:
        raise BackendError(
            f"parallel.strategy={settings.strategy} needs torch.distributed.fsdp.fully_shard, which torch "
            f"{torch.__version__} does not have ({error}); accepted: parallel.strategy=replicate"
        ) from None
    from transformers.modeling_layers import GradientCheckpointingLayer

    mesh = DeviceMesh.from_group(group.device, device.type)
    offload = OffloadPolicy()
    if settings.offload and device.type != "cpu":  # on a processor the shards are in host memory anyway
        offload = CPUOffloadPolicy(pin_memory=device.type == "cuda")
    again = None if settings.strategy == "fsdp" else False  # gathered again for the backward pass
    packed.entry = Entry(packed.unwrapped)
    units: list[Any] = [m for m in packed.unwrapped.modules() if isinstance(m, GradientCheckpointingLayer)]
    if hasattr(packed.unwrapped, "score"):  # a head in float32: of one unit all weights have one type
        units.append(packed.unwrapped.score)
    for unit in [*units, packed.entry]:
        if fill is not None:
            fill(unit)
        fully_shard(
            unit, mesh=mesh, reshard_after_forward=again, offload_policy=offload,
            mp_policy=MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False),
        )  # fmt: skip
    units.append(packed.entry)
    for unit in units:
        if not hasattr(unit, "set_force_sum_reduction_for_comms"):
            raise BackendError(
                f"parallel.strategy={settings.strategy} needs a torch whose fully_shard sums gradients (2.8 or newer), "
                f"not {torch.__version__}; accepted: parallel.strategy=replicate"
            )
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)
    return units
