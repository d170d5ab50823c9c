"""The packing plan: where the tokens of a micro-batch lie in one forward pass, and which place predicts which token.

``shared_plan`` lays out every prompt once, then the completions group by group; their positions follow the prompt's.
``plain_plan`` repeats the prompt in every row and pads rows on the right. The last token of a completion predicts
nothing: it is computed only where values are read at the tokens themselves (``read_at="token"``).
A plan knows no framework and no bucket: backends pad it to their shapes and convert it to tensors.
Legend: N completions, M prompts, C copies of prompts (shared: M, plain: N), T longest completion, S flat tokens,
R predicted tokens (sum of lengths, without tokens that an environment wrote), A axes of a position (more than one where images have rows and columns).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..backend import ReadAt
from ..types import Batch, IntArray

Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackingPlan:
    """Spans of prompts and completions in the flat tokens, and the predictions read from them.

    Attributes:
        tokens: S, padding included.
        prompts: ``[C]`` index of the prompt that each copy holds.
        prompt_starts, prompt_lengths: ``[C]`` span of each copy.
        copies: ``[N]`` the copy that each completion continues.
        order: ``[N]`` the completions in their order in the flat tokens.
        starts, computed: ``[N]`` span of each completion, as far as it is computed.
        predictors: ``[R]`` flat place whose hidden state is read for each token: before it, or at it.
        targets: ``[R]`` id of each token.
        rows, columns: ``[R]`` place of each token in ``[N, T]``.
        shape: (N, T).
    """

    tokens: int
    prompts: Places
    prompt_starts: Places
    prompt_lengths: Places
    copies: Places
    order: Places
    starts: Places
    computed: Places
    predictors: Places
    targets: Places
    rows: Places
    columns: Places
    shape: tuple[int, int]

    @property
    def places(self) -> Places:
        """``[R]`` place of each predicted token in the flattened ``[N, T]``."""
        return self.rows * self.shape[1] + self.columns

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with a completion."""
        joined = self.prompt_lengths[self.copies] + self.computed
        return int(max(self.prompt_lengths.max(), joined.max(initial=0)))

    def members(self) -> list[Places]:
        """The completions of each copy, in their order in the flat tokens."""
        sizes = np.bincount(self.copies, minlength=len(self.prompts))
        return np.split(self.order, np.cumsum(sizes)[:-1])


def shared_plan(batch: Batch, read_at: ReadAt = "before") -> PackingPlan:
    """Every prompt once, then the completions group by group, without padding."""
    lengths, computed = prompt_lengths(batch), computed_lengths(batch, read_at)
    order = np.argsort(batch.prompt_of, kind="stable").astype(np.int64)
    starts = np.empty_like(computed)
    starts[order] = lengths.sum() + span_starts(computed[order])
    return _plan(
        batch,
        read_at,
        tokens=int(lengths.sum() + computed.sum()),
        prompts=np.arange(len(lengths)),
        prompt_starts=span_starts(lengths),
        copies=np.asarray(batch.prompt_of, dtype=np.int64),
        order=order,
        starts=starts,
    )


def plain_plan(batch: Batch, read_at: ReadAt = "before", *, width: int | None = None) -> PackingPlan:
    """Rows of prompt and completion, padded on the right to ``width``: the longest row where it is None."""
    prompts = np.asarray(batch.prompt_of, dtype=np.int64)
    lengths = prompt_lengths(batch)[prompts]
    if width is None:
        width = int((lengths + computed_lengths(batch, read_at)).max())
    rows = np.arange(len(batch))
    first = rows * width
    return _plan(
        batch,
        read_at,
        tokens=len(batch) * width,
        prompts=prompts,
        prompt_starts=first,
        copies=rows,
        order=rows,
        starts=first + lengths,
    )


def _plan(
    batch: Batch,
    read_at: ReadAt,
    *,
    tokens: int,
    prompts: Places,
    prompt_starts: Places,
    copies: Places,
    order: Places,
    starts: Places,
) -> PackingPlan:
    """Token t of a completion lies at ``starts + t``; token 0 is predicted by the last token of its prompt."""
    lengths = prompt_lengths(batch)[prompts]
    prompt_ends = (prompt_starts + lengths - 1)[copies]
    rows, columns = np.nonzero(batch.predicted())
    at_token = starts[rows] + columns
    before_token = np.where(columns == 0, prompt_ends[rows], at_token - 1)
    return PackingPlan(
        tokens=tokens,
        prompts=prompts,
        prompt_starts=prompt_starts,
        prompt_lengths=lengths,
        copies=copies,
        order=order,
        starts=starts,
        computed=computed_lengths(batch, read_at),
        predictors=at_token if read_at == "token" else before_token,
        targets=batch.ids[rows, columns].astype(np.int64),
        rows=rows,
        columns=columns,
        shape=(len(batch), batch.ids.shape[1]),
    )


def prompt_lengths(batch: Batch) -> Places:
    """Tokens of each prompt ``[M]``."""
    return np.array([len(prompt) for prompt in batch.prompts], dtype=np.int64)


def computed_lengths(batch: Batch, read_at: ReadAt) -> Places:
    """Tokens of each completion that go into the model ``[N]``: the last one predicts nothing."""
    lengths = np.asarray(batch.lengths, dtype=np.int64)
    return lengths if read_at == "token" else np.maximum(lengths - 1, 0)


def span_starts(lengths: Places) -> Places:
    """The first place of each of several adjoining spans."""
    return np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)


def flat_ids(batch: Batch, plan: PackingPlan) -> Places:
    """The tokens ``[S]`` of the forward pass, 0 on padding."""
    ids = np.zeros(plan.tokens, dtype=np.int64)
    for prompt, start, length in zip(plan.prompts, plan.prompt_starts, plan.prompt_lengths, strict=True):
        ids[start : start + length] = batch.prompts[prompt]
    for row, (start, length) in enumerate(zip(plan.starts, plan.computed, strict=True)):
        ids[start : start + length] = batch.ids[row, :length]
    return ids


def text_positions(prompts: Sequence[IntArray]) -> list[Places]:
    """Positions ``[1, P]`` of prompts without images: 0, 1, 2, ..."""
    return [np.arange(len(prompt))[None] for prompt in prompts]


def flat_positions(plan: PackingPlan, of_prompts: Sequence[Places]) -> Places:
    """Positions ``[A, S]`` of the forward pass, 0 on padding.

    On every axis, the positions of a completion follow the largest position of its prompt.

    Args:
        of_prompts: ``[A, P]`` for each of the M prompts.
    """
    positions = np.zeros((len(of_prompts[0]), plan.tokens), dtype=np.int64)
    for prompt, start, length in zip(plan.prompts, plan.prompt_starts, plan.prompt_lengths, strict=True):
        positions[:, start : start + length] = of_prompts[prompt]
    after = [int(prompt.max()) + 1 if prompt.size else 0 for prompt in of_prompts]
    for copy, start, length in zip(plan.copies, plan.starts, plan.computed, strict=True):
        positions[:, start : start + length] = np.arange(length) + after[plan.prompts[copy]]
    return positions


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePlaces:
    """The flat places that embeddings of images take.

    Attributes:
        embeddings: their number, one for each image token of the prompts.
        places: ``[I]`` flat place of each image token of every copy.
        sources: ``[I]`` the embedding that goes there.
    """

    embeddings: int
    places: Places
    sources: Places


def image_places(
    prompts: Sequence[IntArray],
    has_images: Sequence[bool],
    image_token: int,
    copies: Sequence[int] | Places,
    copy_starts: Sequence[int] | Places,
) -> ImagePlaces:
    """The places of image tokens in copies of prompts; embeddings follow one another in the order of the prompts.

    Args:
        has_images: for each prompt; in a prompt without images the image token is ordinary text.
        copies, copy_starts: ``[C]`` the prompt of each copy, and the copy's first flat place.
    """
    tokens = [
        np.flatnonzero(prompt == image_token) if images else np.zeros(0, np.int64)
        for prompt, images in zip(prompts, has_images, strict=True)
    ]
    counts = np.array([len(places) for places in tokens], dtype=np.int64)
    first_embeddings = span_starts(counts)
    flat_places = [tokens[prompt] + start for prompt, start in zip(copies, copy_starts, strict=True)]
    sources = [first_embeddings[prompt] + np.arange(counts[prompt]) for prompt in copies]
    return ImagePlaces(
        embeddings=int(counts.sum()),
        places=np.concatenate(flat_places).astype(np.int64),
        sources=np.concatenate(sources).astype(np.int64),
    )
