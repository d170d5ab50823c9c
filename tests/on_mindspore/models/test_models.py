"""Decoders of every family against transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.tiny_families import MODELS, VOCABULARY, expected_log_probs, make_batch, make_model, save
from tests.support.tiny_models import PlainAttention, inputs, load, log_probs

ms = pytest.importorskip("mindspore")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from mindrlhf_grpo_mindspore import ops  # noqa: E402
from mindrlhf_grpo_mindspore.graph import Compiled  # noqa: E402
from mindrlhf_grpo_mindspore.models import Decoder, hf  # noqa: E402
from mindspore import Tensor  # noqa: E402

from mindrlhf_grpo.backend import CompileLog  # noqa: E402
from mindrlhf_grpo.errors import ConfigError  # noqa: E402
from mindrlhf_grpo.model_files.families import read_architecture  # noqa: E402

TOLERANCE = 1e-4


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", MODELS)
def test_log_probs_are_those_of_transformers(tmp_path: Path, name: str, seed: int) -> None:
    model = make_model(name, seed=seed)
    decoder = load(save(model, tmp_path))
    for padded in (False, True):
        ids, real = make_batch(padded=padded, seed=seed)
        found = log_probs(decoder, *inputs(ids, real)).asnumpy()[real.ravel()]
        expected = expected_log_probs(model, ids, real)[real.ravel()]
        assert np.abs(expected).max() > 5  # far from a uniform model
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["llama 3.1", "deepseek_v3 yarn"])
def test_compiled_and_recomputed_gradients_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    model = make_model(name)
    architecture = hf.load_architecture(save(model, tmp_path))
    weights = hf.load_weights(tmp_path, architecture)
    attend = PlainAttention(architecture.attention_scale)
    decoder = Decoder(architecture, weights, attend, recompute=True)
    ids, real = make_batch(padded=True)
    flat, positions, bias = inputs(ids, real)
    trained = [weight for weight in weights.values() if weight.requires_grad]
    chosen = np.where(real.ravel(), np.arange(ids.size) % VOCABULARY, -1)[:, None] == np.arange(VOCABULARY)

    def loss(flat: Tensor, positions: Tensor, bias: Tensor, chosen: Tensor) -> Tensor:
        return -(log_probs(decoder, flat, positions, bias) * chosen).sum()

    step = Compiled("gradients", ms.value_and_grad(loss, None, trained), CompileLog())
    value, gradients = step(flat, positions, bias, Tensor(chosen.astype(np.float32)))
    expected = torch_gradients(model, ids, real, chosen)
    assert float(value.asnumpy()) == pytest.approx(expected.pop("loss").item(), rel=1e-5)
    assert {weight.name for weight in trained} == set(expected)
    for weight, gradient in zip(trained, gradients, strict=True):
        np.testing.assert_allclose(
            gradient.asnumpy(), expected[weight.name].numpy(), rtol=1e-3, atol=1e-3, err_msg=weight.name
        )


def torch_gradients(model: Any, ids: Any, real: Any, chosen: Any) -> dict[str, Any]:
    positions = torch.from_numpy(np.maximum(real.cumsum(1) - 1, 0))
    mask = torch.from_numpy(real.astype(np.int64))
    logits = model(torch.from_numpy(ids), attention_mask=mask, position_ids=positions).logits
    loss = -(logits.log_softmax(-1).reshape(-1, VOCABULARY)[torch.from_numpy(chosen)]).sum()
    loss.backward()
    return {"loss": loss.detach(), **{name: weight.grad for name, weight in model.named_parameters()}}


def test_far_positions_are_turned_as_transformers_turns_them(tmp_path: Path) -> None:
    model = make_model("llama 3.1")
    decoder = load(save(model, tmp_path))
    ids, real = make_batch(padded=False)
    flat, positions, bias = inputs(ids, real)
    logits = model(torch.from_numpy(ids), position_ids=torch.from_numpy(positions.asnumpy().reshape(ids.shape) + 4000))
    expected = logits.logits.log_softmax(-1).reshape(-1, VOCABULARY).detach().numpy()
    found = log_probs(decoder, flat, positions + 4000, bias).asnumpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


def test_layer_ends_are_the_hidden_states_of_transformers(tmp_path: Path) -> None:
    model = make_model("glm4")
    decoder = load(save(model, tmp_path))
    ids, real = make_batch(padded=False)
    flat, positions, bias = inputs(ids, real)
    ends = decoder.layer_ends(flat, positions, (bias,))
    expected = model(torch.from_numpy(ids), output_hidden_states=True).hidden_states
    normed = [*ends[:-1], decoder.normed(ends[-1])]  # transformers norms the last one
    assert len(normed) == len(expected) == 3
    for one, other in zip(normed, expected, strict=True):
        np.testing.assert_allclose(one.asnumpy(), other.detach().reshape(one.shape).numpy(), rtol=0, atol=1e-4)


def test_scores_are_those_of_a_sequence_classifier(tmp_path: Path) -> None:
    causal = make_model("qwen3")
    causal.config.num_labels = 3
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_config(causal.config).eval()
    model.save_pretrained(tmp_path)
    decoder = load(tmp_path)
    weights = hf.load_weights(tmp_path, decoder.architecture)
    ids, real = make_batch(padded=False)
    flat, positions, bias = inputs(ids, real)
    last = [11, 23, 35]
    hidden = decoder(flat, positions, (bias,))
    expected = model(torch.from_numpy(ids)).logits.detach().numpy()
    assert expected.shape == (3, 3)
    scores = ops.linear(hidden[last], weights["score.weight"])
    np.testing.assert_allclose(scores.asnumpy(), expected, rtol=0, atol=TOLERANCE)
    with pytest.raises(ConfigError, match="has no vocabulary head"):
        decoder.logits(hidden)


def test_older_config_files_mean_the_same() -> None:
    sizes = {
        "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 8, "vocab_size": 9,
    }  # fmt: skip
    scaling = {"factor": 2.0, "original_max_position_embeddings": 16}
    new = {"rope_parameters": {"rope_type": "yarn", "rope_theta": 5e5, **scaling}}
    old = {"rope_theta": 5e5, "rope_scaling": {"type": "yarn", **scaling}}
    architectures = [read_architecture({"model_type": "qwen2", **sizes, **rope}) for rope in (new, old)]
    assert architectures[0] == architectures[1]
    assert architectures[0].kv_heads == 2
    assert architectures[0].rotary.amplitude == pytest.approx(1.0693147)  # 0.1 ln 2 + 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"model_type": "gemma3_text"},
            "no model family 'gemma3_text'.*supported: llama, qwen2, qwen3, glm, glm4, deepseek",
        ),
        ({}, "no model family None"),
        ({"model_type": "internvl"}, "no model family 'internvl'.*supported: llama(?!.*internvl)"),
        ({"model_type": "mistral"}, "sliding_window is 4096; the mindspore backend has full attention only"),
        ({"model_type": "llama", "hidden_act": "gelu"}, "hidden_act is 'gelu'; the mindspore backend has silu"),
        (
            {"model_type": "llama", "rope_scaling": {"rope_type": "longrope"}},
            "'longrope'.* default, linear, llama3, yarn",
        ),
        ({"model_type": "qwen2", "use_sliding_window": True}, "use_sliding_window.*full attention only"),
        ({"model_type": "deepseek_v3", "quantization_config": {"quant_method": "fp8"}}, "quantization_config"),
        ({"model_type": "deepseek_v3", "scoring_func": "softmax"}, "scoring_func is 'softmax'.*'sigmoid'"),
        ({"model_type": "llama", "hidden_size": None}, "hidden_size is None; accepted: a positive integer"),
    ],
)
def test_what_has_no_cells_is_refused_from_its_config_alone(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    sizes = {
        "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 8, "vocab_size": 9,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps({**sizes, **settings}))
    with pytest.raises(ConfigError, match=message):
        hf.load_architecture(tmp_path)  # the folder has no weights: none are looked for
