"""How a micro-batch becomes model input: ``shared`` packs each prompt once, ``plain`` repeats it in padded rows.

Shared: one row ``[1, S]`` without padding: every prompt, then the completions group by group, positions of a
completion going on after its prompt. The last token of a completion predicts nothing: it is computed only where a
number is read at the tokens themselves (``read_at="token"``).
Legend: N completions, M prompts, T longest completion, S packed tokens, R predicted tokens (sum of lengths).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mindrlhf_grpo.backend import ReadAt
from mindrlhf_grpo.types import Batch

from .attention import SharedAttention, causal_blocks, group_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInput:
    """What one forward pass reads, and where its predictions are.

    Attributes:
        ids, positions: ``[1, S]`` (shared) or ``[N, P + T]`` (plain, T without the last token where nothing is read
            at it); positions None: 0, 1, 2, ...
        attention: the plan of the shared layout, None for plain causal attention.
        predictors: ``[R]`` places in the flattened tokens whose hidden state is read for the targets: before each, or
            at it.
        targets: ``[R]`` token ids.
        places: ``[R]`` where each target lies in the flattened ``[N, T]``.
        shape: (N, T).
    """

    ids: Tensor
    positions: Tensor | None
    attention: SharedAttention | None
    predictors: Tensor
    targets: Tensor
    places: Tensor
    shape: tuple[int, int]


def shared_input(batch: Batch, device: torch.device, read_at: ReadAt = "before") -> ModelInput:
    """Pack every prompt of the batch once, with its completions."""
    lengths = np.asarray(batch.lengths, dtype=np.int64)
    order = np.argsort(batch.prompt_of, kind="stable")
    prompt_lengths = np.array([len(prompt) for prompt in batch.prompts], dtype=np.int64)
    prompt_starts, prompts = starts_of(prompt_lengths), len(batch.prompts)
    computed = computed_lengths(lengths, read_at)
    starts = np.empty_like(lengths)
    starts[order] = prompt_lengths.sum() + starts_of(computed[order])

    rows = [batch.ids[row, : computed[row]] for row in order]
    ids = np.concatenate([*batch.prompts, *rows]).astype(np.int64)
    positions = np.concatenate(
        [np.arange(length) for length in prompt_lengths]
        + [np.arange(computed[row]) + prompt_lengths[batch.prompt_of[row]] for row in order]
    )
    prompt_ends = (prompt_starts + prompt_lengths)[batch.prompt_of]
    plan = SharedAttention(
        groups=tuple(
            group_of(int(prompt_starts[m]), int(prompt_lengths[m]), starts[rows], computed[rows], device)
            for m, rows in enumerate(np.split(order, np.cumsum(np.bincount(batch.prompt_of, minlength=prompts))[:-1]))
        ),
        blocks=causal_blocks(prompt_starts, prompt_lengths, device)
        + causal_blocks(starts[order], computed[order], device),
        longest=int(positions.max()) + 1,
    )
    return ModelInput(
        ids=to_tensor(ids[None], device), positions=to_tensor(positions[None], device), attention=plan,
        **predictions(batch, prompt_ends - 1, starts, device, read_at),
    )  # fmt: skip


def plain_input(batch: Batch, device: torch.device, read_at: ReadAt = "before") -> ModelInput:
    """Rows of prompt and completion, padded on the right: causal attention then needs no mask."""
    lengths = np.asarray(batch.lengths, dtype=np.int64)
    prompt_lengths = np.array([len(batch.prompts[m]) for m in batch.prompt_of], dtype=np.int64)
    computed = computed_lengths(lengths, read_at)
    width = int((prompt_lengths + computed).max())
    ids = np.zeros((len(batch), width), dtype=np.int64)
    for row, (prompt, length) in enumerate(zip(batch.prompt_of, computed, strict=True)):
        tokens = np.concatenate([batch.prompts[prompt], batch.ids[row, :length]])
        ids[row, : len(tokens)] = tokens
    after = np.arange(len(batch)) * width + prompt_lengths
    return ModelInput(
        ids=to_tensor(ids, device), positions=None, attention=None,
        **predictions(batch, after - 1, after, device, read_at),
    )  # fmt: skip


def computed_lengths(lengths: NDArray[np.int64], read_at: ReadAt) -> NDArray[np.int64]:
    """Tokens of each completion that go into the model: the last one predicts nothing."""
    return lengths if read_at == "token" else np.maximum(lengths - 1, 0)


def predictions(
    batch: Batch, before: NDArray[np.int64], after: NDArray[np.int64], device: torch.device, read_at: ReadAt
) -> dict[str, Any]:
    """Predictors, targets and places: token 0 lies at ``after`` and is predicted at ``before``, token t at
    ``after + t`` and at ``after + t - 1``."""
    width = batch.ids.shape[1]
    real = np.arange(width)[None, :] < np.asarray(batch.lengths)[:, None]
    rows, columns = np.nonzero(real)
    at_token = after[rows] + columns
    predictors = at_token if read_at == "token" else np.where(columns == 0, before[rows], at_token - 1)
    return {
        "predictors": to_tensor(predictors, device),
        "targets": to_tensor(batch.ids[rows, columns].astype(np.int64), device),
        "places": to_tensor(rows * width + columns, device),
        "shape": (len(batch), width),
    }


def starts_of(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each of several adjoining spans begins."""
    return np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)


def to_tensor(array: NDArray[np.int64], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)
