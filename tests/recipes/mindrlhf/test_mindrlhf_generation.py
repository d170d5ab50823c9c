"""Incremental inference: keys and values are kept, so a token costs one position, and the tokens are the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.tiny_engine import Endless, make_engine, make_prompts, sampling
from tests.support.tiny_policy import make_model

torch = pytest.importorskip("torch")
pytest.importorskip("torch.utils.flop_counter")


TOKENS = 64


def recomputed(model: Any, prompt: list[int]) -> list[int]:
    """Return the likeliest next token, computed from the full sequence each time."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(TOKENS):
            ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.row("mindrlhf", "Incremental/reshard/swap/resume")
def test_incremental_generation_gives_the_same_tokens_in_at_most_seventy_percent_of_the_arithmetic() -> None:
    model = make_model(
        "qwen2", hidden_size=128, intermediate_size=256, num_hidden_layers=4, max_position_embeddings=256
    )
    (prompt,) = make_prompts([96])
    engine = make_engine(model, tokenizer=Endless())
    engine.generate([prompt], sampling(max_tokens=2, temperature=0.0), group_size=1)  # what is prepared once
    counter = torch.utils.flop_counter.FlopCounterMode
    greedy = sampling(max_tokens=TOKENS, temperature=0.0)
    with counter(display=False) as incremental:
        ((rollout,),) = (group.rollouts for group in engine.generate([prompt], greedy, group_size=1))
    with counter(display=False) as recomputing:
        expected = recomputed(model, prompt.ids.tolist())
    assert np.asarray(rollout.ids).tolist() == expected
    assert 0 < incremental.get_total_flops() <= 0.7 * recomputing.get_total_flops()
