"""Two runs that sample the same tokens, up to a token whose draw only rounding decides.

The uniform of a token does not depend on the backend, the probabilities do, by a few 1e-6. Where the uniform falls that
close to the end of an id's interval, the runs take different ids, and from there on they are different runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from mindrlhf_grpo.generation.sampling import choose, uniforms
from tests.support import tiny

CLOSE = 1e-4  # relative, of every probability
DRAWS = 20_000


class Difference(NamedTuple):
    """The first place at which two runs took different tokens."""

    step: int
    uid: int
    sample: int
    position: int
    prompt: str
    before: list[int]
    tokens: tuple[int, int]


def first_difference(one: Path, other: Path, steps: int) -> Difference | None:
    """The first step with different tokens, and there a token before which both completions are the same."""
    for step in range(1, steps + 1):
        expected, found = tiny.rollouts(one, step), tiny.rollouts(other, step)
        assert expected.keys() == found.keys()
        for (uid, sample), row in sorted(expected.items()):
            for position, pair in enumerate(zip(row["ids"], found[uid, sample]["ids"], strict=False)):
                if pair[0] != pair[1]:
                    before = row["ids"][:position]
                    return Difference(step, uid, sample, position, row["prompt"], before, pair)
    return None


def decided_by_rounding(difference: Difference, run: Path, seed: int) -> bool:
    """Whether both ids are drawn where probabilities are moved by CLOSE, by the policy that sampled, as torch reads it.

    The run keeps the checkpoint of every step; the first step's policy is no checkpoint, and there nothing differs yet.
    """
    import torch
    from transformers import AutoModelForCausalLM

    assert difference.step > 1, "the models are the same in the first step"
    pieces = [*tiny.SPECIAL, *tiny.ALPHABET]
    ids = [*(pieces.index(character) for character in difference.prompt), *difference.before]
    policy = run / "checkpoints" / f"step_{difference.step - 1}" / "policy"
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(policy)(input_ids=torch.tensor([ids])).logits[0, -1]
    weights = torch.softmax(logits.double(), -1).numpy()
    number = uniforms(seed, np.array([difference.uid]), np.array([difference.sample]), np.array([difference.position]))
    moved = weights * (1 + CLOSE * np.random.default_rng(0).uniform(-1, 1, (DRAWS, len(weights))))
    return set(difference.tokens) <= set(choose(moved, np.repeat(number, DRAWS)).tolist())
