"""RMSNorm and gated MLP with the same results and less memory: backward recomputes cheap values.

Hugging Face's modules keep every intermediate of the elementwise chains for the backward pass. Here a norm keeps
its input, an MLP its input and the two projections. ``make_lean`` replaces the forward of a module only if values
and gradients agree with the module's own on random numbers.
Legend: S tokens, E hidden size, F inner size of the MLP.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.02, torch.float16: 0.02 / 8}  # relative norm of the difference


class RmsNorm(torch.autograd.Function):
    """weight * x / sqrt(mean(x^2) + eps) over the last dimension, in float32 up to the weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, weight, scale)
        return weight * (wide * scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        normed = x.float() * scale
        to_weight = None
        if ctx.needs_input_grad[1]:
            to_weight = (gradient * normed).flatten(0, -2).sum(0).to(weight.dtype)
        slope = (gradient * weight).float()
        along = torch.linalg.vecdot(slope, normed)[..., None] / x.shape[-1]
        return torch.addcmul(slope, normed, along, value=-1).mul_(scale).to(x.dtype), to_weight, None


class GatedMlp(torch.autograd.Function):
    """down(silu(gate(x)) * up(x)) without biases."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        """``[..., E]``, ``[F, E]`` twice, ``[E, F]`` -> ``[..., E]``."""
        opened, risen = F.linear(x, gate), F.linear(x, up)
        ctx.save_for_backward(x, gate, up, down, opened, risen)
        return F.linear(F.silu(opened).mul_(risen), down)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        x, gate, up, down, opened, risen = ctx.saved_tensors
        rows, slope = x.flatten(0, -2), gradient.flatten(0, -2)
        opened, risen = opened.flatten(0, -2), risen.flatten(0, -2)
        active = F.silu(opened)
        inner = slope @ down
        to_down = slope.t() @ (active * risen)
        to_risen = active.mul_(inner)
        to_opened = torch.ops.aten.silu_backward(inner.mul_(risen), opened)
        to_x = (to_opened @ gate).addmm_(to_risen, up)
        return to_x.view_as(x), to_opened.t() @ rows, to_risen.t() @ rows, to_down


def make_lean(model: nn.Module) -> int:
    """Replace the forward of every RMSNorm and gated MLP whose lean form agrees; return their number."""
    verdicts: dict[tuple[Any, ...], bool] = {}
    replaced = 0
    for module in model.modules():
        forward = lean_forward(module)
        if forward is None:
            continue
        kind = (type(module), *(tuple(parameter.shape) for parameter in module.parameters()))
        if kind not in verdicts:
            verdicts[kind] = agrees(module, forward) if not without_memory(module) else stand_in_agrees(module)
        if verdicts[kind]:
            module.forward = forward
            replaced += 1
    return replaced


def lean_forward(module: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """The lean form of a module by its parts, None if it has none."""
    names = [name for name, _ in module.named_parameters()]
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if names == ["weight"] and type(module).__name__.endswith("RMSNorm") and isinstance(eps, float):
        return partial(rms_norm, module, eps)
    if names == ["gate_proj.weight", "up_proj.weight", "down_proj.weight"] and trainable_linears(module):
        return partial(gated_mlp, module)
    return None


def trainable_linears(module: nn.Module) -> bool:
    """True where the projections are plain and trained; with adapters or frozen weights the module keeps its code."""
    projections = (module.get_submodule(name) for name in ("gate_proj", "up_proj", "down_proj"))
    return all(type(projection) is nn.Linear and projection.weight.requires_grad for projection in projections)


def rms_norm(module: Any, eps: float, x: Tensor) -> Tensor:
    return RmsNorm.apply(x, module.weight, eps)


def gated_mlp(module: Any, x: Tensor) -> Tensor:
    return GatedMlp.apply(x, module.gate_proj.weight, module.up_proj.weight, module.down_proj.weight)


def without_memory(module: nn.Module) -> bool:
    """True for a module whose weights are still to be read."""
    return any(parameter.is_meta for parameter in module.parameters())


def stand_in_agrees(module: nn.Module) -> bool:
    """Compare on a copy of the module with random weights."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        copy = deepcopy(module).to_empty(device="cpu")
        for parameter in copy.parameters():
            drawn = torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5
            parameter.copy_(drawn if parameter.dim() > 1 else 1.0 + drawn)
    forward = lean_forward(copy)
    return forward is not None and agrees(copy, forward)


def agrees(module: nn.Module, forward: Callable[[Tensor], Tensor]) -> bool:
    """Compare values and gradients on four random tokens."""
    weights = [parameter for parameter in module.parameters() if parameter.requires_grad]
    first = next(module.parameters())
    x, slope = torch.randn(2, 1, 4, first.shape[-1], generator=torch.Generator().manual_seed(0)).to(first)
    x.requires_grad_()
    results = []
    for function in (module.forward, forward):
        value = function(x)
        results.append([value, *torch.autograd.grad(value, [x, *weights], slope)])
    limit = TOLERANCE.get(first.dtype, 0.0)
    pairs = [(one.detach().float(), other.detach().float()) for one, other in zip(*results, strict=True)]
    return all(bool((one - other).norm() <= limit * one.norm()) for one, other in pairs)
