"""A micro-batch as model input: ``shared`` packs each prompt once, ``plain`` repeats it in padded rows.

The plan is ``mindrlhf_grpo.batches.packing``; here it becomes tensors, with images (``vision``) in their places.
Legend: N completions, T longest completion, S flat tokens, W tokens of a plain row, R predicted tokens, A axes of a
position.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mindrlhf_grpo.backend import ReadAt
from mindrlhf_grpo.batches.packing import PackingPlan, flat_ids, flat_positions, plain_plan, shared_plan
from mindrlhf_grpo.types import Batch

from ..models.hf import to_tensor
from ..models.vision import PlacedImages, Vision, place_images, prompt_positions
from .attention import SharedAttention, plan_attention


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInput:
    """The tensors one forward pass reads, and the places its predictions are read from.

    Attributes:
        ids, positions: ``[1, S]`` (shared) or ``[N, W]`` (plain); positions None: 0, 1, 2, ..., and ``[A, ...]`` where
            they have several axes.
        attention: the plan of the shared layout, None for plain causal attention.
        predictors, targets, places: ``[R]``, see ``PackingPlan``.
        shape: (N, T).
        images: None where no prompt has any.
    """

    ids: Tensor
    positions: Tensor | None
    attention: SharedAttention | None
    predictors: Tensor
    targets: Tensor
    places: Tensor
    shape: tuple[int, int]
    images: PlacedImages | None = None


def shared_input(
    batch: Batch, device: torch.device, read_at: ReadAt = "before", vision: Vision | None = None
) -> ModelInput:
    """One row ``[1, S]`` without padding, each prompt once."""
    plan = shared_plan(batch, read_at)
    positions = flat_positions(plan, prompt_positions(batch.prompts, batch.features, vision))
    return ModelInput(
        ids=to_tensor(flat_ids(batch, plan)[None], device),
        positions=to_tensor(positions if len(positions) == 1 else positions[:, None], device),
        attention=plan_attention(plan, device),
        predictors=to_tensor(plan.predictors, device),
        targets=to_tensor(plan.targets, device),
        places=to_tensor(plan.places, device),
        shape=plan.shape,
        images=images_of(batch, plan, vision, device),
    )


def plain_input(
    batch: Batch, device: torch.device, read_at: ReadAt = "before", vision: Vision | None = None
) -> ModelInput:
    """Rows of prompt and completion, padded on the right: causal attention then needs no mask."""
    plan = plain_plan(batch, read_at)
    ids = flat_ids(batch, plan).reshape(len(batch), -1)
    return ModelInput(
        ids=to_tensor(ids, device),
        positions=plain_positions(batch, plan, vision, device),
        attention=None,
        predictors=to_tensor(plan.predictors, device),
        targets=to_tensor(plan.targets, device),
        places=to_tensor(plan.places, device),
        shape=plan.shape,
        images=images_of(batch, plan, vision, device),
    )


def plain_positions(batch: Batch, plan: PackingPlan, vision: Vision | None, device: torch.device) -> Tensor | None:
    """``[A, N, W]``, or None where they are 0, 1, 2, ..."""
    of_prompts = prompt_positions(batch.prompts, batch.features, vision)
    axes = len(of_prompts[0])
    if axes == 1:
        return None
    return to_tensor(flat_positions(plan, of_prompts).reshape(axes, len(batch), -1), device)


def images_of(batch: Batch, plan: PackingPlan, vision: Vision | None, device: torch.device) -> PlacedImages | None:
    """The images of every copy of a prompt."""
    return place_images(batch.prompts, batch.features, plan.prompts, plan.prompt_starts, vision, device)


LAYOUTS: dict[str, Callable[[Batch, torch.device, ReadAt, Vision | None], ModelInput]] = {
    "shared": shared_input,
    "plain": plain_input,
}
