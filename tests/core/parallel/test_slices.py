"""How tensor-parallel ranks cut every weight of every family, in literal numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from mindrlhf_grpo.model_files.architecture import Architecture
from mindrlhf_grpo.model_files.families import FAMILIES, read_architecture
from mindrlhf_grpo.model_files.weights import Weight, weights
from mindrlhf_grpo.parallel.parameter_names import describe_parameters, head_sizes
from mindrlhf_grpo.parallel.resharding import RankLayout, rank_blocks

SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
}  # fmt: skip
LATENT = {
    "n_routed_experts": 8, "num_experts_per_tok": 3, "n_group": 4, "topk_group": 2, "moe_intermediate_size": 16,
    "first_k_dense_replace": 1, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8,
    "v_head_dim": 6, "n_shared_experts": 2, "num_key_value_heads": 4,
}  # fmt: skip
VISION = {
    "depth": 1, "hidden_size": 16, "intermediate_size": 24, "patch_size": 2, "temporal_patch_size": 2,
    "spatial_merge_size": 2,
}  # fmt: skip
TOWER = {
    "num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 24, "patch_size": [2, 2], "image_size": [8, 8],
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True, "mlp_bias": True},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {"head_dim": 12},
    "glm": {"head_dim": 8},
    "glm4": {"head_dim": 8},
    "seed_oss": {"head_dim": 12, "attention_out_bias": True, "mlp_bias": True},
    "deepseek_v3": LATENT,
    "qwen2_5_vl": {"vision_config": VISION},
    "internvl": {"vision_config": TOWER, "text_config": {**SIZES, "model_type": "qwen2"}},
}
# Role -> (axis, spans of rows or columns) of the second of two ranks.
LLAMA = {
    "embed_tokens": (0, [(32, 64)]), "lm_head": (0, [(32, 64)]),
    "q_proj": (0, [(16, 32)]), "k_proj": (0, [(8, 16)]), "v_proj": (0, [(8, 16)]), "o_proj": (1, [(16, 32)]),
    "gate_proj": (0, [(24, 48)]), "up_proj": (0, [(24, 48)]), "down_proj": (1, [(24, 48)]),
}  # fmt: skip
WIDE = {"q_proj": (0, [(24, 48)]), "k_proj": (0, [(12, 24)]), "v_proj": (0, [(12, 24)]), "o_proj": (1, [(24, 48)])}
FUSED = {"gate_up_proj": (0, [(24, 48), (72, 96)])}
CUT: dict[str, Mapping[str, tuple[int, list[tuple[int, int]]]]] = {
    "llama": LLAMA, "mistral": LLAMA, "qwen2": LLAMA, "qwen2_5_vl": LLAMA, "internvl": LLAMA,
    "qwen3": {**LLAMA, **WIDE}, "seed_oss": {**LLAMA, **WIDE},
    "glm": {**LLAMA, **FUSED}, "glm4": {**LLAMA, **FUSED},
    "deepseek_v3": {
        **LLAMA,
        "q_b_proj": (0, [(24, 48)]), "kv_b_proj": (0, [(28, 56)]), "o_proj": (1, [(12, 24)]),
        "experts.gate_up_proj": (1, [(8, 16), (24, 32)]), "experts.down_proj": (2, [(8, 16)]),
        "shared_experts.gate_proj": (0, [(16, 32)]), "shared_experts.up_proj": (0, [(16, 32)]),
        "shared_experts.down_proj": (1, [(16, 32)]),
    },
}  # fmt: skip
# What each rank holds in full: norms, the parts of latent attention that compress, the router.
WHOLE = {
    "norm", "input_layernorm", "post_attention_layernorm", "post_self_attn_layernorm", "post_mlp_layernorm", "q_norm",
    "k_norm", "q_a_proj", "q_a_layernorm", "kv_a_proj_with_mqa", "kv_a_layernorm", "gate",
    "gate.e_score_correction_bias",
}  # fmt: skip


def architecture_of(family: str) -> Architecture:
    return read_architecture({**SIZES, **MODELS[family], "model_type": family})


def test_every_family_is_here() -> None:
    assert set(MODELS) == set(CUT) == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_of_the_second_of_two_ranks(family: str) -> None:
    model = architecture_of(family)
    every = {weight.name: weight for weight in weights(model)}
    described = describe_parameters({name: weight.shape for name, weight in every.items()}, head_sizes(model))
    held: dict[str, list[tuple[tuple[int, int], ...]]] = {name: [] for name in every}
    for block in rank_blocks(RankLayout(tp=2), described, 1):
        held[block.parameter].append(block.box)
    seen = set()
    for name, weight in every.items():
        assert held[name] == expected_boxes(weight, CUT[family]), name
        seen.add(weight.role)
    assert seen >= {role for role in CUT[family] if role not in absent(model)}


def expected_boxes(
    weight: Weight, cut: Mapping[str, tuple[int, list[tuple[int, int]]]]
) -> list[tuple[tuple[int, int], ...]]:
    """The boxes of a weight on the second rank; of a matrix that is cut by inputs each rank holds the whole bias."""
    whole = [(0, size) for size in weight.shape]
    axis, spans = cut.get(weight.role, (0, [whole[0]]))
    if weight.role not in cut:
        assert weight.role in WHOLE or weight.role.startswith("vision."), weight.name
    if axis >= len(whole):
        axis, spans = 0, [whole[0]]
    return [tuple(span if place == axis else size for place, size in enumerate(whole)) for span in spans]


def absent(model: Architecture) -> set[str]:
    """Roles of the table that a family does not have."""
    if model.latent is not None:
        return {"q_proj", "k_proj", "v_proj"}
    return {"gate_proj", "up_proj"} if model.fused_gate_up else set()


def test_experts_are_dense_in_the_first_layer_and_cut_by_their_inner_width() -> None:
    model = architecture_of("deepseek_v3")
    sizes = {weight.name.removeprefix("model.layers."): weight.shape for weight in weights(model)}
    assert sizes["0.mlp.gate_proj.weight"] == (48, 32)
    assert sizes["1.mlp.experts.gate_up_proj"] == (8, 32, 32)
    assert sizes["0.self_attn.kv_b_proj.weight"] == (56, 8)  # 4 heads of 8 keys and 6 values


@pytest.mark.parametrize(
    ("name", "shape", "box"),
    [
        ("q_proj.lora_A", (4, 32), ((0, 4), (0, 32))),  # every rank computes the narrow side
        ("q_proj.lora_B", (32, 4), ((16, 32), (0, 4))),
        ("o_proj.lora_A", (4, 32), ((0, 4), (16, 32))),
        ("o_proj.lora_B", (32, 4), ((0, 32), (0, 4))),
    ],
)
def test_an_adapter_is_cut_where_its_matrix_is(
    name: str, shape: tuple[int, ...], box: tuple[tuple[int, int], ...]
) -> None:
    full = f"model.layers.0.self_attn.{name}.weight"
    (block,) = rank_blocks(
        RankLayout(tp=2), describe_parameters({full: shape}, head_sizes(architecture_of("llama"))), 1
    )
    assert block.box == box
