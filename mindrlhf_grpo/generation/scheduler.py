"""Continuous batching: the assignment of completions to slots, and the order in which prompts are computed.

Pure bookkeeping, shared by the native engines: the engine reports finished slots and follows ``admit``.
A prompt is computed once, before its first sample starts, and kept until its last sample has started.
Samples start in order (prompt by prompt, sample by sample), lowest free slot first. Because random numbers
depend on (prompt, sample, position) alone, the schedule never changes what is generated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Sample ``sample`` of prompt ``prompt`` (its index in the call) begins in ``slot``."""

    slot: int
    prompt: int
    sample: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """The work before the next decoding step, in this order.

    Attributes:
        prefill: prompts to compute and keep.
        starts: samples that begin, each with a copy of its prompt's keys and values.
        release: prompts that no further sample needs.
    """

    prefill: tuple[int, ...] = ()
    starts: tuple[Start, ...] = ()
    release: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """The completion in slot ``source`` continues in slot ``target``."""

    source: int
    target: int


class Scheduler:
    """Passes ``group_size`` samples of every prompt through a fixed number of slots.

    Args:
        prompt_tokens: length of each prompt.
        group_size: samples per prompt.
        slots: completions decoded at once.
        prefill_tokens: when prompts have to be computed, later ones are computed with them as long as the stored
            prompts stay within this many tokens; 0 computes none ahead.

    Raises:
        ValueError: ``group_size`` or ``slots`` below 1.
    """

    def __init__(self, prompt_tokens: Sequence[int], *, group_size: int, slots: int, prefill_tokens: int = 0) -> None:
        if group_size < 1 or slots < 1:
            raise ValueError(f"group_size ({group_size}) and slots ({slots}) must be at least 1")
        self.prompt_tokens, self.group_size, self.slots = tuple(prompt_tokens), group_size, slots
        self.prefill_tokens = prefill_tokens
        self.running: dict[int, Start] = {}
        self.started = 0  # samples begun so far, in order
        self.prefilled = 0  # prompts computed so far, in order
        self.released = 0  # prompts dropped so far, in order

    @property
    def total(self) -> int:
        """Samples of the call."""
        return len(self.prompt_tokens) * self.group_size

    @property
    def done(self) -> bool:
        return self.started == self.total and not self.running

    @property
    def stored(self) -> range:
        """Prompts computed and not yet released."""
        return range(self.released, self.prefilled)

    def admit(self) -> Admission:
        """Fill the free slots; the admission is empty where nothing can start."""
        free = [slot for slot in range(self.slots) if slot not in self.running][: self.total - self.started]
        starts = tuple(self._start(slot) for slot in free)
        prefill = self._prefill(starts)
        before, self.released = self.released, self.started // self.group_size
        return Admission(prefill=prefill, starts=starts, release=tuple(range(before, self.released)))

    def finish(self, slot: int) -> None:
        """Free the slot of a completion that has ended.

        Raises:
            ValueError: nothing runs in the slot.
        """
        if self.running.pop(slot, None) is None:
            raise ValueError(f"slot {slot} is not running; running: {sorted(self.running)}")

    def compact(self) -> tuple[Move, ...]:
        """Close the gaps that no further sample fills, so that the running slots are ``0..n-1`` again."""
        count = len(self.running)
        gaps = [slot for slot in range(count) if slot not in self.running]
        tail = sorted(slot for slot in self.running if slot >= count)
        for source, target in zip(tail, gaps, strict=True):
            start = self.running.pop(source)
            self.running[target] = Start(slot=target, prompt=start.prompt, sample=start.sample)
        return tuple(Move(source=source, target=target) for source, target in zip(tail, gaps, strict=True))

    def _start(self, slot: int) -> Start:
        prompt, sample = divmod(self.started, self.group_size)
        self.started += 1
        self.running[slot] = Start(slot=slot, prompt=prompt, sample=sample)
        return self.running[slot]

    def _prefill(self, starts: tuple[Start, ...]) -> tuple[int, ...]:
        """The prompts that the starts need, and later ones that fit beside them."""
        first, needed = self.prefilled, max((start.prompt + 1 for start in starts), default=0)
        if needed <= first:
            return ()
        held = sum(self.prompt_tokens[self.released : needed])
        self.prefilled = needed
        for tokens in self.prompt_tokens[needed:]:
            held += tokens
            if held > self.prefill_tokens:
                break
            self.prefilled += 1
        return tuple(range(first, self.prefilled))
