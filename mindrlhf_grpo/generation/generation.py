"""The loop of one call of ``generate``: requests pass through slots and become completions.

The scheduler decides which sample starts in which slot; the backend's model runner computes and samples. Each step
hands the last tokens to the runner and gets back one token and one log-prob for every running slot.
In a conversation the slot of a sample keeps its keys and values while an environment answers, and then reads the
answer token by token, beside the slots that sample: no token is computed twice for a later turn.
Legend: n rows, P prompt tokens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..backend import Answer, Conversations
from ..errors import BackendError, ConfigError, DataError, RunFailed
from ..tokenizers.tokenizer import Tokenizer
from ..types import FinishReason, IntArray, Prompt, Rollout, RolloutGroup, Sampling
from .sampling import uniforms
from .scheduler import Admission, Scheduler
from .stop_strings import StopStrings

PREFILL_TOKENS = 4096  # prompt tokens computed ahead for samples that have not started

ProgressCallback = Callable[[int, int], None]  # (finished, requested) completions


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomDraws:
    """The inputs besides the logits that decide the next token of each row.

    Attributes:
        uniforms: ``[n]`` in [0, 1).
        places: ``[n]`` index of the drawn token in its completion.
    """

    uniforms: NDArray[np.float64]
    places: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledTokens:
    """Sampled tokens ``[n]`` and their log-probs ``[n]`` under softmax(logits / temperature), untruncated."""

    tokens: IntArray
    logps: NDArray[np.float32]


class ModelRunner(Protocol):
    """The device side of generation: the model's forward passes, its KV cache and the sampler."""

    def open(self, slots: int, sampling: Sampling, end_tokens: Sequence[int]) -> None:
        """Prepare this many empty slots; ``end_tokens`` may not be drawn before ``sampling.min_tokens``."""
        ...

    def prefill(self, prompts: Mapping[int, IntArray]) -> None:
        """Compute prompts ``[P]`` and keep their state under their number in this call."""
        ...

    def start(self, slots: Sequence[int], prompts: Sequence[int], draws: RandomDraws) -> SampledTokens:
        """Start a sample of a computed prompt in each of the slots; return its first token."""
        ...

    def release(self, prompts: Sequence[int]) -> None:
        """Forget computed prompts, of which no further sample starts."""
        ...

    def move(self, source: int, target: int) -> None:
        """Continue the sample of one slot in another."""
        ...

    def decode(self, tokens: Sequence[int], positions: Sequence[int], draws: RandomDraws) -> SampledTokens:
        """Write a token at this place of the sequence of each of the slots ``0..n-1``; return the next tokens.

        The token of a slot that waits is written again at its place, which changes nothing.
        """
        ...

    def close(self) -> None:
        """Free the memory of the slots."""
        ...


@dataclass(slots=True)
class Running:
    """The part of a completion that its slot has generated so far.

    Attributes:
        first: place of the first token of the current turn.
        spans: (start, end) of the tokens that an environment wrote.
        unread: tokens of an answer that the slot has still to read.
        answer: the answer that the slot waits for; None: it samples or reads.
    """

    prompt: int
    sample: int
    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    first: int = 0
    spans: list[tuple[int, int]] = field(default_factory=list)
    unread: deque[int] = field(default_factory=deque)
    answer: Future[Answer] | None = None

    def sampled(self) -> NDArray[np.bool_]:
        """``[T]`` which tokens were sampled."""
        sampled = np.ones(len(self.ids), dtype=np.bool_)
        for start, end in self.spans:
            sampled[start:end] = False
        return sampled


class Generation:
    """``group_size`` completions of every prompt.

    Args:
        version: weight version recorded in every rollout.
        conversations: answers turns; None: a completion is one turn.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        group_size: int,
        slots: int,
        runner: ModelRunner,
        tokenizer: Tokenizer,
        version: int,
        progress: ProgressCallback | None = None,
        conversations: Conversations | None = None,
    ) -> None:
        self.prompts, self.sampling, self.conversations = prompts, sampling, conversations
        self.runner, self.tokenizer = runner, tokenizer
        self.version, self.progress = version, progress
        self.end_tokens = frozenset(tokenizer.eos_ids)
        self.slots = min(slots, len(prompts) * group_size)
        lengths = [len(prompt.ids) for prompt in prompts]
        self.scheduler = Scheduler(lengths, group_size=group_size, slots=self.slots, prefill_tokens=PREFILL_TOKENS)
        self.stop = StopStrings(sampling.stop, tokenizer, min_tokens=sampling.min_tokens)
        self.running: dict[int, Running] = {}
        self.finished: dict[tuple[int, int], Rollout] = {}

    def run(self) -> list[RolloutGroup]:
        """Generate everything; groups in the order of the prompts, samples in order.

        Raises:
            RunFailed: logits that are not finite.
        """
        self.runner.open(self.slots, self.sampling, self.tokenizer.eos_ids)
        while not self.scheduler.done:
            while (admission := self.scheduler.admit()).starts:
                self._begin(admission)
            for move in self.scheduler.compact():
                self.runner.move(move.source, move.target)
                self.running[move.target] = self.running.pop(move.source)
            if not self._read_answers() and self.running:
                self._advance()
        samples = range(self.scheduler.group_size)
        return [
            RolloutGroup(prompt=prompt, rollouts=tuple(self.finished[index, sample] for sample in samples))
            for index, prompt in enumerate(self.prompts)
        ]

    def _begin(self, admission: Admission) -> None:
        """Start samples: compute their prompts, draw their first tokens."""
        if admission.prefill:
            self.runner.prefill({index: self.prompts[index].ids for index in admission.prefill})
        slots = [start.slot for start in admission.starts]
        for start in admission.starts:
            self.running[start.slot] = Running(start.prompt, start.sample)
        drawn = self.runner.start(slots, [start.prompt for start in admission.starts], self._draws(slots))
        self.runner.release(admission.release)
        self._append(slots, drawn)

    def _advance(self) -> None:
        """One token for every running slot."""
        slots = range(len(self.running))
        rows = [self.running[slot] for slot in slots]
        positions = [len(self.prompts[row.prompt].ids) + len(row.ids) - 1 for row in rows]
        self._append(slots, self.runner.decode([row.ids[-1] for row in rows], positions, self._draws(slots)))

    def _draws(self, slots: Sequence[int]) -> RandomDraws:
        """The random numbers for the next tokens of the slots."""
        rows = [self.running[slot] for slot in slots]
        uids, samples, places = np.array(
            [(self.prompts[row.prompt].uid, row.sample, len(row.ids)) for row in rows], dtype=np.int64
        ).T
        return RandomDraws(uniforms=uniforms(self.sampling.seed, uids, samples, places), places=places)

    def _append(self, slots: Sequence[int], drawn: SampledTokens) -> None:
        """Append the tokens and retire the completions that they end; what is drawn where none is sampled is dropped."""
        if not np.isfinite(drawn.logps).all():
            raise RunFailed("the model's logits are not finite: no token can be sampled")
        for slot, token, logp in zip(slots, drawn.tokens.tolist(), drawn.logps.tolist(), strict=True):
            row = self.running[slot]
            if row.unread:
                row.ids.append(row.unread.popleft())
                row.logps.append(0.0)
                row.first = len(row.ids)
            elif row.answer is None:
                row.ids.append(token)
                row.logps.append(logp)
                self._end_turn(slot, row)

    def _end_turn(self, slot: int, row: Running) -> None:
        """If the turn of the slot has ended, ask for an answer, or free the slot where there is none."""
        turn = row.ids[row.first :]
        ended = turn[-1] in self.end_tokens
        before_stop = None if ended else self.stop.cut(turn)
        full = len(row.ids) >= self.sampling.max_tokens
        if not ended and before_stop is None and not full:
            return
        if self.conversations is not None and (ended or before_stop is not None):
            prompt = self.prompts[row.prompt]
            row.answer = self.conversations.answer(prompt, row.sample, turn, ended=ended)
            return
        if before_stop is None:
            before_stop = self.tokenizer.decode(turn[:-1] if ended else turn)
            finish = FinishReason.STOP if ended else FinishReason.LENGTH
        else:
            finish = FinishReason.STOP
        self._retire(slot, row, finish, before_stop)

    def _read_answers(self) -> bool:
        """Take the answers that have come, or wait for one if no slot can go on without; True if a slot became free."""
        before = len(self.running)
        waiting = [row.answer for row in self.running.values() if row.answer is not None]
        if waiting and len(waiting) == len(self.running):
            wait(waiting, return_when=FIRST_COMPLETED)
        for slot, row in list(self.running.items()):
            if row.answer is None or not row.answer.done():
                continue
            answer, row.answer = row.answer.result(), None
            if answer.ids is None:
                self._retire(slot, row, answer.finish, "")
            elif len(row.ids) + len(answer.ids) >= self.sampling.max_tokens:
                self._retire(slot, row, FinishReason.LENGTH, "")
            else:
                row.spans.append((len(row.ids), len(row.ids) + len(answer.ids)))
                row.unread.extend(int(token) for token in answer.ids)
        return len(self.running) < before

    def _retire(self, slot: int, row: Running, finish: FinishReason, text: str) -> None:
        """Free the slot of a completion that has ended."""
        self.finished[row.prompt, row.sample] = Rollout(
            sample=row.sample, ids=np.array(row.ids, dtype=np.int32), logps=np.array(row.logps, dtype=np.float32),
            finish=finish, text=text, weight_version=self.version,
            sampled=None if self.conversations is None else row.sampled(),
        )  # fmt: skip
        self.scheduler.finish(slot)
        del self.running[slot]
        if self.progress is not None:
            self.progress(len(self.finished), self.scheduler.total)


DYNAMIC = (
    ". Its rotary embedding (rope_type: dynamic) would go on, with frequencies of the longest text computed so far: "
    "sampled and trained log-probs of the same tokens would differ. rope_type yarn or linear in config.json, with "
    "max_position_embeddings raised, has no such limit"
)


def check_prompt(
    prompt: Prompt,
    sampling: Sampling,
    *,
    vocab_size: int,
    context: int | None,
    reads_images: bool = False,
    rotary: str = "default",
) -> None:
    """Check that a native engine can complete the prompt with a model of this vocabulary and context length.

    ``rotary`` is the kind of the model's rotary embedding, for the message.

    Raises:
        BackendError: it has images, and the model reads text only.
        DataError: a prompt without tokens, or with tokens the model does not know.
        ConfigError: the prompt and ``max_tokens`` do not fit the model's context.
    """
    length = len(prompt.ids)
    if prompt.features and not reads_images:
        raise BackendError(f"row {prompt.row}: the model reads text only, not {', '.join(prompt.features)}")
    if not length:
        raise DataError(f"row {prompt.row}: the prompt has no tokens")
    largest = int(max(prompt.ids))
    if largest >= vocab_size:
        raise DataError(
            f"row {prompt.row}: token {largest} is beyond the model's vocabulary of {vocab_size}: "
            "the tokenizer belongs to another model"
        )
    if context is not None and length + sampling.max_tokens > context:
        raise ConfigError(
            f"row {prompt.row}: {length} prompt tokens and rollout.max_tokens {sampling.max_tokens} do not fit the "
            f"model's context of {context} tokens; lower data.max_prompt_tokens or rollout.max_tokens"
            f"{DYNAMIC if rotary == 'dynamic' else ''}"
        )
