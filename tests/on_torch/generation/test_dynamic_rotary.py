"""D10: a model with dynamic rotary scaling is not sampled beyond its context, and why."""

from __future__ import annotations

import numpy as np
import pytest

from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.types import Prompt, Sampling

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CONTEXT = 16


def make_model() -> object:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=CONTEXT, initializer_range=0.15,
        rope_parameters={"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0},
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def log_probs(model: object, ids: object, first: int) -> object:
    """Log-probs at each position: the first tokens at once, the others one by one over the cache."""
    with torch.no_grad():
        out = model(ids[:, :first], use_cache=True)
        logits = [out.logits]
        for place in range(first, ids.shape[1]):
            out = model(ids[:, place : place + 1], past_key_values=out.past_key_values, use_cache=True)
            logits.append(out.logits)
    return torch.log_softmax(torch.cat(logits, dim=1), -1)


@pytest.mark.parametrize(("length", "agree"), [(CONTEXT, True), (40, False)])
def test_d10_decoding_and_training_disagree_beyond_the_context(length: int, agree: bool) -> None:
    """Finding D10: transformers' own cache holds keys of other frequencies: 0.5 nats, where rounding is below 1e-4."""
    ids = torch.arange(3, 3 + length)[None]
    gap = float((log_probs(make_model(), ids, 10) - log_probs(make_model(), ids, length)).abs().max())
    assert gap < 1e-4 if agree else gap > 0.1


def test_d10_the_refusal_says_why() -> None:
    """Finding D10: the audit's input, 19 prompt tokens and 24 to sample."""
    from mindrlhf_grpo_torch.generation.engine import TorchEngine

    from tests.support.tiny_engine import Letters

    engine = TorchEngine(make_model(), Letters(), slots=2)
    prompt = Prompt(uid=0, ids=np.arange(3, 22, dtype=np.int32), text="", row=0)
    with pytest.raises(ConfigError, match=r"context of 16 tokens.*rope_type: dynamic.*would differ.*yarn or linear"):
        engine.generate([prompt], Sampling(max_tokens=24), group_size=1)
