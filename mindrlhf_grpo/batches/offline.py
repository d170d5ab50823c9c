"""Offline batches: from examples to one batch, with loss weights over the global batch and per-row constants.

Packing is the backends' layout: a micro-batch holds rows up to a number of tokens, and the shared layout computes
them in one row without padding, with block-diagonal attention and positions from 0; the prompt of a pair once.
Legend: N rows (completions), T longest completion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..data.examples import Example
from ..types import Batch, FloatArray
from .online import padded


@dataclass(frozen=True, slots=True, kw_only=True)
class Denominators:
    """Counts over the whole optimizer step, all ranks: examples, and trained tokens of their first completions.

    Attributes:
        names: the numbers that its rows carry (``label``, ``margin``).
    """

    examples: int
    tokens: int
    names: tuple[str, ...] = ()

    @staticmethod
    def of(examples: Sequence[Example]) -> Denominators:
        """Count the examples of all ranks."""
        tokens = sum(int(example.completions[0].mask.sum()) for example in examples)
        return Denominators(examples=len(examples), tokens=tokens, names=tuple(examples[0].numbers) if examples else ())


def build_offline_batch(examples: Sequence[Example], denominators: Denominators) -> Batch:
    """This rank's examples as a batch: the completions of an example adjoin, its prompt is stored once.

    ``weights`` are 1 / trained tokens on the first completion of each example (the chosen one of a pair), 0 on the
    second. ``tensors`` has ``row_weight`` (1 / examples), ``last`` (1 at the last token of each row), and the
    numbers that rows carry (``label``, ``margin``).
    """
    completions = [completion for example in examples for completion in example.completions]
    lengths = np.asarray([len(completion) for completion in completions], dtype=np.int64)
    shape = (len(lengths), int(lengths.max(initial=1)))  # a loss reads x[:, 0], even without rows
    mask = padded([completion.mask for completion in completions], np.zeros(shape, np.float32))
    counts = np.asarray([len(example.completions) for example in examples], dtype=np.int64)
    first = np.asarray([place == 0 for count in counts for place in range(count)], dtype=np.float32)
    last = np.zeros(shape, np.float32)
    last[np.arange(shape[0]), lengths - 1] = 1.0
    batch = Batch(
        prompts=tuple(example.prompt for example in examples),
        prompt_of=np.repeat(np.arange(len(examples), dtype=np.int32), counts),
        ids=padded([completion.ids for completion in completions], np.zeros(shape, np.int64)),
        lengths=lengths,
        mask=mask,
        weights=mask * first[:, None] / np.float32(max(1, denominators.tokens)),
        advantages=np.zeros(shape, np.float32),
        tensors={"last": last},
        coupled=bool((counts > 1).any()),
    )
    numbers = {
        name: np.repeat(np.asarray([example.numbers[name] for example in examples], np.float64), counts)
        for name in denominators.names
    }
    return with_numbers(batch, {"row_weight": np.full(shape[0], 1.0 / max(1, denominators.examples)), **numbers})


def with_numbers(batch: Batch, numbers: Mapping[str, NDArray[np.float64]]) -> Batch:
    """Add numbers of rows ``[N]`` to the batch, by name, each written to every token of its row."""
    shape = batch.ids.shape
    tensors: dict[str, FloatArray] = dict(batch.tensors)
    for name, values in numbers.items():
        tensors[name] = np.broadcast_to(np.asarray(values, np.float32)[:, None], shape).copy()
    return replace(batch, tensors=tensors)
