"""Weights, gradients and optimizer state sharded over ranks with torch's own ``fully_shard`` (FSDP2).

Every parameter is cut along its first axis; a layer's full weights exist only while it computes (``fsdp``, ZeRO-3,
arXiv:1910.02054), or from its forward to its backward pass (``zero2``); ``zero1`` also keeps full gradients until the
last micro-batch of a step. Between steps all three hold shards alone. Ranks must make equal numbers of passes: a
rank that runs out of rows continues with a tiny batch that adds nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mindrlhf_grpo.config.parallel import ParallelConfig
from mindrlhf_grpo.errors import BackendError
from mindrlhf_grpo.parallel.resharding import Copy, Parameter, RankLayout, chunk, plan_resharding, slices
from mindrlhf_grpo.parallel.single_process import SingleProcess

from ..comm import TorchRanks
from ..models import hf
from .attention import attending

if TYPE_CHECKING:
    from .layout_choice import PackedModel
    from .optim import AdamW


class Entry(nn.Module):
    """The entry to a sharded model: the weights outside its layers are gathered while a function of it runs."""

    def __init__(self, unwrapped: nn.Module) -> None:
        super().__init__()
        self.unwrapped = unwrapped

    def forward(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)


def shard(
    packed: PackedModel, settings: ParallelConfig | None, device: torch.device, comm: SingleProcess | TorchRanks
) -> Shards | None:
    """Shard a model in place; None where every rank holds everything, as a single process does.

    Raises:
        BackendError: a torch without ``fully_shard``.
    """
    if settings is None or settings.strategy == "replicate":
        return None
    if isinstance(comm, SingleProcess):
        if settings.offload:
            raise BackendError("parallel.offload needs ranks: start the run with torchrun (one process is enough)")
        return None
    return Shards(packed, settings, device, comm)


class Shards:
    """One sharded model.

    Attributes:
        units: the modules that FSDP gathers at once: each layer, and the rest.
        copies: by weight, the copies from the ranks' shards that make it full.
    """

    def __init__(self, packed: PackedModel, settings: ParallelConfig, device: torch.device, comm: TorchRanks) -> None:
        self.packed, self.settings, self.comm = packed, settings, comm
        parameters = [Parameter(name=name, shape=tuple(p.shape)) for name, p in packed.unwrapped.named_parameters()]
        layout = RankLayout(dp=comm.world_size, sharded=True)
        plan = plan_resharding(layout, parameters, RankLayout(dp=comm.world_size), parameters, only=comm.rank)
        self.copies: dict[str, list[Copy]] = {parameter.name: [] for parameter in parameters}
        for copy in plan.copies:
            self.copies[copy.target_parameter].append(copy)
        self.units = fully_sharded(packed, settings, device)

    def begin(self) -> None:
        """Prepare for the passes of an optimizer step."""
        if self.settings.strategy == "zero1":
            self.units[-1].set_requires_gradient_sync(False)

    def reduce(self) -> None:
        """Finish the passes of an optimizer step: each rank has its shard of the summed gradient."""
        if self.settings.strategy == "zero1":
            self.units[-1].set_requires_gradient_sync(True)
            self.idle_pass(gradient=True)

    def idle_pass(self, *, gradient: bool) -> None:
        """A pass over a tiny batch that adds nothing to the gradient."""
        inputs = self.packed.input(self.packed.probe)
        with attending(inputs.attention), torch.set_grad_enabled(gradient):
            nothing = self.packed.outputs(inputs).sum() * 0.0
            if gradient:
                nothing.backward()

    def norm(self, local_norm: float) -> float:
        """The L2 norm over all ranks, from the norm of this rank's shards."""
        return math.sqrt(math.fsum(part * part for part in self.comm.gather_objects(local_norm)))

    def full_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """(Hugging Face name, full tensor), adapters merged, one after another; every rank must take all of them."""
        return hf.hf_tensors(self.packed.model, self.full_tensor)

    def full_tensor(self, name: str, tensor: Tensor) -> Tensor:
        """The full tensor of a parameter, by its name in the model."""
        return self.gather(name, hf.local(tensor), tuple(tensor.shape)) if hf.is_shard(tensor) else tensor

    @torch.no_grad()
    def gather(self, name: str, shard: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Gather the shards of all ranks of a tensor that is cut like weight ``name``, on the device of this shard."""
        rows = chunk(shape[0], 0, self.comm.world_size)[1]
        padded = shard.new_zeros((rows, *shape[1:]))
        padded[: len(shard)] = shard
        pieces = [torch.empty_like(padded) for _ in range(self.comm.world_size)]
        dist.all_gather(pieces, padded)
        full = shard.new_empty(shape)
        for copy in self.copies[name]:
            full[slices(copy.target_box)] = pieces[copy.source][slices(copy.source_box)]
        return full

    def local_part(self, name: str, full: Tensor) -> Tensor:
        """This rank's shard of a weight or adapter; a buffer, which is not sharded, as it is."""
        return self.local_shard(full) if name in self.copies or ".lora_" in name else full

    def local_shard(self, full: Tensor) -> Tensor:
        """This rank's shard of a full tensor."""
        first, last = chunk(len(full), self.comm.rank, self.comm.world_size)
        return full[first:last]


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
        tensors = ((name, shards.full_tensor(bare(name), one)) for name, one in optimizer.parameters.items())
    weights = to_host(tensors, shards.comm.rank)
    for name, shard in optimizer.named_state().items():
        weight = name.partition("/")[2]
        full = shards.gather(bare(weight), shard, tuple(optimizer.parameters[weight].shape))
        state.update(to_host([(name, full)], shards.comm.rank))
    return Gathered(weights=weights, optimizer=state)


def bare(name: str) -> str:
    """A parameter's name without what peft puts before it."""
    return name.removeprefix("base_model.model.")


def to_host(tensors: Iterable[tuple[str, Tensor]], rank: int) -> dict[str, Tensor]:
    """Tensors in host memory on rank 0, nothing elsewhere."""
    return {name: tensor.cpu() for name, tensor in tensors if rank == 0}


@contextmanager
def passes(shards: Shards | None, count: int, *, gradient: bool) -> Iterator[None]:
    """Run this many passes over a model that may be sharded, then as many idle ones as other ranks have more.

    Without gradient, gathered weights are freed afterwards, so that no later pass meets old ones.
    """
    if shards is None:
        yield
        return
    idle = max(shards.comm.gather_objects(count)) - count  # before the first pass: collectives have an order
    try:
        yield
        for _ in range(idle):
            shards.idle_pass(gradient=gradient)
    finally:
        if not gradient:
            for unit in shards.units:
                unit.reshard()


def fully_sharded(packed: PackedModel, settings: ParallelConfig, device: torch.device) -> list[Any]:
    """Apply ``fully_shard`` to every layer, then to the rest.

    Raises:
        BackendError: this torch has none, or not the sums of gradients that loss weights ask for.
    """
    try:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
    except ImportError as error:
        raise BackendError(
            f"parallel.strategy={settings.strategy} needs torch.distributed.fsdp.fully_shard, which torch "
            f"{torch.__version__} does not have ({error}); accepted: parallel.strategy=replicate"
        ) from None
    from transformers.modeling_layers import GradientCheckpointingLayer

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    offload = OffloadPolicy()
    if settings.offload and device.type != "cpu":  # on a processor the shards are in host memory anyway
        offload = CPUOffloadPolicy(pin_memory=device.type == "cuda")
    again = None if settings.strategy == "fsdp" else False  # gathered again for the backward pass
    packed.entry = Entry(packed.unwrapped)
    units: list[Any] = [m for m in packed.unwrapped.modules() if isinstance(m, GradientCheckpointingLayer)]
    for unit in [*units, packed.entry]:
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
