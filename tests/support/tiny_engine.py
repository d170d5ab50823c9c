"""A letter tokenizer, prompts and engines on tiny random models, for the tests of generation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.types import Prompt, Rollout, RolloutGroup, Sampling
from tests.support.tiny_policy import VOCABULARY, make_model

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

END = 2
LETTERS = "".join(chr(ord("0") + token) for token in range(VOCABULARY))


class Letters:
    """One character for every token; 0 pads, 2 ends, both invisible."""

    eos_ids: tuple[int, ...] = (END,)
    pad_id = 0
    vocab_size = VOCABULARY
    has_chat_template = False

    def encode(self, text: str) -> list[int]:
        return [LETTERS.index(letter) for letter in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(LETTERS[token] for token in ids if token not in (0, END))

    def piece(self, token: int) -> str:
        return LETTERS[token]

    def chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        return self.encode("".join(message["content"] for message in messages))


class Endless(Letters):
    """The same, but nothing ends a completion."""

    eos_ids = ()


def make_engine(model: Any, *, slots: int = 8, decoder: str | None = None, tokenizer: Any = None) -> Any:
    used: Any = tokenizer or Letters()
    from mindrlhf_grpo_torch.generation.engine import TorchEngine

    return TorchEngine(model, used, slots=slots, decoder=decoder)


def family_engine(family: str, **settings: Any) -> Any:
    return make_engine(make_model(family), **settings)


def make_prompts(lengths: Sequence[int] = (5, 3, 9, 3, 12), *, seed: int = 0) -> list[Prompt]:
    random = np.random.default_rng(seed)
    return [
        Prompt(uid=100 + index, ids=random.integers(3, VOCABULARY, length).astype(np.int32), text="", row=index)
        for index, length in enumerate(lengths)
    ]


def sampling(**settings: Any) -> Sampling:
    return Sampling(**{"max_tokens": 12, "seed": 5, **settings})


def by_request(groups: Sequence[RolloutGroup]) -> dict[tuple[int, int], Rollout]:
    return {(group.prompt.uid, rollout.sample): rollout for group in groups for rollout in group.rollouts}


def tokens(groups: Sequence[RolloutGroup]) -> dict[tuple[int, int], list[int]]:
    return {request: rollout.ids.tolist() for request, rollout in by_request(groups).items()}


def own_logps(model: Any, prompt: Prompt, rollout: Rollout, temperature: float = 1.0) -> np.ndarray:
    """Log-probs of a completion from the model's own logits."""
    ids = torch.tensor(np.concatenate([prompt.ids, rollout.ids])[None]).long()
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0].float() / temperature
    logps = torch.log_softmax(logits, -1)[len(prompt.ids) - 1 : -1]
    return logps.gather(1, ids[0, len(prompt.ids) :, None])[:, 0].numpy()
