"""How a micro-batch becomes model input: ``shared`` packs each prompt once, ``plain`` repeats it in padded rows.

Shared: a flat list of every prompt, then the completions group by group, positions of a completion going on after its
prompt. The last token of a completion predicts nothing: it is computed only where a number is read at the tokens
themselves (``read_at="token"``). Everything is padded to a bucket; what pads has no output, no loss and no gradient.
Legend: N completions, M prompts of up to P tokens, G completions each, T longest completion, W = P + T, S flat tokens,
R predicted tokens (sum of lengths); all of the bucket, unless "real".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray

from mindrlhf_grpo.backend import ReadAt
from mindrlhf_grpo.types import Batch

from .attention import UNSEEN
from .buckets import Sizes

Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInput:
    """What one forward pass reads, and where its predictions are.

    Attributes:
        ids, positions: ``[S]``.
        predictors: ``[R]`` places in the flat tokens whose hidden state is read for the targets: before each, or at it.
        targets: ``[R]`` token ids.
        rows: ``[N, T]`` place of each completion token among the predicted ones.
        inside: ``[N, T]`` float32, 1 up to the length of a completion.
        plan: what the attention of the layout reads.
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
    """What a micro-batch needs of a bucket."""
    lengths, members = batch.lengths, np.bincount(batch.prompt_of, minlength=len(batch.prompts))
    prompt_lengths = lengths_of(batch)
    return Sizes(
        prompts=len(batch.prompts) if shared else len(lengths),
        group=int(members.max()) if shared else 1,
        prompt=int(prompt_lengths.max()),
        completion=int(computed(batch, read_at).max()) + 1,  # the last place of a row is never computed: it pads
        tokens=int(prompt_lengths.sum() + computed(batch, read_at).sum()) + 1 if shared else 0,  # one that pads
        predicted=int(lengths.sum()),
    )


def shared_input(batch: Batch, sizes: Sizes, read_at: ReadAt = "before") -> ModelInput:
    """Pack every prompt of the batch once, with its completions."""
    prompt_lengths, lengths = lengths_of(batch), computed(batch, read_at)
    order = np.argsort(batch.prompt_of, kind="stable")
    prompt_starts = starts_of(prompt_lengths)
    starts = np.empty_like(lengths)
    starts[order] = prompt_lengths.sum() + starts_of(lengths[order])
    tokens = [*batch.prompts, *(batch.ids[row, : lengths[row]] for row in order)]
    positions = [np.arange(length) for length in prompt_lengths]
    positions += [np.arange(lengths[row]) + prompt_lengths[batch.prompt_of[row]] for row in order]
    ends = (prompt_starts + prompt_lengths - 1)[batch.prompt_of]
    return ModelInput(
        ids=integers(filled(np.concatenate(tokens), sizes.tokens)),
        positions=integers(filled(np.concatenate(positions), sizes.tokens)),
        **predictions(batch, ends, starts, sizes, read_at),
        plan=shared_plan(prompt_starts, prompt_lengths, starts, lengths, batch.prompt_of, sizes),
    )


def shared_plan(
    prompt_starts: Places, prompt_lengths: Places, starts: Places, lengths: Places, prompt_of: Places, sizes: Sizes
) -> tuple[Tensor, ...]:
    """See ``attention.SharedAttention``. Padding in the rows reads the last flat token, which pads."""
    slots = slots_of(prompt_of, sizes.group)
    prompts = np.full((sizes.prompts, sizes.prompt), sizes.tokens - 1)
    completions = np.full((sizes.rows, sizes.completion), sizes.tokens - 1)
    for prompt, (start, length) in enumerate(zip(prompt_starts, prompt_lengths, strict=True)):
        prompts[prompt, :length] = np.arange(start, start + length)
    for slot, start, length in zip(slots, starts, lengths, strict=True):
        completions[slot, :length] = np.arange(start, start + length)
    both = np.concatenate([prompts.reshape(-1), completions.reshape(-1)])
    real = np.flatnonzero(both < sizes.tokens - 1)
    # The last place of a completion row is never computed, so it pads.
    places = np.full(sizes.tokens, len(both) - 1)
    places[both[real]] = real
    return (
        integers(prompts.reshape(-1)), integers(completions.reshape(-1)), integers(places), causal_bias(sizes.prompt),
        completion_bias(prompt_lengths, sizes),
    )  # fmt: skip


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
    lengths, prompt_lengths = computed(batch, read_at), lengths_of(batch)[batch.prompt_of]
    width = sizes.prompt + sizes.completion
    ids = np.zeros((sizes.rows, width), np.int64)
    for row, (prompt, length) in enumerate(zip(batch.prompt_of, lengths, strict=True)):
        tokens = np.concatenate([batch.prompts[prompt], batch.ids[row, :length]])
        ids[row, : len(tokens)] = tokens
    after = np.arange(len(batch)) * width + prompt_lengths
    return ModelInput(
        ids=integers(ids.reshape(-1)), positions=integers(np.tile(np.arange(width), sizes.rows)),
        **predictions(batch, after - 1, after, sizes, read_at), plan=(causal_bias(width),),
    )  # fmt: skip


def predictions(batch: Batch, before: Places, after: Places, sizes: Sizes, read_at: ReadAt) -> dict[str, Tensor]:
    """Predictors, targets, rows and inside: token 0 lies at ``after`` and is predicted at ``before``, token t at
    ``after + t`` and at ``after + t - 1``."""
    inside = np.arange(sizes.completion)[None, :] < filled(batch.lengths, sizes.rows)[:, None]
    rows, columns = np.nonzero(inside)
    place_of = np.zeros((sizes.rows, sizes.completion), np.int64)
    place_of[rows, columns] = np.arange(len(rows))
    at_token = after[rows] + columns
    predictors = at_token if read_at == "token" else np.where(columns == 0, before[rows], at_token - 1)
    return {
        "predictors": integers(filled(predictors, sizes.predicted)),
        "targets": integers(filled(batch.ids[rows, columns], sizes.predicted)),
        "rows": integers(place_of),
        "inside": Tensor(inside.astype(np.float32)),
    }


def slots_of(prompt_of: Places, group: int) -> Places:
    """The row of each completion among ``group`` rows for every prompt."""
    taken = np.zeros(int(prompt_of.max()) + 1, np.int64)
    slots = np.empty(len(prompt_of), np.int64)
    for row, prompt in enumerate(prompt_of):
        slots[row] = prompt * group + taken[prompt]
        taken[prompt] += 1
    return slots


def lengths_of(batch: Batch) -> Places:
    """Tokens of each prompt."""
    return np.array([len(prompt) for prompt in batch.prompts], dtype=np.int64)


def computed(batch: Batch, read_at: ReadAt) -> Places:
    """Tokens of each completion that go into the model: the last one predicts nothing."""
    lengths = np.asarray(batch.lengths, dtype=np.int64)
    return lengths if read_at == "token" else np.maximum(lengths - 1, 0)


def starts_of(lengths: Places) -> Places:
    """Where each of several adjoining spans begins."""
    return np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)


def causal(length: int) -> NDArray[np.float32]:
    """``[length, length]``: 0 up to the diagonal, ``UNSEEN`` after it."""
    return np.triu(np.full((length, length), UNSEEN, np.float32), 1)


def causal_bias(length: int) -> Tensor:
    """``[1, 1, length, length]``."""
    return Tensor(causal(length)[None, None])


def filled(array: NDArray[np.int64] | NDArray[np.int32], size: int) -> Places:
    """With zeros at the end."""
    return np.concatenate([array, np.zeros(size - len(array), np.int64)]).astype(np.int64)


def integers(array: Places) -> Tensor:
    return Tensor(array.astype(np.int32), ms.int32)


LAYOUTS: dict[str, Callable[[Batch, Sizes, ReadAt], ModelInput]] = {"shared": shared_input, "plain": plain_input}
