"""Memory formulas against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindrlhf_grpo.capacity.device_layout import DeviceLayout
from mindrlhf_grpo.capacity.memory import (
    PARTS,
    PHASES,
    activation_bytes,
    adapter_parameters,
    allocator_bytes,
    forward_bytes,
    head_bytes,
    kv_cache_bytes,
    logits_bytes,
    micro_batch_tokens,
    optimizer_bytes,
    peak,
    phases,
    vision_bytes,
)
from mindrlhf_grpo.capacity.model_shape import ModelShape, model_shape
from mindrlhf_grpo.config.offline import OfflineConfig
from mindrlhf_grpo.config.parallel import RoleName
from mindrlhf_grpo.config.run import RunConfig
from mindrlhf_grpo.model_files.families import read_architecture
from mindrlhf_grpo.model_files.folder import read_shapes
from mindrlhf_grpo.model_files.weights import weight_shapes
from mindrlhf_grpo.parallel.residency import NEEDS
from tests.support.tiny_run import architecture, write_model

SHAPE = ModelShape(
    parameters=1000, layers=2, hidden=8, intermediate=16, query=8, key=4, vocabulary=10, largest=128, linear=208, adapted=768
)  # fmt: skip


def run_config(**sections: dict[str, Any]) -> RunConfig:
    given_sections: dict[str, Any] = {
        "model": {"path": "m"}, "data": {"source": "s", "max_prompt_tokens": 10}, "rewards": [{"function": "f"}],
        "rollout": {"group_size": 4, "max_tokens": 6, "slots": 5}, "train": {"prompts_per_step": 3, "tokens_per_micro_batch": 50},
    }  # fmt: skip
    for name, values in sections.items():
        given_sections[name] = {**given_sections.get(name, {}), **values}
    return RunConfig.model_validate(given_sections)


def test_shape_counts_every_weight_once_from_the_headers(tmp_path: Path) -> None:
    shape = model_shape(read_architecture(architecture()), read_shapes(write_model(tmp_path / "model")))
    # a layer: q, o 64 each; k, v 32 each; gate, up, down 128 each; two norms of 8: 592. Embeddings 344, last norm 8.
    assert shape.parameters == 2 * 592 + 344 + 8
    # in + out of a layer: q, o 16; k, v 12; gate, up, down 24: 128
    assert (shape.linear, shape.adapted, shape.largest) == (2 * 128, 2 * 576, 344)
    assert (shape.query, shape.key, shape.layers, shape.vocabulary) == (8, 4, 2, 43)


def test_tied_weights_stored_twice_count_once(tmp_path: Path) -> None:
    tensors = read_shapes(write_model(tmp_path / "model"))
    model = read_architecture(architecture())
    once = model_shape(model, tensors).parameters
    stored_twice = {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}
    assert model_shape(model, stored_twice).parameters == once
    assert model_shape(replace(model, tied=False), stored_twice).parameters == once + 344


def test_optimizer_holds_two_moments_and_a_master_copy_of_16_bit_weights() -> None:
    assert optimizer_bytes(1000, "float32") == 8000
    assert optimizer_bytes(1000, "bfloat16") == 12000


def test_adapters_have_a_row_in_and_a_column_out_of_each_rank() -> None:
    assert adapter_parameters(SHAPE, 4) == 832
    assert adapter_parameters(SHAPE, 0) == 0


def test_cache_holds_keys_and_values_of_every_layer() -> None:
    assert kv_cache_bytes(SHAPE, 100, "float32") == 2 * 2 * 4 * 100 * 4
    assert kv_cache_bytes(SHAPE, 100, "bfloat16") == 3200


def test_logits_of_a_chunk() -> None:
    assert logits_bytes(SHAPE, 256, "float32") == 256 * 10 * 12
    assert logits_bytes(SHAPE, 256, "bfloat16") == 256 * 10 * 10
    assert head_bytes(SHAPE, "bfloat16", trained=False) == 25600
    assert head_bytes(SHAPE, "bfloat16", trained=True) == 25600 + 10 * 8 * 6


def test_activations_by_width() -> None:
    # a token in a block, float32: 16 * 8 + 8 * 16 + 8 * 8 + 8 * 4 + 8 = 360 bytes; 2 blocks kept, one on the way back
    assert activation_bytes(SHAPE, 10, "float32", lora_rank=0, recompute=False) == 3 * 3600
    # bfloat16: 8 * 8 + 4 * 16 + 4 * 8 + 4 * 4 + 8 = 184
    assert activation_bytes(SHAPE, 10, "bfloat16", lora_rank=0, recompute=False) == 3 * 1840
    # adapters of rank 2: 16 * 8 + 16 * 16 + 8 * 8 + 8 * 4 + 8 + 4 * 7 * 2 = 544
    assert activation_bytes(SHAPE, 10, "float32", lora_rank=2, recompute=False) == 3 * 5440
    # recomputed: the input of each block (8 * 4 bytes), and one block twice
    assert activation_bytes(SHAPE, 10, "float32", lora_rank=0, recompute=True) == 2 * 320 + 2 * 3600


def test_forward_without_gradient_holds_one_block() -> None:
    assert forward_bytes(SHAPE, 10, "float32") == 10 * (24 + 48 + 8 + 8) * 4 + 256 * 10 * 12


@pytest.mark.parametrize(
    ("sections", "ranks", "tokens"),
    [
        ({}, 1, 50),  # the budget: a step has 3 * (10 + 4 * 6) = 102
        ({"train": {"tokens_per_micro_batch": 1000}}, 1, 102),
        ({"train": {"tokens_per_micro_batch": 1000}, "model": {"layout": "plain"}}, 1, 192),  # 3 * 4 * 16
        ({"train": {"tokens_per_micro_batch": 1000}}, 2, 68),  # 2 prompts on the fuller rank
        ({"train": {"tokens_per_micro_batch": 1}}, 1, 16),  # one completion with its prompt at least
    ],
)
def test_tokens_computed_at_once(sections: dict[str, Any], ranks: int, tokens: int) -> None:
    assert micro_batch_tokens(run_config(**sections), ranks) == tokens


def test_phases_of_full_training_in_float32() -> None:
    parts = phases(run_config(), SHAPE, reference=True)
    held = {"weights": 4000, "reference": 4000, "optimizer": 8000, "engine": 0}
    assert parts["load"] == {"weights": 4000, "largest tensor": 512}
    assert parts["generate"].items() >= {**held, "KV cache": 2 * 2 * 4 * (5 * 16) * 4, "logits": 5 * 10 * 12}.items()
    assert parts["update"] == {**held, "gradients": 4000, "activations": 3 * 50 * 360, "head": 30720 + 640}
    assert parts["checkpoint"] == {**held, "copy of the weights": 4000}
    assert peak(parts["load"]) == 4512


def test_phases_of_lora_in_bfloat16_need_no_reference_and_little_optimizer() -> None:
    parts = phases(run_config(model={"path": "m", "dtype": "bfloat16", "lora_rank": 4}), SHAPE, reference=True)
    assert parts["update"].items() >= {
        "weights": 2000 + 832 * 4, "reference": 0, "optimizer": 832 * 8, "engine": 768 * 2, "gradients": 832 * 4,
        "head": 25600,
    }.items()  # fmt: skip


def test_allocator_keeps_a_share_of_what_passes() -> None:
    parts = {"weights": 1000, "optimizer": 500, "activations": 100, "gradients": 60}
    assert allocator_bytes(parts, "host") == 80
    assert allocator_bytes(parts, "accelerator") == 16


def test_sharded_weights_are_held_in_parts_and_used_whole() -> None:
    layout = DeviceLayout(ranks=4, strategy="fsdp")
    shape = replace(SHAPE, embeddings=200)
    parts = phases(run_config(parallel={"strategy": "fsdp"}), shape, reference=True, layout=layout)
    update = parts["update"]
    held = {"weights": 1000, "reference": 1000, "optimizer": 2000, "engine": 4000, "gradients": 1000}
    assert update.items() >= held.items()
    assert update["gathered"] == (3 * 400 + 200) * 4  # a block computes, one arrives, one's gradients; embeddings
    assert parts["score"]["gathered"] == (2 * 400 + 200) * 4
    assert parts["checkpoint"]["copy of the weights"] == 1000
    # the reference is read whole and cut, beside the engine
    assert parts["load"] == {"weights": 1000, "largest tensor": 512, "engine": 4000, "whole model": 4000}
    swapped = phases(run_config(parallel={}, swap={}), shape, reference=True, layout=layout)
    assert swapped["load"] == {"weights": 1000, "largest tensor": 512, "whole model": 4000}


@pytest.mark.parametrize(("strategy", "gathered"), [("zero2", (1000 + 500) * 4), ("zero1", (1000 + 1000) * 4)])
def test_earlier_stages_gather_all_weights_in_an_update(strategy: str, gathered: int) -> None:
    layout = DeviceLayout(ranks=4, strategy=strategy)
    update = phases(run_config(parallel={"strategy": strategy}), SHAPE, reference=False, layout=layout)["update"]
    assert (update["weights"], update["gathered"]) == (1000, gathered)


def test_optimizer_state_alone_is_shared_out_beside_whole_weights() -> None:
    layout = DeviceLayout(ranks=4, strategy="zero1", whole=True)
    update = phases(run_config(parallel={"strategy": "zero1"}), SHAPE, reference=True, layout=layout)["update"]
    # A quarter of 1000 weights: two moments and a float32 copy; the engine reads the policy's own weights.
    assert update.items() >= {"weights": 4000, "reference": 4000, "optimizer": 3000, "gradients": 4000}.items()
    assert "gathered" not in update
    assert update["engine"] == 0


def test_offloaded_shards_pass_through_the_device() -> None:
    layout = DeviceLayout(ranks=4, strategy="fsdp")
    update = phases(run_config(parallel={"offload": True}), SHAPE, reference=True, layout=layout)["update"]
    away = ("weights", "reference", "optimizer", "gradients")
    assert [update[part] for part in away] == [0, 0, 0, 0]
    assert (update["engine"], update["gathered"]) == (4000, 3 * 500 * 4)


def test_whole_copies_hold_everything_on_any_number_of_ranks() -> None:
    alone = phases(run_config(train={"prompts_per_step": 1}), SHAPE, reference=True)
    eight = phases(
        run_config(train={"prompts_per_step": 8}), SHAPE, reference=True, layout=DeviceLayout(ranks=8)
    )  # fmt: skip
    assert alone == eight


def test_every_part_that_can_be_swapped_has_a_place_in_the_prediction() -> None:
    assert set(PARTS) == set(get_args(RoleName)) == {role for roles in NEEDS.values() for role in roles}
    assert set(PHASES.values()) <= set(NEEDS)


def test_swap_leaves_in_a_phase_what_it_reads() -> None:
    parts = phases(run_config(swap={}), SHAPE, reference=True, critic=True)
    lasting = ("weights", "reference", "optimizer", "critic", "critic optimizer")
    assert {phase: [part for part in lasting if sizes.get(part)] for phase, sizes in parts.items()} == {
        "load": ["weights"],
        "generate": ["weights"],
        "score": ["weights", "reference"],
        "update": ["weights", "optimizer"],
        "checkpoint": ["weights", "reference", "optimizer"],
    }
    only = phases(run_config(swap={"roles": ["reference"]}), SHAPE, reference=True)
    assert (only["update"]["reference"], only["score"]["reference"], only["score"]["optimizer"]) == (0, 4000, 8000)


def test_tensor_pipeline_and_expert_parallelism_divide() -> None:
    layout = DeviceLayout(ranks=4, strategy="fsdp", tensor=2, pipeline=2, expert=8)
    assert layout.devices == 16
    assert layout.held(1600, 3200) == 1600 // 16 + 3200 // 16
    assert layout.used(1600, 3200) == 1600 // 4 + 3200 // 16  # experts stay where they are
    assert str(layout) == "fsdp 4 x tensor 2 x pipeline 2 x expert 8"


def test_experts_count_by_what_a_token_passes() -> None:
    model = read_architecture({
        "model_type": "deepseek_v3", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20,
        "vocab_size": 10, "q_lora_rank": 4, "kv_lora_rank": 3, "qk_nope_head_dim": 4, "qk_rope_head_dim": 2, "v_head_dim": 5,
        "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": 8, "first_k_dense_replace": 1,
    })  # fmt: skip
    shape = model_shape(model, weight_shapes(model))
    assert shape.experts == 4 * 3 * 8 * 8  # of the second layer
    assert shape.intermediate == 24  # three experts of 8 are more than the first layer's 20
    assert (shape.query, shape.key, shape.cached) == (12, 12, 12 + 10)
    assert kv_cache_bytes(shape, 100, "bfloat16") == 2 * 22 * 100 * 2


def test_a_tower_keeps_every_block_only_where_it_is_trained() -> None:
    shape = replace(SHAPE, vision=300, vision_layers=3, vision_hidden=4, vision_inner=6)
    # a patch in a block, bfloat16: 8 * 4 + 4 * 6 + 4 * 4 + 4 * 4 + 8 = 96; 4 patches a token; 3 blocks kept, one back
    assert vision_bytes(shape, 10, "bfloat16", trained=True) == 4 * 40 * 96
    assert vision_bytes(shape, 10, "bfloat16", trained=False) == 40 * 3 * 10 * 2
    assert vision_bytes(SHAPE, 10, "bfloat16", trained=True) == 0
    without = phases(run_config(), shape, reference=False)["update"]
    images = phases(run_config(data={"images": {}}), shape, reference=False)["update"]
    # 50 tokens hold one prompt of 10 with its 4 completions of 6; float32: 16 * 4 + 8 * 6 + 8 * 4 + 8 * 4 + 8 = 184
    assert "vision" not in without
    assert images["vision"] == 4 * (10 * 4) * 184


def test_frozen_weights_have_neither_gradients_nor_moments() -> None:
    shape = replace(SHAPE, frozen=400)
    update = phases(run_config(), shape, reference=False)["update"]
    assert (update["weights"], update["gradients"], update["optimizer"]) == (4000, 2400, 4800)
    shapes = {"model.visual.a.weight": (2, 3), "model.visual_b": (5,), "model.layers.0.q.weight": (2, 2)}
    assert model_shape(read_architecture(architecture()), shapes, ["visual."]).frozen == 6
    assert model_shape(read_architecture(architecture()), shapes, ["model.visual"]).frozen == 11


def test_a_fixed_dataset_needs_no_engine() -> None:
    config = OfflineConfig.model_validate({
        "model": {"path": "m"}, "data": {"source": "s", "max_tokens": 16}, "objective": {"name": "dpo"},
        "train": {"prompts_per_step": 3, "tokens_per_micro_batch": 50},
    })  # fmt: skip
    parts = phases(config, SHAPE, reference=True)
    assert list(parts) == ["load", "score", "update", "checkpoint"]
    assert parts["update"].items() >= {"weights": 4000, "reference": 4000, "optimizer": 8000, "engine": 0}.items()
    assert [micro_batch_tokens(config, ranks) for ranks in (1, 3)] == [50, 32]  # of 3 pairs of 16; of one pair


@given(st.integers(1, 10_000), st.integers(1, 10_000), st.sampled_from(["float32", "bfloat16"]), st.booleans())
def test_more_tokens_never_need_less(few: int, more: int, dtype: str, recompute: bool) -> None:
    low, high = (
        activation_bytes(SHAPE, tokens, dtype, lora_rank=0, recompute=recompute) for tokens in sorted((few, more))
    )
    assert low <= high
