"""Weights go from one layout of ranks to another by a plan; every element arrives, and nothing touches the disk."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.model_files.families import read_architecture
from mindrlhf_grpo.model_files.weights import weight_shapes
from mindrlhf_grpo.parallel import resharding
from mindrlhf_grpo.parallel.parameter_names import HeadSizes, describe_parameters, match_parameters
from mindrlhf_grpo.parallel.resharding import Parameter, Part, RankLayout, execute, plan_resharding, shard_tensors
from mindrlhf_grpo.testing.numpy_model.llama import NumpyLlama
from mindrlhf_grpo.testing.numpy_model.tiny_llama import random_weights, tiny_llama_config

MODEL = read_architecture(tiny_llama_config(layers=4, heads=8, kv_heads=4, head_size=4, vocabulary=64))
HEADS = HeadSizes(size=4)
TRAIN, INFER = RankLayout(dp=1, tp=4, pp=2), RankLayout(dp=2, tp=4, pp=1)


def engine_shapes() -> dict[str, tuple[int, ...]]:
    """The same model as an engine names it: q, k and v in one, gate and up in one, no "model." in front."""
    shapes = {name.removeprefix("model."): shape for name, shape in weight_shapes(MODEL).items()}
    for layer in range(MODEL.layers):
        for fused, names in (("self_attn.qkv_proj", "qkv"), ("mlp.gate_up_proj", ("gate", "up"))):
            prefix, module = fused.split(".")
            parts = [shapes.pop(f"layers.{layer}.{prefix}.{name}_proj.weight") for name in names]
            shapes[f"layers.{layer}.{prefix}.{module}.weight"] = (sum(part[0] for part in parts), parts[0][1])
    return shapes


@pytest.mark.row("mindrlhf", "Incremental/reshard/swap/resume", backend="none")
@pytest.mark.parametrize("level", [0, 1])
def test_from_1_4_2_to_2_4_1_every_element_arrives_and_logits_stay(
    level: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    weights: dict[str, Any] = random_weights(MODEL, seed=0)
    held, wanted = (
        describe_parameters(weight_shapes(MODEL), HEADS),
        match_parameters(weight_shapes(MODEL), engine_shapes(), HEADS),
    )
    found = execute(plan_resharding(TRAIN, held, INFER, wanted), shard_tensors(TRAIN, held, weights), level=level)
    assert len(found) == 8
    for mine, expected in zip(found, shard_tensors(INFER, wanted, weights), strict=True):
        assert mine.keys() == expected.keys() == engine_shapes().keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(mine[name], array, err_msg=name)
    assert found[0]["layers.0.self_attn.qkv_proj.weight"].shape == (16, 32)  # 8 rows of q, 4 of k, 4 of v
    assert found[0]["layers.0.mlp.down_proj.weight"].shape == (32, 12)
    back = execute(plan_resharding(INFER, wanted, RankLayout(), held), found)[0]
    ids = np.arange(9)
    logits = [
        NumpyLlama(MODEL, one).logits(NumpyLlama(MODEL, one).hidden_states(ids)[0][-1]) for one in (weights, back)
    ]
    np.testing.assert_array_equal(logits[0], logits[1])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.row("mindrlhf", "Incremental/reshard/swap/resume", backend="none")
def test_offloading_both_models_during_the_copy_takes_a_parameters_memory_instead_of_two_models() -> None:
    held, wanted = (
        describe_parameters(weight_shapes(MODEL), HEADS),
        match_parameters(weight_shapes(MODEL), engine_shapes(), HEADS),
    )
    found = plan_resharding(TRAIN, held, INFER, wanted)
    of_train, of_infer = (
        [sum(map(math.prod, mine.values())) for mine in shapes] for shapes in (found.sources, found.targets)
    )
    assert found.peak_elements(0) == [before + after for before, after in zip(of_train, of_infer, strict=True)]
    assert (of_train[0], of_train[4], of_infer[0]) == (4480, 4512, 8992)
    assert found.peak_elements(1) == [1536] * 8  # gate and up of a layer, apart and in one: 2 x 24 x 32
    assert len(found.steps(0)) == 1
    assert len(found.steps(1)) == len(wanted)


def test_what_moves_between_ranks_and_what_is_on_the_way_at_once() -> None:
    weights = [Parameter(name="a", shape=(4, 3)), Parameter(name="b", shape=(2,))]
    halves = [Parameter(name="a", shape=(4, 3), axis=0), Parameter(name="b", shape=(2,))]
    plan = plan_resharding(RankLayout(dp=2, sharded=True), weights, RankLayout(tp=2), halves)
    assert plan.moved_elements() == [(1, 1), (1, 1)]  # halves of a lie where they are needed; of b each lacks one
    assert [len(bucket) for bucket in plan.buckets(6)] == [2, 4]
    assert [len(bucket) for bucket in plan.buckets(100)] == [6]
    whole = plan_resharding(RankLayout(tp=2), halves, RankLayout(dp=2), weights)
    assert whole.moved_elements() == [(6, 6), (6, 6)]
    assert whole.staged_elements(1) == [12, 12]


def test_a_rank_reads_its_own_weights_before_anothers() -> None:
    held = describe_parameters({"norm.weight": (6,), "o_proj.weight": (4, 6)})
    copies = plan_resharding(RankLayout(dp=2, tp=2), held, RankLayout(dp=2, tp=2), held).copies
    assert all(copy.source == copy.target for copy in copies)


def test_replicas_take_turns_as_the_source_of_other_ranks() -> None:
    held = describe_parameters({"norm.weight": (6,)})
    copies = plan_resharding(RankLayout(dp=2), held, RankLayout(dp=4), held).copies
    assert [copy.source for copy in copies] == [0, 1, 0, 1]


def test_shards_of_fsdp_are_cut_like_torch_chunks() -> None:
    held = describe_parameters({"norm.weight": (5,)})
    found = shard_tensors(RankLayout(dp=4, sharded=True), held, {"norm.weight": np.arange(5)})
    assert [mine["norm.weight"].tolist() if mine else [] for mine in found] == [[0, 1], [2, 3], [4], []]


def test_latent_attention_is_parted_head_by_head() -> None:
    heads = HeadSizes(keys=3, values=2)
    train = {"model.layers.0.self_attn.kv_b_proj.weight": (20, 2)}
    infer = {f"layers.0.self_attn.{name}.weight": (rows, 2) for name, rows in (("k_b_proj", 12), ("v_b_proj", 8))}
    held, wanted = describe_parameters(train, heads), match_parameters(train, infer, heads)
    tensors = {name: np.arange(40).reshape(20, 2) for name in train}
    layouts = RankLayout(tp=2), RankLayout(tp=4)
    found = execute(plan_resharding(layouts[0], held, layouts[1], wanted), shard_tensors(layouts[0], held, tensors))
    second_head = tensors["model.layers.0.self_attn.kv_b_proj.weight"][5:10]
    np.testing.assert_array_equal(found[1]["layers.0.self_attn.k_b_proj.weight"], second_head[:3])
    np.testing.assert_array_equal(found[1]["layers.0.self_attn.v_b_proj.weight"], second_head[3:])


def test_few_key_heads_are_held_by_several_ranks() -> None:
    held = describe_parameters({"layers.0.k_proj.weight": (4, 3)}, HeadSizes(size=2))
    found = shard_tensors(RankLayout(tp=4), held, {"layers.0.k_proj.weight": np.arange(12).reshape(4, 3)})
    assert [mine["layers.0.k_proj.weight"][0, 0] for mine in found] == [0, 0, 6, 6]


@pytest.mark.parametrize(
    ("train", "infer", "text"),
    [
        ({"a.weight": (2,)}, {"b.weight": (2,)}, "weight 'b.weight' of the engine has no counterpart"),
        ({"a.weight": (2,), "c.weight": (2,)}, {"a.weight": (2,)}, "the engine has no place for: c.weight"),
        ({"a.weight": (3,)}, {"a.weight": (2,)}, "made of a.weight (3,) it would be another"),
    ],
)
def test_weights_without_a_counterpart_are_named(train: Any, infer: Any, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        match_parameters(train, infer)
    assert text in str(caught.value)


def test_an_engine_has_no_pipeline_stages() -> None:
    with pytest.raises(ConfigError, match="one pipeline stage, not 2"):
        RankLayout(tp=2, pp=2).check_inference()
    INFER.check_inference()


def test_other_memory_levels_are_refused() -> None:
    with pytest.raises(ConfigError, match="reshard_mem_opt_level is 2; accepted: 0"):
        plan_resharding(RankLayout(), [], RankLayout(), []).steps(2)


def test_heads_that_ranks_cannot_share_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 heads cannot be shared by 2"):
        list(
            resharding.rank_blocks(
                RankLayout(tp=2), describe_parameters({"q_proj.weight": (6, 2)}, HeadSizes(size=2)), 0
            )
        )


LAYOUTS = st.builds(
    RankLayout, dp=st.integers(1, 3), tp=st.integers(1, 4), pp=st.integers(1, 3), sharded=st.booleans()
)  # fmt: skip


@st.composite
def models(draw: Any) -> tuple[list[Parameter], list[Parameter], dict[str, Any]]:
    """Tensors of any shape held apart on one side; on the other some of them joined, under other names and axes."""
    held: list[Parameter] = []
    wanted: list[Parameter] = []
    tensors: dict[str, Any] = {}
    for number in range(draw(st.integers(1, 4))):
        shape = tuple(draw(st.lists(st.integers(1, 7), min_size=0, max_size=3)))
        axes = st.one_of(st.none(), st.integers(0, len(shape) - 1)) if shape else st.none()
        axis, joined = draw(axes), draw(axes) or 0
        sizes = [draw(st.integers(1, 7)) for _ in range(draw(st.integers(1, 3)))] if shape else [1]
        parts = []
        for place, size in enumerate(sizes):
            own = tuple(size if dim == joined else length for dim, length in enumerate(shape))
            name = f"{number}.{place}"
            held.append(Parameter(name=name, shape=own, axis=axis, layer=draw(st.integers(0, 3))))
            tensors[name] = np.arange(math.prod(own)).reshape(own) + 1000 * len(tensors)
            middle = draw(st.integers(0, size)) if shape else 0
            parts.append(Part(tensor=name, rows=((middle, size), (0, middle)) if shape else ()))
        whole = tuple(sum(sizes) if dim == joined else length for dim, length in enumerate(shape))
        split = joined if joined or draw(st.booleans()) else None
        wanted.append(Parameter(name=f"to {number}", shape=whole, axis=split if shape else None, parts=tuple(parts)))
    return held, wanted, tensors


@given(models=models(), source=LAYOUTS, target=LAYOUTS, level=st.integers(0, 1))
def test_any_layout_becomes_any_other_with_every_element_in_its_place(
    models: Any, source: RankLayout, target: RankLayout, level: int
) -> None:
    held, wanted, tensors = models
    found = plan_resharding(source, held, target, wanted)
    result = execute(found, shard_tensors(source, held, tensors), level=level)
    for mine, expected in zip(result, shard_tensors(target, wanted, tensors), strict=True):
        assert mine.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(mine[name], array)
    assert max(found.peak_elements(1)) <= max(found.peak_elements(0))
