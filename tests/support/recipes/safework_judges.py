"""Tiny judges on disk, and a backend whose language models answer by a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mindrlhf_grpo.backend import LogProbs
from mindrlhf_grpo.types import Batch, FinishReason, Prompt, Rollout, RolloutGroup

Say = Callable[[str, str], str]


class Judges:
    """A backend with language models only; ``log`` tells when each is loaded, asked and released."""

    device = None

    def __init__(self, say: Say) -> None:
        self.say = say
        self.log: list[str] = []
        self.asked: list[tuple[str, str]] = []

    def load_language_model(self, config: Any, tokenizer: Any, *, slots: int) -> SaidModel:
        return SaidModel(self, Path(config.path).name, tokenizer)


class SaidModel:
    """Implements ``backend.LanguageModel``: ``say(folder, message)`` gives the greedy answers."""

    def __init__(self, judges: Judges, name: str, tokenizer: Any) -> None:
        self.judges, self.name, self.tokenizer, self.loaded = judges, name, tokenizer, False

    def load(self) -> None:
        if not self.loaded:
            self.judges.log.append(f"load {self.name}")
        self.loaded = True

    def generate(self, prompts: Sequence[Prompt], sampling: Any, *, group_size: int) -> list[RolloutGroup]:
        self.load()
        self.judges.asked += [(self.name, prompt.text) for prompt in prompts]
        return [RolloutGroup(prompt=p, rollouts=(rollout(self.judges.say(self.name, p.text)),)) for p in prompts]

    def logps(self, batch: Batch) -> LogProbs:
        """Probability 0.8 of the first choice where the message has a 9, else 0.2."""
        self.load()
        nine = self.tokenizer.encode("9")[0]
        good = np.array([nine in batch.prompts[m] for m in batch.prompt_of])
        first = np.arange(len(batch)) % 2 == 0
        return LogProbs(logps=np.log(np.where(good == first, 0.8, 0.2))[:, None].astype(np.float32))

    def release(self) -> None:
        if self.loaded:
            self.judges.log.append(f"release {self.name}")
        self.loaded = False


def rollout(text: str, sample: int = 0) -> Rollout:
    return Rollout(sample=sample, ids=np.arange(2), logps=np.zeros(2), finish=FinishReason.STOP, text=text)


def group(completions: Sequence[str], prompt: str = "q", **columns: Any) -> RolloutGroup:
    rollouts = tuple(rollout(text, sample) for sample, text in enumerate(completions))
    return RolloutGroup(prompt=Prompt(uid=0, ids=np.arange(3), text=prompt, columns=columns), rollouts=rollouts)
