"""Keys and values of the completions being decoded, one row of storage per slot.

A token's place in its row is its position in the sequence, whatever its neighbours do. Storage grows with the
longest sequence, one tensor at a time, so the peak stays near the memory in use. Unused places hold finite numbers:
they are masked, and a masked NaN would still spoil a sum.
Legend: S slots, n running slots (``0..n-1``), K heads, L places, D head size, P prompt tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 64  # places are read and grown in multiples of this
GROWTH = 1.25


def round_up(length: int, block: int = BLOCK) -> int:
    """The next multiple of ``block``."""
    return -(-length // block) * block


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptCache:
    """Keys and values of a prompt for its samples: ``parts`` of ``[K, P, D]``, in the order of ``SlotCache``.

    ``position_offset`` is added to a token's place in its row to give its rotary position: not 0 where images take fewer
    positions than tokens.
    """

    parts: tuple[Tensor, ...]
    position_offset: int = 0

    @property
    def length(self) -> int:
        return int(self.parts[0].shape[1])


class SlotCache:
    """A list of parts ``[S, K, L, D]``; a decoder decides on its parts (keys, values, or both in one).

    Args:
        shapes: (K, D) of each part.
        slots: S.
    """

    def __init__(self, shapes: Sequence[tuple[int, int]], slots: int, dtype: torch.dtype, device: torch.device) -> None:
        self.shapes, self.slots, self.length = tuple(shapes), slots, 0
        self.parts = [torch.zeros((slots, heads, 0, size), dtype=dtype, device=device) for heads, size in shapes]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    def reserve(self, length: int) -> None:
        """Make room for sequences of this many tokens."""
        if length <= self.length:
            return
        grown = round_up(max(length, int(self.length * GROWTH)))
        for index, old in enumerate(self.parts):
            new = old.new_zeros((*old.shape[:2], grown, old.shape[3]))
            new[:, :, : self.length] = old
            self.parts[index] = new
        self.length = grown

    def fork(self, prompt: PromptCache, slot: int) -> None:
        """Start a sample: copy its prompt's keys and values into its slot."""
        self.reserve(prompt.length)
        for part, source in zip(self.parts, prompt.parts, strict=True):
            part[slot, :, : prompt.length] = source

    def move(self, source: int, target: int) -> None:
        """Continue the sequence of one slot in another."""
        for part in self.parts:
            part[target] = part[source]

    def places(self, positions: Tensor, heads: int) -> Tensor:
        """Rows ``[n * K]`` that ``write`` fills for tokens at ``positions`` ``[n]`` of slots ``0..n-1``."""
        slots = torch.arange(len(positions), device=positions.device)
        lanes = slots[:, None] * heads + torch.arange(heads, device=positions.device)
        return (lanes * self.length + positions[:, None]).flatten()

    def write(self, part: int, places: Tensor, values: Tensor) -> None:
        """Store one token of every running slot: ``values`` ``[n, K, D]``."""
        size = values.shape[-1]
        self.parts[part].view(-1, size).index_copy_(0, places, values.reshape(-1, size))

    def read(self, part: int, running: int, length: int) -> Tensor:
        """View ``[n, K, length, D]`` of the running slots."""
        return self.parts[part][:running, :, :length]
