"""Incremental inference: keys and values are kept, so a token costs one position, and the tokens are the same."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from tests.support.tiny_engine import Endless, make_engine, make_prompts, sampling
from tests.support.tiny_policy import make_model

torch = pytest.importorskip("torch")

TOKENS = 128


def recomputed(model: Any, prompt: list[int]) -> list[int]:
    """The likeliest next token, from the whole sequence each time."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(TOKENS):
            ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.row("mindrlhf", "Incremental/reshard/swap/resume")
def test_incremental_generation_gives_the_same_tokens_in_at_most_seventy_percent_of_the_time() -> None:
    model = make_model(
        "qwen2", hidden_size=128, intermediate_size=256, num_hidden_layers=4, max_position_embeddings=256
    )
    (prompt,) = make_prompts([96])
    engine = make_engine(model, tokenizer=Endless())
    engine.generate([prompt], sampling(max_tokens=2, temperature=0.0), group_size=1)  # what is prepared once
    start = time.process_time()
    ((rollout,),) = (
        group.rollouts
        for group in engine.generate([prompt], sampling(max_tokens=TOKENS, temperature=0.0), group_size=1)
    )
    kept = time.process_time() - start
    start = time.process_time()
    expected = recomputed(model, prompt.ids.tolist())
    whole = time.process_time() - start
    assert np.asarray(rollout.ids).tolist() == expected
    assert kept <= 0.7 * whole, f"{kept:.2f} s against {whole:.2f} s"
