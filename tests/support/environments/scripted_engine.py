"""Generation without a model: a runner that says given texts, and counts the places that it computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mindrlhf_grpo.backend import Conversations
from mindrlhf_grpo.generation.generation import Generation, RandomDraws, SampledTokens
from mindrlhf_grpo.tokenizers.tokenizer import Tokenizer
from mindrlhf_grpo.types import IntArray, Prompt, RolloutGroup, Sampling

Script = Callable[[str], str]  # the text of a sequence so far -> the text of the next turn, without its end


class ScriptedRunner:
    """Implements ``generation.ModelRunner``: each turn is what the script says to the text before it, token by token.

    Attributes:
        computed: (slot's sample, place) -> how often a token was written there, prompts apart.
        prefilled: tokens of computed prompts.
    """

    def __init__(self, script: Script, tokenizer: Tokenizer) -> None:
        self.script, self.tokenizer = script, tokenizer
        self.prompts: dict[int, list[int]] = {}
        self.rows: dict[int, list[int]] = {}
        self.planned: dict[int, tuple[int, list[int]]] = {}  # by slot: where the turn begins, and its tokens
        self.written: list[tuple[int, int]] = []
        self.prefilled = 0

    def open(self, slots: int, sampling: Sampling, end_tokens: Sequence[int]) -> None:
        self.rows, self.planned = {}, {}

    def prefill(self, prompts: Mapping[int, IntArray]) -> None:
        self.prompts |= {number: [int(token) for token in ids] for number, ids in prompts.items()}
        self.prefilled += sum(len(ids) for ids in prompts.values())

    def start(self, slots: Sequence[int], prompts: Sequence[int], draws: RandomDraws) -> SampledTokens:
        for slot, prompt in zip(slots, prompts, strict=True):
            self.rows[slot] = list(self.prompts[prompt])
            self.planned.pop(slot, None)
        return self._next(slots)

    def release(self, prompts: Sequence[int]) -> None:
        return

    def move(self, source: int, target: int) -> None:
        self.rows[target] = self.rows.pop(source)
        if source in self.planned:
            self.planned[target] = self.planned.pop(source)

    def decode(self, tokens: Sequence[int], positions: Sequence[int], draws: RandomDraws) -> SampledTokens:
        for slot, (token, position) in enumerate(zip(tokens, positions, strict=True)):
            row = self.rows[slot]
            assert position <= len(row), "a place was left out"
            again = position < len(row)
            assert not again or row[position:] == [token], "only the last token may be written again"
            if not again:
                self.written.append((slot, position))
            row[position:] = [token]
        return self._next(range(len(tokens)))

    def close(self) -> None:
        return

    def _next(self, slots: Sequence[int]) -> SampledTokens:
        drawn = [self._token(slot) for slot in slots]
        return SampledTokens(tokens=np.asarray(drawn), logps=np.full(len(drawn), -0.5, np.float32))

    def _token(self, slot: int) -> int:
        """The next token of the turn that goes on in the slot, else the first of a new one."""
        row = self.rows[slot]
        start, turn = self.planned.get(slot, (len(row), []))
        said = len(row) - start
        if said < len(turn) and row[start:] == turn[:said]:
            return turn[said]
        text = "".join(self.tokenizer.piece(token) for token in row)
        self.planned[slot] = len(row), [*self.tokenizer.encode(self.script(text)), self.tokenizer.eos_ids[0]]
        return self.planned[slot][1][0]


class ScriptedEngine:
    """Implements ``backend.RolloutEngine.generate`` with a script in place of a model."""

    weight_version = 0

    def __init__(self, script: Script, tokenizer: Tokenizer, *, slots: int = 4) -> None:
        self.runner, self.tokenizer, self.slots = ScriptedRunner(script, tokenizer), tokenizer, slots

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        group_size: int,
        conversations: Conversations | None = None,
    ) -> list[RolloutGroup]:
        return Generation(
            prompts, sampling, group_size=group_size, slots=self.slots, runner=self.runner, tokenizer=self.tokenizer,
            version=3, conversations=conversations,
        ).run()  # fmt: skip
