"""The device side of generation: compiled steps over a KV cache, or over full sequences.

Shapes are static: rows and lengths come in buckets, and results on padding are dropped. The bucket depends on the call
alone, so a resumed run computes the same bits. Within a call the cache starts with its shortest bucket and grows.
Legend: n rows, S slots, T tokens of a batch of prompts, P of one prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, mint, ops
from numpy.typing import NDArray

from mindrlhf_grpo.backend import CompileLog
from mindrlhf_grpo.generation.generation import RandomDraws, SampledTokens
from mindrlhf_grpo.types import IntArray, Sampling

from ..graph import Compiled, empty
from ..training.buckets import bucket_size
from .decoder_steps import DecodeStep, Model, PromptStep, SequenceStep
from .kv_cache import PromptCache, SlotCache, bucket, new_name
from .sampling_step import Drawing

FEWEST = 8  # rows below which a step costs the same
PREFILL = 512  # prompt tokens computed at once; a longer prompt is computed alone
PER_PROMPT = 16  # tokens of a batch per prompt that it may hold
LEAST_WHOLE = 32  # places of the shortest bucket of full sequences


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputedPrompt:
    """A prompt that samples start from: its ids, its keys and values, the hidden state after it ``[E]``."""

    ids: IntArray
    cache: PromptCache
    hidden: NDArray[np.float32]


class CachedRunner:
    """Implements ``generation.ModelRunner`` with a KV cache.

    Args:
        slots: S, the largest number that ``open`` will request; a larger one compiles everything again.
        shared: see ``SlotCache``.
    """

    name = "cached"

    def __init__(self, model: Model, log: CompileLog, *, slots: int, shared: bool) -> None:
        self.model, self.log, self.shared = model, log, shared
        self.drawing = Drawing(model, log)
        self.prompts: dict[int, ComputedPrompt] = {}
        self.prompt_steps: dict[int, tuple[Compiled, list[Parameter]]] = {}
        self._allocate(slots)

    def open(self, slots: int, sampling: Sampling, end_tokens: Sequence[int]) -> None:
        """Prepare this many empty slots."""
        if slots > self.cache.slots:
            self._allocate(slots)
        self.drawing.open(self.cache.slots, sampling, end_tokens)
        self.prompts = {}
        self.cache.reset()

    def prefill(self, prompts: Mapping[int, IntArray]) -> None:
        """Compute prompts, many at once, and store the state that their samples need."""
        for batch in prefill_batches({number: len(ids) for number, ids in prompts.items()}):
            self._prefill({number: prompts[number] for number in batch})

    def start(self, slots: Sequence[int], prompts: Sequence[int], draws: RandomDraws) -> SampledTokens:
        """Start a sample of a computed prompt in each of the slots; return its first token."""
        for prompt in dict.fromkeys(prompts):
            taken = [slot for slot, its_prompt in zip(slots, prompts, strict=True) if its_prompt == prompt]
            self.cache.fork(self.prompts[prompt].cache, taken)
            for slot in taken:
                self.drawing.start(slot, self.prompts[prompt].ids)
        hidden = np.stack([self.prompts[prompt].hidden for prompt in prompts])
        rows = filled(hidden, row_bucket(len(slots), self.cache.slots))
        return self.drawing.draw(Tensor(rows).astype(self.model.dtype), slots, draws)

    def release(self, prompts: Sequence[int]) -> None:
        """Forget computed prompts."""
        for prompt in prompts:
            del self.prompts[prompt]

    def move(self, source: int, target: int) -> None:
        """Continue the sample of one slot in another."""
        self.cache.move(source, target)
        self.drawing.move(source, target)

    def decode(self, tokens: Sequence[int], positions: Sequence[int], draws: RandomDraws) -> SampledTokens:
        """Append a token to each of the slots ``0..n-1``; rows beyond them write into free slots."""
        self.cache.reserve(max(positions) + 1)
        rows, count = row_bucket(len(tokens), self.cache.slots), len(tokens)
        inputs = np.zeros((2, rows), np.int32)
        inputs[:, :count] = tokens, positions
        return self.drawing.draw(self._decode_step(rows)(Tensor(inputs)), range(count), draws)

    def cache_bytes(self) -> int:
        """Bytes of keys and values of the slots."""
        return self.cache.nbytes

    def close(self) -> None:
        """Free the memory of prompts and slots."""
        self.prompts = {}
        self.cache.release()

    def forget(self) -> None:
        """Free the compiled steps; the runner cannot be used afterwards."""
        self.close()
        self.drawing.forget()
        for step, states in self.prompt_steps.values():
            step.forget()
            for part in states:
                empty(part)
        for step in self.decode_steps.values():
            step.forget()
        self.prompt_steps.clear()
        self.decode_steps.clear()

    def _allocate(self, slots: int) -> None:
        architecture = self.model.own
        layer = ((architecture.kv_heads, architecture.key_size), (architecture.kv_heads, architecture.value_size))
        self.cache = SlotCache(layer * architecture.layers, slots, self.model.dtype, shared=self.shared)
        self.decode_steps: dict[tuple[int, int], Compiled] = {}

    def _prefill(self, prompts: Mapping[int, IntArray]) -> None:
        """Compute one batch of prompts, laid one after another."""
        lengths = [len(ids) for ids in prompts.values()]
        ends = np.cumsum(lengths)
        width = bucket(max(int(ends[-1]), PER_PROMPT * len(prompts)))
        tokens = np.zeros((3, width), np.int32)
        tokens[2] = -1  # padding is a sequence of its own
        for number, (ids, end) in enumerate(zip(prompts.values(), ends, strict=True)):
            tokens[:, end - len(ids) : end] = ids, np.arange(len(ids)), np.full(len(ids), number)
        step, states = self._prompt_step(width)
        last = filled((ends - 1).astype(np.int32), width // PER_PROMPT)
        hidden = step(Tensor(tokens), Tensor(last)).astype(ms.float32).asnumpy()
        parts = [self._cut_prompts(part, ends, lengths) for part in states]
        for row, (number, ids) in enumerate(prompts.items()):
            cache = PromptCache(parts=tuple(part[row] for part in parts))
            self.prompts[number] = ComputedPrompt(ids=ids, cache=cache, hidden=hidden[row].copy())

    def _cut_prompts(self, states: Parameter, ends: IntArray, lengths: Sequence[int]) -> list[Any]:
        """Copies ``[K, P, D]`` of each prompt's keys or values from ``[T, K, D]``."""
        cuts = [slice(int(end) - length, int(end)) for end, length in zip(ends, lengths, strict=True)]
        if self.shared:
            values = states.asnumpy()
            return [values[cut].transpose(1, 0, 2).copy() for cut in cuts]
        return [ops.transpose(states[cut], (1, 0, 2)) for cut in cuts]

    def _prompt_step(self, width: int) -> tuple[Compiled, list[Parameter]]:
        if width not in self.prompt_steps:
            states = [
                Parameter(mint.zeros((width, *shape), dtype=self.model.dtype), name=new_name(), requires_grad=False)
                for shape in self.cache.shapes
            ]
            step = Compiled("prefill", PromptStep(self.model, states), self.log, lambda *_: f"{width} tokens")
            self.prompt_steps[width] = step, states
        return self.prompt_steps[width]

    def _decode_step(self, rows: int) -> Compiled:
        length = self.cache.length
        if (rows, length) not in self.decode_steps:
            cell = DecodeStep(self.model, self.cache.current, rows)
            step = Compiled("decode", cell, self.log, lambda *_: f"{rows} rows of {length} places")
            self.decode_steps[rows, length] = step
        return self.decode_steps[rows, length]


class RecomputeRunner:
    """Implements ``generation.ModelRunner`` without a cache: each token takes a forward pass over full sequences.

    It serves for comparison: its results depend on no bookkeeping.
    """

    name = "recompute"

    def __init__(self, model: Model, log: CompileLog, *, slots: int, shared: bool) -> None:
        self.model, self.log, self.slots = model, log, slots
        self.drawing = Drawing(model, log)
        self.prompts: dict[int, IntArray] = {}
        self.sequences: dict[int, list[int]] = {}
        self.steps: dict[tuple[int, int], Compiled] = {}

    def open(self, slots: int, sampling: Sampling, end_tokens: Sequence[int]) -> None:
        """Prepare this many empty slots."""
        self.slots = max(self.slots, slots)
        self.drawing.open(self.slots, sampling, end_tokens)
        self.prompts, self.sequences = {}, {}

    def prefill(self, prompts: Mapping[int, IntArray]) -> None:
        """Remember the prompts."""
        self.prompts.update(prompts)

    def start(self, slots: Sequence[int], prompts: Sequence[int], draws: RandomDraws) -> SampledTokens:
        """Start a sample in each of the slots; return its first token."""
        for slot, prompt in zip(slots, prompts, strict=True):
            self.sequences[slot] = self.prompts[prompt].tolist()
            self.drawing.start(slot, self.prompts[prompt])
        return self._draw(slots, draws)

    def release(self, prompts: Sequence[int]) -> None:
        """Forget prompts."""
        for prompt in prompts:
            del self.prompts[prompt]

    def move(self, source: int, target: int) -> None:
        """Continue the sample of one slot in another."""
        self.sequences[target] = self.sequences.pop(source)
        self.drawing.move(source, target)

    def decode(self, tokens: Sequence[int], positions: Sequence[int], draws: RandomDraws) -> SampledTokens:
        """Append a token to each of the slots ``0..n-1``; return the next tokens."""
        for slot, (token, position) in enumerate(zip(tokens, positions, strict=True)):
            self.sequences[slot][position:] = [token]
        return self._draw(range(len(tokens)), draws)

    def cache_bytes(self) -> int:
        """Return 0: there is no cache."""
        return 0

    def close(self) -> None:
        """Forget every sequence."""
        self.prompts, self.sequences = {}, {}

    def forget(self) -> None:
        """Free the compiled steps."""
        self.close()
        self.drawing.forget()
        for step in self.steps.values():
            step.forget()
        self.steps.clear()

    def _draw(self, slots: Sequence[int], draws: RandomDraws) -> SampledTokens:
        sequences = [self.sequences[slot] for slot in slots]
        rows, length = row_bucket(len(slots), self.slots), bucket_size(max(map(len, sequences)), least=LEAST_WHOLE)
        ids = np.zeros((rows, length), np.int32)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = sequence
        ends = np.array([row * length + len(sequence) - 1 for row, sequence in enumerate(sequences)], np.int32)
        hidden = self._step(rows, length)(Tensor(ids.ravel()), Tensor(filled(ends, rows)))
        return self.drawing.draw(hidden, slots, draws)

    def _step(self, rows: int, length: int) -> Compiled:
        if (rows, length) not in self.steps:
            cell = SequenceStep(self.model, rows, length)
            step = Compiled("recompute", cell, self.log, lambda *_: f"{rows} rows of {length} places")
            self.steps[rows, length] = step
        return self.steps[rows, length]


RUNNERS: dict[str, type[CachedRunner] | type[RecomputeRunner]] = {
    runner.name: runner for runner in (CachedRunner, RecomputeRunner)
}


def build_runner(
    name: str, model: Model, log: CompileLog, *, slots: int, shared: bool
) -> CachedRunner | RecomputeRunner:
    """The runner of this name."""
    return RUNNERS[name](model, log, slots=slots, shared=shared)


def row_bucket(count: int, slots: int) -> int:
    """Rows computed for ``count`` running slots: all slots, or the smallest quarter, sixteenth, ... that holds them."""
    rows = slots
    while rows % 4 == 0 and rows // 4 >= max(count, FEWEST):
        rows //= 4
    return rows


def filled(values: NDArray[Any], rows: int) -> NDArray[Any]:
    """Repeat the first value at the end until there are ``rows``."""
    return np.concatenate([values, np.repeat(values[:1], rows - len(values), axis=0)])


def prefill_batches(lengths: Mapping[int, int]) -> list[list[int]]:
    """Group prompts that are computed together, longest first: little padding and few shapes."""
    packed: list[list[int]] = []
    for number in sorted(lengths, key=lambda number: -lengths[number]):
        for batch in packed:
            tokens = sum(lengths[member] for member in batch)
            if tokens + lengths[number] <= PREFILL and len(batch) < PREFILL // PER_PROMPT:
                batch.append(number)
                break
        else:
            packed.append([number])
    return packed
