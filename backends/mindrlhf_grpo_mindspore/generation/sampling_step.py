"""The step from hidden states to tokens: head and sampler compiled together; logits never leave it.

It is compiled separately from the layers, once for each rule and number of rows: prompts, decoding and recomputation
share it, and another rule (a greedy evaluation between sampled steps) leaves the layers compiled.
Legend: n rows, E hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mindspore import Tensor, nn

from mindrlhf_grpo.backend import CompileLog
from mindrlhf_grpo.generation.generation import RandomDraws, SampledTokens
from mindrlhf_grpo.generation.sampling import depth, per_level
from mindrlhf_grpo.types import IntArray, Sampling

from ..graph import Compiled
from .decoder_steps import Model
from .sampler import Rule, Sampler, rule_of


class DrawStep(nn.Cell):
    """The next token of every row."""

    def __init__(self, model: Model, sampler: Sampler) -> None:
        super().__init__(auto_prefix=False)
        self.decoder, self.sampler = model.decoder(nn.Identity()), sampler

    def construct(self, hidden: Tensor, uniforms: Tensor, early: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """``[n, E]`` after the final norm, and the sampler's arguments -> tokens and log-probs ``[n]``."""
        return self.sampler(self.decoder.logits(hidden), uniforms, early, slots)


class Drawing:
    """The draw steps of a model; records the tokens that each slot has seen where a penalty needs them."""

    def __init__(self, model: Model, log: CompileLog) -> None:
        self.model, self.log, self.slots = model, log, 0
        self.levels = depth(model.architecture.vocabulary)
        self.samplers: dict[Rule, Sampler] = {}
        self.steps: dict[tuple[Rule, int], Compiled] = {}

    def open(self, slots: int, sampling: Sampling, end_tokens: Sequence[int]) -> None:
        """Draw by this sampling from now on; more slots than before compile everything again."""
        vocabulary = self.model.architecture.vocabulary
        self.min_tokens, self.rule = sampling.min_tokens, rule_of(sampling, end_tokens, vocabulary)
        if slots > self.slots:
            self.slots, self.samplers, self.steps = slots, {}, {}
        if self.rule not in self.samplers:
            # One extra slot takes the tokens drawn in padding rows.
            self.samplers[self.rule] = Sampler(self.rule, slots=self.slots + 1, vocabulary=vocabulary)

    def start(self, slot: int, prompt: IntArray) -> None:
        """Start a sample of this prompt in the slot."""
        if self.sampler.seen is not None:
            row = np.zeros(self.model.architecture.vocabulary, np.float32)
            row[prompt] = 1.0
            self.sampler.seen[slot] = Tensor(row)

    def move(self, source: int, target: int) -> None:
        """Continue the sample of one slot in another."""
        if self.sampler.seen is not None:
            self.sampler.seen[target] = self.sampler.seen[source].copy()

    def draw(self, hidden: Tensor, slots: Sequence[int], draws: RandomDraws) -> SampledTokens:
        """The next tokens of the slots; tokens of further rows of ``hidden`` ``[n, E]`` are dropped."""
        rows, count = len(hidden), len(slots)
        uniforms, early = np.zeros((rows, self.levels)), np.zeros(rows, bool)
        uniforms[:count], early[:count] = per_level(draws.uniforms, self.levels), draws.places < self.min_tokens
        places = np.full(rows, self.slots, np.int32)
        places[:count] = slots
        tokens, logps = self._step(rows)(hidden, Tensor(uniforms), Tensor(early), Tensor(places))
        return SampledTokens(tokens=tokens.asnumpy()[:count].astype(np.int64), logps=logps.asnumpy()[:count])

    def forget(self) -> None:
        """Free the compiled steps."""
        for step in self.steps.values():
            step.forget()
        self.samplers, self.steps, self.slots = {}, {}, 0

    @property
    def sampler(self) -> Sampler:
        return self.samplers[self.rule]

    def _step(self, rows: int) -> Compiled:
        key = self.rule, rows
        if key not in self.steps:
            self.steps[key] = Compiled("draw", DrawStep(self.model, self.sampler), self.log, lambda *_: f"{rows} rows")
        return self.steps[key]
