"""MindRLHF's and MindFormers' division of models over processes, and what becomes of what this run cannot do."""

from __future__ import annotations

import json
from typing import Any

import mindrlhf_grpo_mindspore
import mindrlhf_grpo_torch
import pytest

from mindrlhf_grpo.capacity.known_models import known_models
from mindrlhf_grpo.config.run import RunConfig
from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.recipes.mindrlhf.keys import translated
from mindrlhf_grpo.recipes.mindrlhf.layout import check_layout, put_layout, strategy_of


@pytest.fixture(autouse=True)
def four_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    for backend in (mindrlhf_grpo_torch, mindrlhf_grpo_mindspore):
        monkeypatch.setattr(backend, "UNSUPPORTED", {})


def layout(named: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {"backend": "torch"}
    put_layout(values, named)
    return {key: value for key, value in values.items() if key != "backend"}


def test_model_and_optimizer_parallelism_are_ours_where_the_processes_allow_them() -> None:
    assert layout({"train_tp": 4, "infer_tp": 2}) == {
        "parallel.tensor": 4, "parallel.strategy": "replicate", "rollout.parallel.tensor": 2,
    }  # fmt: skip
    assert layout({"train_tp": 2, "optimizer_parallel": True}) == {"parallel.tensor": 2, "parallel.strategy": "zero1"}
    assert layout({"train_tp": 4, "optimizer_parallel": True})["parallel.strategy"] == "replicate"  # one group
    assert layout({"train_tp": 8, "infer_tp": 8}) == {}
    assert layout({"optimizer_shard": True}) == {"parallel.strategy": "zero1"}


def test_a_backend_that_cuts_no_matrices_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mindrlhf_grpo_torch, "UNSUPPORTED", {"tensor_parallel": "not made"})
    assert layout({"train_tp": 4, "infer_tp": 2}) == {}


def test_mindformers_2_names_its_strategies() -> None:
    file = {
        "parallelism": {"data_parallel_shard": 4, "data_parallel_shard_strategy": "optim_grads", "tensor_parallel": 1}
    }
    assert strategy_of(translated("offline", file).named_values()) == "zero2"
    assert strategy_of({"shards": -1}) == "fsdp"
    assert strategy_of({"shards": 4, "reshard": "never"}) == "zero2"
    assert strategy_of({"shards": 1, "shard_strategy": "optim"}) == "replicate"
    with pytest.raises(
        ConfigError, match="data_parallel_shard_strategy is 'all'; accepted: optim, optim_grads, optim_"
    ):
        strategy_of({"shards": 2, "shard_strategy": "all"})


@pytest.mark.parametrize(("model", "backend"), [("qwen2_5_0_5b", "torch"), ("qwen2_5_72b", "mindspore")])
def test_what_cannot_be_done_is_a_note_where_the_model_fits_and_an_error_where_not(
    model: str, backend: str, tmp_path: Any
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(known_models()[model].config))
    config = RunConfig.model_validate({
        "model": {"path": str(tmp_path), "dtype": "bfloat16"}, "data": {"source": "s"}, "backend": backend,
        "rewards": [{"function": "f"}], "parallel": {"strategy": "replicate", "tensor": 2},
    })  # fmt: skip
    asked = {"train_tp": 2, "pipeline": 2, "experts": 1}
    if model == "qwen2_5_0_5b":
        assert check_layout(config, asked) == {
            "pipeline_stage 2": "not done in 4 processes on torch, and the model fits"
        }
    else:
        with pytest.raises(
            ConfigError, match=r"^pipeline_stage 2: not done in 4 processes on mindspore, and without it"
        ):
            check_layout(config, asked)
    assert check_layout(config, {"train_tp": 2}) == {}
