"""The device side of generation: a decoder computes logits, the sampler draws; one transfer to the host per step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mindrlhf_grpo.generation.generation import RandomDraws, SampledTokens
from mindrlhf_grpo.generation.sampling import depth, per_level
from mindrlhf_grpo.types import IntArray, Sampling

from .decoder import Decoder
from .sampler import Sampler


class TorchRunner:
    """Implements ``generation.ModelRunner``."""

    def __init__(self, decoder: Decoder, *, vocab_size: int, device: torch.device) -> None:
        self.decoder, self.vocab_size, self.device = decoder, vocab_size, device
        self.levels = depth(vocab_size)
        self.prompt_states: dict[int, tuple[object, Tensor]] = {}  # by prompt: its state and the logits after it
        self.ids: dict[int, IntArray] = {}
        self.features: Mapping[int, Mapping[str, Any]] = {}  # images of the prompts of the next call, by number

    def open(self, slots: int, sampling: Sampling, end_tokens: Sequence[int]) -> None:
        """Prepare this many empty slots."""
        self.sampler = Sampler(
            sampling, end_tokens=end_tokens, slots=slots, vocab_size=self.vocab_size, device=self.device
        )
        self.prompt_states, self.ids = {}, {}
        self.decoder.open(slots)

    def prefill(self, prompts: Mapping[int, IntArray]) -> None:
        """Compute prompts and store their keys, values and the logits after them."""
        features = [self.features.get(number, {}) for number in prompts] if self.features else []
        states, logits = self.decoder.prefill(list(prompts.values()), features)
        self.prompt_states.update(zip(prompts, zip(states, logits, strict=True), strict=True))
        self.ids.update(prompts)

    def start(self, slots: Sequence[int], prompts: Sequence[int], draws: RandomDraws) -> SampledTokens:
        """Start a sample of a computed prompt in each of the slots; return its first token."""
        for slot, prompt in zip(slots, prompts, strict=True):
            self.decoder.fork(self.prompt_states[prompt][0], slot)
            self.sampler.start(slot, self.ids[prompt])
        return self._draw(torch.stack([self.prompt_states[prompt][1] for prompt in prompts]), slots, draws)

    def release(self, prompts: Sequence[int]) -> None:
        """Forget computed prompts."""
        for prompt in prompts:
            del self.prompt_states[prompt], self.ids[prompt]

    def move(self, source: int, target: int) -> None:
        """Continue the sample of one slot in another."""
        self.decoder.move(source, target)
        self.sampler.move(source, target)

    def decode(self, tokens: Sequence[int], positions: Sequence[int], draws: RandomDraws) -> SampledTokens:
        """Append a token to each of the slots ``0..n-1``; return the next tokens."""
        return self._draw(self.decoder.decode(tokens, positions), range(len(tokens)), draws)

    def close(self) -> None:
        """Free the KV cache."""
        self.decoder.close()

    def _draw(self, logits: Tensor, slots: Sequence[int], draws: RandomDraws) -> SampledTokens:
        numbers = torch.from_numpy(per_level(draws.uniforms, self.levels)).to(self.device)
        tokens, logps = self.sampler.draw(logits, numbers, slots, draws.places.tolist())
        both = torch.stack([tokens.double(), logps.double()]).cpu().numpy()
        return SampledTokens(tokens=both[0].astype(np.int64), logps=both[1].astype(np.float32))
