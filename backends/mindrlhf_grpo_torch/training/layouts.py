"""How a micro-batch becomes model input: ``shared`` packs each prompt once, ``plain`` repeats it in padded rows.

Shared: one row ``[1, S]`` without padding: every prompt, then the completions group by group, positions of a
completion going on after its prompt. The last token of a completion predicts nothing: it is computed only where a
number is read at the tokens themselves (``read_at="token"``).
Where prompts have images (``vision``), these are put into their places in either layout, encoded once a prompt.
Legend: N completions, M prompts, T longest completion, S packed tokens, R predicted tokens (sum of lengths), A axes of
a position.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mindrlhf_grpo.backend import ReadAt
from mindrlhf_grpo.types import Batch, IntArray

from .attention import SharedAttention, causal_blocks, group_of

if TYPE_CHECKING:
    from ..models.vision import Vision


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedImages:
    """Images of some prompts, and where their embeddings go.

    Attributes:
        features: of each prompt that has images.
        embeddings: how many they make.
        places: ``[I]`` places in the flattened tokens.
        sources: ``[I]`` which embedding goes there.
    """

    features: tuple[Mapping[str, Any], ...]
    embeddings: int
    places: Tensor
    sources: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInput:
    """What one forward pass reads, and where its predictions are.

    Attributes:
        ids, positions: ``[1, S]`` (shared) or ``[N, P + T]`` (plain, T without the last token where nothing is read
            at it); positions None: 0, 1, 2, ..., and ``[A, ...]`` where they have several axes.
        attention: the plan of the shared layout, None for plain causal attention.
        predictors: ``[R]`` places in the flattened tokens whose hidden state is read for the targets: before each, or
            at it.
        targets: ``[R]`` token ids.
        places: ``[R]`` where each target lies in the flattened ``[N, T]``.
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
    of_prompts = prompt_positions(batch.prompts, batch.features, vision)
    positions = np.concatenate(
        [*of_prompts, *(positions_after(of_prompts[batch.prompt_of[row]], computed[row]) for row in order)], axis=1
    )
    prompt_ends = (prompt_starts + prompt_lengths)[batch.prompt_of]
    plan = SharedAttention(
        groups=tuple(
            group_of(int(prompt_starts[m]), int(prompt_lengths[m]), starts[rows], computed[rows], device)
            for m, rows in enumerate(np.split(order, np.cumsum(np.bincount(batch.prompt_of, minlength=prompts))[:-1]))
        ),
        blocks=causal_blocks(prompt_starts, prompt_lengths, device)
        + causal_blocks(starts[order], computed[order], device),
        longest=int(max(prompt_lengths.max(), (prompt_lengths[batch.prompt_of] + computed).max(initial=0))),
    )
    return ModelInput(
        ids=to_tensor(ids[None], device), attention=plan,
        positions=to_tensor(positions if len(positions) == 1 else positions[:, None], device),
        images=placed_images(batch.prompts, batch.features, enumerate(prompt_starts), vision, device),
        **predictions(batch, prompt_ends - 1, starts, device, read_at),
    )  # fmt: skip


def plain_input(
    batch: Batch, device: torch.device, read_at: ReadAt = "before", vision: Vision | None = None
) -> ModelInput:
    """Rows of prompt and completion, padded on the right: causal attention then needs no mask."""
    lengths = np.asarray(batch.lengths, dtype=np.int64)
    prompt_lengths = np.array([len(batch.prompts[m]) for m in batch.prompt_of], dtype=np.int64)
    computed = computed_lengths(lengths, read_at)
    width = int((prompt_lengths + computed).max())
    ids = np.zeros((len(batch), width), dtype=np.int64)
    for row, (prompt, length) in enumerate(zip(batch.prompt_of, computed, strict=True)):
        tokens = np.concatenate([batch.prompts[prompt], batch.ids[row, :length]])
        ids[row, : len(tokens)] = tokens
    first = np.arange(len(batch)) * width
    after, copies = first + prompt_lengths, zip(batch.prompt_of, first, strict=True)
    return ModelInput(
        ids=to_tensor(ids, device), attention=None, positions=plain_positions(batch, computed, width, vision, device),
        images=placed_images(batch.prompts, batch.features, copies, vision, device),
        **predictions(batch, after - 1, after, device, read_at),
    )  # fmt: skip


def prompt_positions(
    prompts: Sequence[IntArray], features: Sequence[Mapping[str, Any]], vision: Vision | None
) -> list[NDArray[np.int64]]:
    """``[A, P]`` of every prompt."""
    if vision is None or not any(features):
        return [np.arange(len(prompt))[None] for prompt in prompts]
    return [vision.positions(prompt, each) for prompt, each in zip(prompts, features, strict=True)]


def positions_after(prompt: NDArray[np.int64], tokens: int) -> NDArray[np.int64]:
    """``[A, tokens]`` of what follows a prompt: on every axis from its largest position on."""
    axes, length = prompt.shape
    return np.tile(np.arange(tokens) + (int(prompt.max()) + 1 if length else 0), (axes, 1))


def plain_positions(
    batch: Batch, computed: NDArray[np.int64], width: int, vision: Vision | None, device: torch.device
) -> Tensor | None:
    """``[A, N, P + T]``, or None where they are 0, 1, 2, ..."""
    if vision is None or not batch.features:
        return None
    of_prompts = prompt_positions(batch.prompts, batch.features, vision)
    axes = len(of_prompts[0])
    if axes == 1:
        return None
    positions = np.zeros((axes, len(batch), width), dtype=np.int64)
    for row, (prompt, tokens) in enumerate(zip(batch.prompt_of, computed, strict=True)):
        found = np.concatenate([of_prompts[prompt], positions_after(of_prompts[prompt], tokens)], axis=1)
        positions[:, row, : found.shape[1]] = found
    return to_tensor(positions, device)


def placed_images(
    prompts: Sequence[IntArray],
    features: Sequence[Mapping[str, Any]],
    copies: Iterable[tuple[int, int]],
    vision: Vision | None,
    device: torch.device,
) -> PlacedImages | None:
    """Where the images of every copy (prompt, its first place in the flattened tokens) go; None without images."""
    if vision is None or not any(features):
        return None
    tokens = [
        np.flatnonzero(prompt == vision.token) if each else np.zeros(0, np.int64)
        for prompt, each in zip(prompts, features, strict=True)
    ]
    firsts = starts_of(np.array([len(each) for each in tokens]))
    copies = list(copies)
    places = np.concatenate([tokens[m] + start for m, start in copies])
    sources = np.concatenate([firsts[m] + np.arange(len(tokens[m])) for m, _ in copies])
    return PlacedImages(
        features=tuple(each for each in features if each),
        embeddings=sum(len(each) for each in tokens),
        places=to_tensor(places.astype(np.int64), device), sources=to_tensor(sources.astype(np.int64), device),
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


def to_tensor(array: NDArray[Any], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)
