"""A micro-batch as model input: ``shared`` packs each prompt once, ``plain`` repeats it in padded rows.

The plan is ``mindrlhf_grpo.batches.packing``; here it is padded to a bucket and becomes tensors. Padding has no output,
no loss and no gradient.
Legend: N completions, M prompts of up to P tokens, G completions each, T longest completion, W = P + T, S flat tokens,
R predicted tokens (sum of lengths); all of the bucket, unless "real".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray

from mindrlhf_grpo.backend import ReadAt
from mindrlhf_grpo.batches.packing import (
    PackingPlan,
    Places,
    computed_lengths,
    flat_ids,
    flat_positions,
    plain_plan,
    prompt_lengths,
    shared_plan,
    text_positions,
)
from mindrlhf_grpo.types import Batch

from .attention import UNSEEN
from .buckets import Sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInput:
    """The tensors one forward pass reads, and the places its predictions are read from.

    Attributes:
        ids, positions: ``[S]``.
        predictors, targets: ``[R]``, see ``PackingPlan``.
        rows: ``[N, T]`` place of each completion token among the predicted ones.
        inside: ``[N, T]`` float32, 1 up to the length of a completion, 0 at tokens that an environment wrote.
        plan: the tensors that the attention of the layout reads.
    """

    ids: Tensor
    positions: Tensor
    predictors: Tensor
    targets: Tensor
    rows: Tensor
    inside: Tensor
    plan: tuple[Tensor, ...]

    def tensors(self) -> tuple[Tensor, ...]:
        """In the order of the attributes, as compiled functions take them."""
        return (self.ids, self.positions, self.predictors, self.targets, self.rows, self.inside, *self.plan)


def needed(batch: Batch, *, shared: bool, read_at: ReadAt = "before") -> Sizes:
    """The sizes of the smallest bucket that holds a micro-batch."""
    prompts, computed = prompt_lengths(batch), computed_lengths(batch, read_at)
    members = np.bincount(batch.prompt_of, minlength=len(prompts))
    return Sizes(
        prompts=len(prompts) if shared else len(batch),
        group=int(members.max()) if shared else 1,
        prompt=int(prompts.max()),
        completion=int(computed.max()) + 1,  # the last place of a row is never computed: it pads
        tokens=int(prompts.sum() + computed.sum()) + 1 if shared else 0,  # one that pads
        predicted=int(batch.predicted().sum()),
    )


def shared_input(batch: Batch, sizes: Sizes, read_at: ReadAt = "before") -> ModelInput:
    """The flat list of every prompt and its completions, padded at the end."""
    plan = shared_plan(batch, read_at)
    positions = flat_positions(plan, text_positions(batch.prompts))[0]
    return ModelInput(
        ids=integers(filled(flat_ids(batch, plan), sizes.tokens)),
        positions=integers(filled(positions, sizes.tokens)),
        predictors=integers(filled(plan.predictors, sizes.predicted)),
        targets=integers(filled(plan.targets, sizes.predicted)),
        rows=predicted_places(plan, sizes),
        inside=inside_lengths(batch, sizes),
        plan=regroup_plan(plan, sizes),
    )


def regroup_plan(plan: PackingPlan, sizes: Sizes) -> tuple[Tensor, ...]:
    """See ``attention.SharedAttention``. Padding in the rows reads the last flat token, which pads."""
    padding = sizes.tokens - 1
    prompts = np.full((sizes.prompts, sizes.prompt), padding)
    completions = np.full((sizes.prompts, sizes.group, sizes.completion), padding)
    for prompt, members in enumerate(plan.members()):
        start, length = plan.prompt_starts[prompt], plan.prompt_lengths[prompt]
        prompts[prompt, :length] = np.arange(start, start + length)
        for member, row in enumerate(members):
            start, length = plan.starts[row], plan.computed[row]
            completions[prompt, member, :length] = np.arange(start, start + length)
    both = np.concatenate([prompts.reshape(-1), completions.reshape(-1)])
    real = np.flatnonzero(both < padding)
    # The last place of a completion row is never computed, so it pads.
    places = np.full(sizes.tokens, len(both) - 1)
    places[both[real]] = real
    return (
        integers(prompts.reshape(-1)),
        integers(completions.reshape(-1)),
        integers(places),
        causal_bias(sizes.prompt),
        completion_bias(plan.prompt_lengths, sizes),
    )


def completion_bias(prompt_lengths: Places, sizes: Sizes) -> Tensor:
    """``[M G, 1, T, P + T]``: a completion sees its prompt up to its length, and itself up to each token."""
    bias = np.zeros((sizes.prompts, sizes.group, 1, sizes.completion, sizes.prompt + sizes.completion), np.float32)
    lengths = filled(prompt_lengths, sizes.prompts)
    past = np.arange(sizes.prompt)[None, :] >= lengths[:, None]
    bias[..., : sizes.prompt] = np.where(past, np.float32(UNSEEN), np.float32(0))[:, None, None, None, :]
    bias[..., sizes.prompt :] = causal(sizes.completion)
    return Tensor(bias.reshape(sizes.rows, *bias.shape[2:]))


def plain_input(batch: Batch, sizes: Sizes, read_at: ReadAt = "before") -> ModelInput:
    """Rows of prompt and completion, padded on the right: causal attention then needs no other mask."""
    width = sizes.prompt + sizes.completion
    plan = plain_plan(batch, read_at, width=width)
    return ModelInput(
        ids=integers(filled(flat_ids(batch, plan), sizes.rows * width)),
        positions=integers(np.tile(np.arange(width), sizes.rows)),
        predictors=integers(filled(plan.predictors, sizes.predicted)),
        targets=integers(filled(plan.targets, sizes.predicted)),
        rows=predicted_places(plan, sizes),
        inside=inside_lengths(batch, sizes),
        plan=(causal_bias(width),),
    )


def predicted_places(plan: PackingPlan, sizes: Sizes) -> Tensor:
    """``[N, T]`` place of each completion token among the predicted ones, 0 on padding."""
    places = np.zeros((sizes.rows, sizes.completion), np.int64)
    places[plan.rows, plan.columns] = np.arange(len(plan.rows))
    return integers(places)


def inside_lengths(batch: Batch, sizes: Sizes) -> Tensor:
    """``[N, T]`` float32, 1 up to the length of each completion where a token is predicted."""
    inside = np.zeros((sizes.rows, sizes.completion), np.float32)
    predicted = batch.predicted()[:, : sizes.completion]
    inside[: len(batch), : predicted.shape[1]] = predicted
    return Tensor(inside)


def causal(length: int) -> NDArray[np.float32]:
    """``[length, length]``: 0 up to the diagonal, ``UNSEEN`` after it."""
    return np.triu(np.full((length, length), UNSEEN, np.float32), 1)


def causal_bias(length: int) -> Tensor:
    """``[1, 1, length, length]``."""
    return Tensor(causal(length)[None, None])


def filled(array: NDArray[Any], size: int) -> Places:
    """Append zeros up to ``size``."""
    return np.concatenate([array, np.zeros(size - len(array), np.int64)]).astype(np.int64)


def integers(array: Places) -> Tensor:
    return Tensor(array.astype(np.int32), ms.int32)


LAYOUTS: dict[str, Callable[[Batch, Sizes, ReadAt], ModelInput]] = {"shared": shared_input, "plain": plain_input}
