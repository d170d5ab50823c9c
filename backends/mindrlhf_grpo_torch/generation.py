"""One call of generate: requests go through slots, tokens come out.

The scheduler says what starts where, the decoder computes, the sampler draws; here these are put together. Each
step sends the last tokens to the device and brings back one token and one log-prob for every running slot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mindrlhf_grpo.data.tokenizer import Tokenizer
from mindrlhf_grpo.errors import RunFailed
from mindrlhf_grpo.sampling import uniforms
from mindrlhf_grpo.scheduler import Admission, Scheduler
from mindrlhf_grpo.types import FinishReason, Prompt, Rollout, RolloutGroup, Sampling

from .decoder import Decoder
from .sampler import Sampler
from .stop import StopStrings

PREFILL_TOKENS = 4096  # prompt tokens kept for samples that have not started, beyond those needed at once

Progress = Callable[[int, int], None]  # (completions finished, completions asked for)


@dataclass(slots=True)
class Running:
    """The completion in one slot so far."""

    prompt: int
    sample: int
    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)


class Generation:
    """``group_size`` completions of every prompt.

    Args:
        end_tokens: ids that end a completion.
        version: weight version written on every rollout.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        group_size: int,
        slots: int,
        decoder: Decoder,
        tokenizer: Tokenizer,
        vocab_size: int,
        device: torch.device,
        version: int,
        progress: Progress | None = None,
    ) -> None:
        self.prompts, self.sampling = prompts, sampling
        self.decoder, self.tokenizer, self.device = decoder, tokenizer, device
        self.version, self.progress = version, progress
        self.end_tokens = frozenset(tokenizer.eos_ids)
        slots = min(slots, len(prompts) * group_size)
        self.slots = slots
        lengths = [len(prompt.ids) for prompt in prompts]
        self.scheduler = Scheduler(lengths, group_size=group_size, slots=slots, prefill_tokens=PREFILL_TOKENS)
        self.sampler = Sampler(
            sampling, end_tokens=tokenizer.eos_ids, slots=slots, vocab_size=vocab_size, device=device
        )
        self.stop = StopStrings(sampling.stop, tokenizer, min_tokens=sampling.min_tokens)
        self.running: dict[int, Running] = {}
        self.kept: dict[int, tuple[object, Tensor]] = {}  # prompt -> its state and the logits after it
        self.finished: dict[tuple[int, int], Rollout] = {}

    def run(self) -> list[RolloutGroup]:
        """Generate everything; groups in the order of the prompts, samples in order."""
        self.decoder.open(self.slots)
        while not self.scheduler.done:
            while (admission := self.scheduler.admit()).starts:
                self._begin(admission)
            for move in self.scheduler.compact():
                self.decoder.move(move.source, move.target)
                self.sampler.move(move.source, move.target)
                self.running[move.target] = self.running.pop(move.source)
            if self.running:
                self._advance()
        samples = range(self.scheduler.group_size)
        return [
            RolloutGroup(prompt=prompt, rollouts=tuple(self.finished[index, sample] for sample in samples))
            for index, prompt in enumerate(self.prompts)
        ]

    def _begin(self, admission: Admission) -> None:
        """Start samples: their prompts' keys and values, and their first tokens."""
        if admission.prefill:
            states, logits = self.decoder.prefill([self.prompts[index].ids for index in admission.prefill])
            self.kept.update(zip(admission.prefill, zip(states, logits, strict=True), strict=True))
        for start in admission.starts:
            self.decoder.fork(self.kept[start.prompt][0], start.slot)
            self.sampler.start(start.slot, self.prompts[start.prompt].ids)
            self.running[start.slot] = Running(start.prompt, start.sample)
        logits = torch.stack([self.kept[start.prompt][1] for start in admission.starts])
        for prompt in admission.release:
            del self.kept[prompt]
        self._draw(logits, [start.slot for start in admission.starts])

    def _advance(self) -> None:
        """One token for every running slot."""
        slots = range(len(self.running))
        rows = [self.running[slot] for slot in slots]
        positions = [len(self.prompts[row.prompt].ids) + len(row.ids) - 1 for row in rows]
        self._draw(self.decoder.decode([row.ids[-1] for row in rows], positions), list(slots))

    def _draw(self, logits: Tensor, slots: Sequence[int]) -> None:
        """Sample the given slots' next tokens and retire the completions they end."""
        rows = [self.running[slot] for slot in slots]
        uids, samples, positions = np.array(
            [(self.prompts[row.prompt].uid, row.sample, len(row.ids)) for row in rows], dtype=np.int64
        ).T
        numbers = torch.from_numpy(uniforms(self.sampling.seed, uids, samples, positions))
        tokens, logps = self.sampler.draw(logits, numbers.to(self.device), slots, positions.tolist())
        drawn = torch.stack([tokens.double(), logps.double()]).cpu().numpy()
        if not np.isfinite(drawn[1]).all():
            raise RunFailed("the model's logits are not finite: no token can be sampled")
        for slot, row, token, logp in zip(slots, rows, drawn[0], drawn[1], strict=True):
            row.ids.append(int(token))
            row.logps.append(float(logp))
            self._retire(slot, row)

    def _retire(self, slot: int, row: Running) -> None:
        """Free the slot if its completion is complete."""
        ended = row.ids[-1] in self.end_tokens
        before_stop = None if ended else self.stop.cut(row.ids)
        if not ended and before_stop is None and len(row.ids) < self.sampling.max_tokens:
            return
        if before_stop is None:
            before_stop = self.tokenizer.decode(row.ids[:-1] if ended else row.ids)
            finish = FinishReason.STOP if ended else FinishReason.LENGTH
        else:
            finish = FinishReason.STOP
        self.finished[row.prompt, row.sample] = Rollout(
            sample=row.sample, ids=np.array(row.ids, dtype=np.int32), logps=np.array(row.logps, dtype=np.float32),
            finish=finish, text=before_stop, weight_version=self.version,
        )  # fmt: skip
        self.scheduler.finish(slot)
        del self.running[slot]
        if self.progress is not None:
            self.progress(len(self.finished), self.scheduler.total)
