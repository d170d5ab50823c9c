"""The decoders: logits equal to the model's own, the choice among them, and weights shared with the model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.tiny_engine import family_engine, make_engine, make_prompts, sampling
from tests.support.tiny_engine import tokens as tokens_of
from tests.support.tiny_policy import VOCABULARY, make_model

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from mindrlhf_grpo_torch.generation.decoder import UnsupportedModel  # noqa: E402
from mindrlhf_grpo_torch.generation.decoder_choice import choose_decoder  # noqa: E402
from mindrlhf_grpo_torch.generation.kv_cache import BLOCK, PromptCache, SlotCache  # noqa: E402
from mindrlhf_grpo_torch.models.hf import hf_tensors  # noqa: E402

torch.set_num_threads(1)

SERVED = [
    ("llama", "fused"), ("qwen2", "fused"), ("qwen3", "fused"), ("gpt2", "cached"), ("mistral", "cached"),
    ("gemma3_text", "cached"), ("gemma2", "cached"), ("glm4", "cached"), ("granite", "cached"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "served_by"), SERVED)
def test_the_fastest_decoder_that_agrees_is_chosen(family: str, served_by: str) -> None:
    engine = family_engine(family)
    assert engine.decoder_name == served_by
    assert f"{served_by}: logits within" in engine.decoder_reason


@pytest.mark.parametrize(("family", "decoder"), [*SERVED, ("llama", "cached"), ("llama", "recompute")])
@torch.no_grad()
def test_logits_step_by_step_equal_one_whole_forward(family: str, decoder: str) -> None:
    """Also past the first block of the cache and past the sliding window."""
    model = make_model(family)
    served = choose_decoder(model, decoder).decoder
    rows = np.random.default_rng(1).integers(0, VOCABULARY, (3, 60))
    starts = [50, 3, 20]
    served.open(4)
    states, first = served.prefill([row[:start] for row, start in zip(rows, starts, strict=True)])
    for slot, state in enumerate(states):
        served.fork(state, slot)
    found = [first]
    for step in range(9):
        places = [start + step for start in starts]
        found.append(served.decode([int(row[place]) for row, place in zip(rows, places, strict=True)], places))
    for index, (row, start) in enumerate(zip(rows, starts, strict=True)):
        whole = model(input_ids=torch.tensor(row[None, : start + 9])).logits[0, start - 1 :]
        error = (torch.stack([step[index] for step in found]) - whole).abs().max() / whole.abs().max()
        assert float(error) < 1e-5


def test_rope_scaling_is_the_models_own() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    scaling = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, attention_bias=True,
        rope_parameters={"rope_theta": 100.0, "original_max_position_embeddings": 16, **scaling},
    )  # fmt: skip
    engine = make_engine(LlamaForCausalLM(config).eval())
    assert engine.decoder_name == "fused"


def test_a_decoder_that_differs_is_passed_over_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    from mindrlhf_grpo_torch.generation import fused_decoder

    monkeypatch.setattr(fused_decoder, "rotate", lambda heads, cos, sin: None)
    engine = family_engine("llama")
    assert engine.decoder_name == "cached"
    assert engine.decoder_reason.startswith("not fused: its logits differ from the model's by ")


def test_a_model_without_a_plain_cache_is_recomputed() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    config = MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, state_size=4)
    engine = make_engine(MambaForCausalLM(config).eval())
    assert engine.decoder_name == "recompute"
    assert "not cached: " in engine.decoder_reason
    assert len(tokens_of(engine.generate(make_prompts((4, 7)), sampling(max_tokens=4), group_size=2))) == 4


def test_a_decoder_asked_for_by_name_must_serve() -> None:
    with pytest.raises(UnsupportedModel, match="model type gpt2"):
        choose_decoder(make_model("gpt2"), "fused")


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_the_models_weights_are_the_decoders(family: str) -> None:
    """Same memory, no copy: an optimizer step in place is seen by the next token."""
    model = make_model(family)
    before = {name: weight.clone() for name, weight in hf_tensors(model)}
    engine = make_engine(model)
    held = engine.decoder.weights()
    assert set(held) == set(before)
    for name, weight in hf_tensors(model):
        assert torch.equal(weight, before[name])
        assert held[name].data_ptr() == weight.data_ptr()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    prompts = make_prompts()
    old = tokens_of(engine.generate(prompts, sampling(temperature=0.0), group_size=1))
    model(input_ids=torch.tensor(prompts[0].ids[None]).long()).logits.square().mean().backward()
    optimizer.step()
    new = tokens_of(engine.generate(prompts, sampling(temperature=0.0), group_size=1))
    fresh = make_model(family)
    fresh.load_state_dict(model.state_dict())
    assert new != old
    assert new == tokens_of(make_engine(fresh).generate(prompts, sampling(temperature=0.0), group_size=1))


def test_a_model_with_fused_weights_saves_and_loads_unchanged(tmp_path: Any) -> None:
    from transformers import AutoModelForCausalLM

    model = make_model("qwen2")
    before = {name: weight.clone() for name, weight in hf_tensors(model)}
    make_engine(model)
    model.save_pretrained(tmp_path)
    loaded = dict(hf_tensors(AutoModelForCausalLM.from_pretrained(tmp_path)))
    assert set(loaded) == set(before)
    assert all(torch.equal(loaded[name], weight) for name, weight in before.items())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_bfloat16_models_are_served(family: str) -> None:
    engine = make_engine(make_model(family).to(torch.bfloat16))
    assert engine.decoder_name == ("fused" if family == "llama" else "cached")
    assert len(tokens_of(engine.generate(make_prompts(), sampling(), group_size=2))) == 10


def test_the_cache_grows_and_keeps_what_it_holds() -> None:
    cache = SlotCache([(2, 3)], 4, torch.float32, torch.device("cpu"))
    state = PromptCache(parts=(torch.arange(30.0).reshape(2, 5, 3),))
    cache.fork(state, 1)
    assert cache.length == BLOCK
    cache.reserve(BLOCK + 1)
    assert cache.length == 2 * BLOCK
    assert torch.equal(cache.read(0, 4, 5)[1], state.parts[0])
    cache.move(1, 3)
    positions = torch.tensor([0, 5, 0, 6])
    cache.write(0, cache.places(positions, 2), torch.full((4, 2, 3), -1.0))
    kept = cache.read(0, 4, 7)
    assert torch.equal(kept[3, :, :5], state.parts[0])
    assert (kept[1, :, 5] == -1).all()
    assert (kept[3, :, 6] == -1).all()
    assert float(kept[3, :, 5].abs().sum()) == 0
