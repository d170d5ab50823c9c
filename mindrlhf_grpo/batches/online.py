"""Online batches: from rollout groups to one batch, its loss weights and its micro-batches.

How token losses become one number ("token-mean", "sequence-mean", ...) is decided here: ``loss_weights`` writes
the aggregation over the *global* batch into a weight per token, so that every loss is a plain sum and any cut
into ranks, optimizer steps of a batch and micro-batches gives the same gradient.
Legend: N completions, M prompts (groups), T longest completion, K segments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..advantages import spread
from ..types import Batch, FloatArray, IntArray, RolloutGroup

Padded = TypeVar("Padded", NDArray[np.int64], NDArray[np.float32])


def completion_lengths(groups: Sequence[RolloutGroup]) -> NDArray[np.int64]:
    """Tokens of each completion ``[N]``, group by group."""
    return np.asarray([len(rollout.ids) for group in groups for rollout in group.rollouts], dtype=np.int64)


def sampled_lengths(groups: Sequence[RolloutGroup]) -> NDArray[np.int64]:
    """Tokens of each completion that the model sampled ``[N]``, group by group."""
    return np.asarray([rollout.sampled_tokens for group in groups for rollout in group.rollouts], dtype=np.int64)


def sampled_tokens(groups: Sequence[RolloutGroup]) -> NDArray[np.bool_] | None:
    """``[N, T]`` whether the model sampled a token, False past each length; None where no environment wrote any."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    if all(rollout.sampled is None for rollout in rollouts):
        return None
    sampled = np.zeros((len(rollouts), max(len(rollout.ids) for rollout in rollouts)), dtype=np.bool_)
    for row, rollout in enumerate(rollouts):
        sampled[row, : len(rollout.ids)] = True if rollout.sampled is None else rollout.sampled
    return sampled


def build_batch(
    groups: Sequence[RolloutGroup],
    advantages: FloatArray,
    *,
    weights: FloatArray,
    temperature: float,
    mask: FloatArray,
    segments: IntArray | None = None,
) -> Batch:
    """Build one batch of the completions of all groups, each prompt stored once; without ``old_logps`` and ``ref_logps``.

    Args:
        advantages, weights, mask: ``[N, T]``, T the longest completion of ``groups``.
        temperature: that of sampling.
        segments: ``[N, T]`` item index of each token, -1 outside items.

    Raises:
        ValueError: a shape does not fit, or a token past the end of its completion is masked in.
    """
    lengths = completion_lengths(groups)
    shape = (len(lengths), int(lengths.max(initial=0)))
    check_batch_shapes(shape, advantages=advantages, weights=weights, mask=mask, segments=segments)
    inside = np.arange(shape[1])[None, :] < lengths[:, None]
    if (mask[~inside] != 0).any():
        raise ValueError("mask is not 0 past the end of a completion")
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    sampled = sampled_tokens(groups)
    if sampled is not None and (mask[~sampled] != 0).any():
        raise ValueError("mask is not 0 at tokens that an environment wrote")
    features = tuple(group.prompt.features for group in groups)
    return Batch(
        prompts=tuple(group.prompt.ids for group in groups),
        prompt_of=np.repeat(np.arange(len(groups), dtype=np.int32), [len(group.rollouts) for group in groups]),
        ids=padded([rollout.ids for rollout in rollouts], np.zeros(shape, np.int64)),
        lengths=lengths,
        mask=mask.astype(np.float32),
        weights=weights.astype(np.float32),
        advantages=advantages.astype(np.float32),
        rollout_logps=padded([rollout.logps for rollout in rollouts], np.zeros(shape, np.float32)),
        segments=None if segments is None else segments.astype(np.int32),
        temperature=temperature,
        features=features if any(features) else (),
        sampled=sampled,
    )


def check_batch_shapes(shape: tuple[int, int], **arrays: FloatArray | IntArray | None) -> None:
    """Raise ValueError for an array that is not ``[N, T]``."""
    for name, array in arrays.items():
        if array is not None and array.shape != shape:
            raise ValueError(f"{name} must be [{shape[0]}, {shape[1]}] for these completions, not {list(array.shape)}")


def padded(rows: Sequence[IntArray] | Sequence[FloatArray], array: Padded) -> Padded:
    """Write rows of different lengths into the zero array, from the left, and return it."""
    for index, row in enumerate(rows):
        array[index, : len(row)] = row
    return array


def loss_weights(mask: FloatArray, mode: str, *, tokens: int, sequences: int, max_tokens: int) -> FloatArray:
    """Weight of each token's loss ``[N, T]`` float32, 0 where the mask is 0.

    ========================  ==========================  ===================================================
    mode                      weight of a trained token   peers' names
    ========================  ==========================  ===================================================
    token_mean                1 / tokens                  trl dapo; verl, openrlhf token-mean
    sequence_mean             1 / (sequences n_i)         trl grpo; verl seq-mean-token-mean; lightrft, mindrlhf
    sequence_sum              1 / sequences               verl seq-mean-token-sum
    constant                  1 / (sequences max_tokens)  trl dr_grpo; verl seq-mean-token-sum-norm
    token_sum                 1                           verl token-sum
    ========================  ==========================  ===================================================

    Args:
        mask: ``[N, T]``, the rows of one rank or of all; n_i is a row's number of trained tokens.
        tokens, sequences: the denominators over the whole optimizer step, all ranks: see :func:`denominators`.
        max_tokens: the longest completion that may be sampled.

    Raises:
        ValueError: unknown mode, or a mask that is not ``[N, T]``.
    """
    if mask.ndim != 2:
        raise ValueError(f"mask must be [N, T], not {mask.shape}")
    trained = (mask > 0).astype(np.float64)
    if mode == "token_mean":
        divisor: float | NDArray[np.float64] = tokens
    elif mode == "sequence_mean":
        divisor = sequences * np.maximum(trained.sum(axis=1, keepdims=True), 1.0)
    elif mode == "sequence_sum":
        divisor = sequences
    elif mode == "constant":
        divisor = sequences * max_tokens
    elif mode == "token_sum":
        divisor = 1.0
    else:
        raise ValueError(
            f"aggregation {mode!r} is unknown; there are token_mean, sequence_mean, sequence_sum, constant, token_sum"
        )
    # without any trained token a denominator may be 0; all weights are 0 then
    return np.asarray(trained / np.maximum(divisor, 1.0), dtype=np.float32)


def denominators(trained_tokens: IntArray, *, count_masked_rows: bool) -> tuple[int, int]:
    """``tokens`` and ``sequences`` of one optimizer step, from the trained tokens of each completion ``[N]``, all ranks.

    A masked token is in no numerator, so it is in no token count. A completion without any trained token
    (truncated, dead group) counts as a sequence only with ``count_masked_rows`` (TRL); verl leaves it out.
    """
    sequences = len(trained_tokens) if count_masked_rows else int((trained_tokens > 0).sum())
    return int(trained_tokens.sum()), sequences


def dead_groups(rewards: FloatArray, groups: IntArray, *, tolerance: float = 0.0) -> NDArray[np.bool_]:
    """Find the groups with nothing to learn: their scored completions have equal rewards, or there is at most one.

    DAPO's dynamic sampling keeps a group iff std > 0, https://arxiv.org/abs/2503.14476. Largest and smallest
    reward are compared instead, since the standard deviation of equal floats need not come out as 0.

    Args:
        rewards: total ``[N, K]``; or components ``[N, F, K]``, then a group is dead if each component is.
        groups: ``[N]``, any integers.
        tolerance: rewards that differ by less are equal.

    Returns:
        ``[M]``, in ascending order of the group's number.
    """
    if rewards.ndim < 2 or groups.shape != rewards.shape[:1]:
        raise ValueError(f"rewards must be [N, ...] and groups [N], not {rewards.shape} and {groups.shape}")
    numbers, member = np.unique(groups, return_inverse=True)
    columns = rewards.reshape(len(rewards), int(np.prod(rewards.shape[1:])))
    between = spread(columns, member, len(numbers))
    return np.asarray(~((between > 0) & (between >= tolerance)).any(axis=1), dtype=np.bool_)


def micro_batches(batch: Batch, token_budget: int, *, shared: bool) -> list[NDArray[np.int64]]:
    """Cut a batch into micro-batches of at most ``token_budget`` computed tokens: the rows of each.

    A prompt's rows stay together where they fit, and always where they are ``coupled``. Groups are taken by their
    longest row, longest first: where rows are padded the padding stays small. Only what cannot be cut may exceed the
    budget.

    Args:
        shared: whether a prompt is computed once for its rows of a micro-batch; see :func:`computed_tokens`.

    Returns:
        Arrays of row numbers; each row of the batch is in exactly one.
    """
    if token_budget < 1:
        raise ValueError(f"token_budget must be at least 1, not {token_budget}")
    prompt_tokens = np.asarray([len(prompt) for prompt in batch.prompts], dtype=np.int64)

    def fits(rows: list[int]) -> bool:
        return len(rows) == 1 or computed_tokens(batch, rows, prompt_tokens, shared=shared) <= token_budget

    pieces: list[list[int]] = []
    for prompt in np.unique(batch.prompt_of):
        rows = np.flatnonzero(batch.prompt_of == prompt)
        if batch.coupled or fits(list(rows)):
            pieces.append(list(rows))
        else:
            pieces += fill([[row] for row in rows[np.argsort(-batch.lengths[rows], kind="stable")]], fits)
    pieces.sort(key=lambda rows: -int(batch.lengths[rows].max()))
    return [np.asarray(rows, dtype=np.int64) for rows in fill(pieces, fits)]


def fill(pieces: list[list[int]], fits: Callable[[list[int]], bool]) -> list[list[int]]:
    """Join neighbouring pieces as long as they fit."""
    joined: list[list[int]] = []
    for piece in pieces:
        if joined and fits(joined[-1] + piece):
            joined[-1] = joined[-1] + piece
        else:
            joined.append(piece)
    return joined


def computed_tokens(batch: Batch, rows: Sequence[int] | IntArray, prompt_tokens: IntArray, *, shared: bool) -> int:
    """Tokens a forward pass of these rows computes, given the length of each prompt of the batch.

    ``shared``: packed, each prompt once, no padding. Else each row is its prompt and completion, padded to the
    longest row.
    """
    index = np.asarray(rows, dtype=np.int64)
    prompts, lengths = batch.prompt_of[index], batch.lengths[index]
    if shared:
        return int(prompt_tokens[np.unique(prompts)].sum() + lengths.sum())
    return len(index) * int((prompt_tokens[prompts] + lengths).max())
