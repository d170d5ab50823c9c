"""The ranks of a run as a mesh of tensor groups, in literal numbers."""

from __future__ import annotations

import pytest

from mindrlhf_grpo.config.parallel import EngineParallelConfig, ParallelConfig
from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.model_files.families import read_architecture
from mindrlhf_grpo.parallel.mesh import Mesh, check_sizes, engine_mesh, training_mesh
from mindrlhf_grpo.parallel.resharding import RankLayout
from mindrlhf_grpo.testing.numpy_model.tiny_llama import tiny_llama_config


def test_six_ranks_are_three_tensor_groups_of_two() -> None:
    mesh = Mesh(world_size=6, tensor=2, strategy="fsdp")
    assert mesh.data == 3
    assert [mesh.data_rank(rank) for rank in range(6)] == [0, 0, 1, 1, 2, 2]
    assert [mesh.tensor_rank(rank) for rank in range(6)] == [0, 1, 0, 1, 0, 1]
    assert mesh.tensor_groups == ((0, 1), (2, 3), (4, 5))
    assert mesh.data_groups == ((0, 2, 4), (1, 3, 5))
    assert mesh.tensor_group(3) == (2, 3)
    assert mesh.data_group(3) == (1, 3, 5)
    assert mesh.layout == RankLayout(dp=3, tp=2, sharded=True)
    assert [tuple(mesh.layout.place(rank)) for rank in range(3)] == [(0, 0, 0), (0, 0, 1), (0, 1, 0)]


def test_without_settings_every_rank_holds_the_model() -> None:
    assert training_mesh(4, None) == Mesh(world_size=4)
    assert training_mesh(4, None).data_groups == ((0, 1, 2, 3),)
    assert Mesh().tensor_groups == ((0,),)


def test_the_engine_is_cut_as_the_training_unless_it_says_otherwise() -> None:
    training = ParallelConfig(tensor=2)
    assert training_mesh(4, training) == Mesh(world_size=4, tensor=2, strategy="fsdp")
    assert (engine_mesh(4, None, None).tensor, engine_mesh(4, training, None).tensor) == (1, 2)
    assert engine_mesh(4, training, EngineParallelConfig(tensor=4)).tensor == 4
    assert engine_mesh(4, training, EngineParallelConfig()).layout == RankLayout(dp=4)


def test_ranks_that_are_no_whole_number_of_groups_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^parallel.tensor is 4, and the run's 6 ranks .* accepted: 1, 2, 3, 6$"):
        training_mesh(6, ParallelConfig(tensor=4))
    with pytest.raises(ConfigError, match=r"^rollout.parallel.tensor is 3, and the run's 2 ranks .* accepted: 1, 2$"):
        engine_mesh(2, None, EngineParallelConfig(tensor=3))


def test_a_model_that_cannot_be_cut_is_refused_with_its_sizes() -> None:
    model = read_architecture(tiny_llama_config(heads=8, kv_heads=4, head_size=4, vocabulary=66))
    assert (model.inner, model.hidden) == (48, 32)
    check_sizes(model, 2)
    with pytest.raises(
        ConfigError, match=r"^parallel.tensor is 4, which does not divide vocab_size \(66\) of .*; accepted: 1, 2$"
    ):
        check_sizes(model, 4)
    with pytest.raises(
        ConfigError, match=r"num_attention_heads \(8\), num_key_value_heads \(4\) of .*; accepted: 1, 2$"
    ):
        check_sizes(read_architecture({**model.config, "vocab_size": 66 * 3}), 3)
