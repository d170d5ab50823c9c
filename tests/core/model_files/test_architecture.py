"""Architectures read from config.json: every weight as transformers has it, defaults, variants, unknown families."""

from __future__ import annotations

import re
from typing import Any

import pytest

from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.model_files import families
from mindrlhf_grpo.model_files.architecture import Variant
from mindrlhf_grpo.model_files.families import FAMILIES, nearest_architecture, read_architecture
from mindrlhf_grpo.model_files.weights import linear_modules, parameter_count, weight_shapes, weights
from tests.support import tiny_families
from tests.support.repository import ROOT

SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 61,
}  # fmt: skip


@pytest.mark.parametrize("name", tiny_families.MODELS)
def test_weights_of_every_family_are_those_of_transformers(name: str) -> None:
    model = tiny_families.make_model(name)
    architecture = read_architecture(model.config.to_dict())
    tied = {"lm_head.weight"} if architecture.tied else set()
    held = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items() if key not in tied}
    assert weight_shapes(architecture) == held
    assert architecture.variants == ()


def test_every_family_that_reads_text_has_a_tiny_model() -> None:
    assert {name for name, known in FAMILIES.items() if not known.images} == {
        family for family, _ in tiny_families.MODELS.values()
    }


def test_a_weight_has_a_role_that_is_the_same_in_every_layer() -> None:
    architecture = read_architecture({"model_type": "qwen2", **SIZES})
    layers = [
        [(weight.role, weight.shape) for weight in weights(architecture) if weight.layer == layer] for layer in (0, 1)
    ]
    assert layers[0] == layers[1]
    assert [role for role, _ in layers[0]] == [
        "q_proj", "q_proj", "k_proj", "k_proj", "v_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
        "input_layernorm", "post_attention_layernorm",
    ]  # fmt: skip
    assert [weight.role for weight in weights(architecture) if weight.layer is None] == [
        "embed_tokens",
        "norm",
        "lm_head",
    ]
    assert list(linear_modules(architecture))[:2] == [
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.self_attn.k_proj",
    ]


def test_sizes_of_a_token_in_cache_and_feed_forward() -> None:
    llama = read_architecture({"model_type": "llama", **SIZES, "num_key_value_heads": 2})
    assert (llama.query_width, llama.key_width, llama.cached_width, llama.inner_width) == (32, 16, 32, 48)
    assert parameter_count(llama) == 2 * 61 * 32 + 32 + 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 48 + 2 * 32)


def test_values_that_a_file_leaves_out_are_those_of_the_familys_configuration_class() -> None:
    seed, qwen, glm = (read_architecture({"model_type": name, **SIZES}) for name in ("seed_oss", "qwen3", "glm"))
    assert (seed.key_size, seed.input_bias, seed.output_bias) == (128, True, False)
    assert (qwen.key_size, glm.key_size, glm.input_bias, glm.norm_eps) == (128, 128, True, 1.5625e-7)
    mistral = read_architecture({"model_type": "mistral", **SIZES})
    assert mistral.variants == (Variant("sliding_window is 4096", "full attention only (null)"),)


def test_a_variant_keeps_its_sizes() -> None:
    plain = read_architecture({"model_type": "llama", **SIZES})
    other = read_architecture({"model_type": "llama", **SIZES, "hidden_act": "gelu", "rope_scaling": {"type": "odd"}})
    assert [variant.setting for variant in other.variants] == [
        "hidden_act is 'gelu'",
        "rotary embedding of type 'odd'",
    ]
    assert weight_shapes(other) == weight_shapes(plain)


def test_a_classifier_has_a_score_head_instead_of_a_vocabulary_head() -> None:
    architecture = read_architecture(
        {"model_type": "llama", **SIZES, "architectures": ["LlamaForSequenceClassification"], "num_labels": 3}
    )
    assert weight_shapes(architecture)["score.weight"] == (3, 32)
    assert "lm_head.weight" not in weight_shapes(architecture)


def test_an_unknown_family_is_read_as_a_llama_of_its_sizes_where_only_memory_is_asked() -> None:
    config = {"model_type": "novel", **SIZES, "rope_scaling": {"type": "yarn"}}
    with pytest.raises(ConfigError, match=r"'novel' \(model_type in config.json\) is not known; known: llama, qwen2"):
        read_architecture(config)
    nearest = nearest_architecture(config)
    assert (nearest.family, nearest.query_width, nearest.cached_width) == ("novel", 32, 64)
    mixed = {"n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32}
    latent = {"kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6}
    other = nearest_architecture({**config, **mixed, **latent})
    assert (other.query_width, other.cached_width, other.inner_width) == (48, 72, 96)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "llama"}, "lacks hidden_size"),
        ({"model_type": "llama", **SIZES, "vocab_size": 0}, "vocab_size is 0; accepted: a positive integer"),
        ({"model_type": "internvl", **SIZES}, "lacks text_config"),
        ({"model_type": "llama", **SIZES, "rope_scaling": {"type": "linear"}}, "lacks factor"),
    ],
)
def test_a_config_that_lacks_a_size_is_an_error(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_architecture(config)


def test_the_function_on_the_page_is_the_one_that_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs/extend/add_a_model.md").read_text(encoding="utf-8")
    shown = re.search(r'```python\n(@family\("seed_oss"\).*?)```', page, re.DOTALL)
    assert shown
    monkeypatch.setattr(families, "FAMILIES", {})
    exec(shown[1], namespace := dict(vars(families)))
    config = {"model_type": "seed_oss", **SIZES, "head_dim": 12, "attention_out_bias": True}
    assert namespace["_seed_oss"](config) == families._seed_oss(config)
