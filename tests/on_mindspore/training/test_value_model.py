"""Critic and reward model against torch's: values, gradients, steps, folders, resume, release."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from tests.support.tiny_policy import make_batch, run_config, weighted_loss, write_model

pytest.importorskip("mindspore")
pytest.importorskip("torch")

import mindrlhf_grpo_mindspore
import mindrlhf_grpo_torch
import torch
import transformers

from mindrlhf_grpo.errors import BackendError, CheckpointError, ConfigError
from tests.support.tiny_value_model import rows_of, with_head, write_classifier

Load = Callable[..., Any]


def load(module: Any, path: Path, read_at: str = "token", **model: Any) -> Any:
    config = run_config(path, device="cpu", **model)
    return module.build(config).load_value_model(config.model, config.train, read_at=read_at)


def ours(path: Path, read_at: str = "token", **model: Any) -> Any:
    return load(mindrlhf_grpo_mindspore, path, read_at, **model)


def theirs(path: Path, read_at: str = "token", **model: Any) -> Any:
    return load(mindrlhf_grpo_torch, path, read_at, **model)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("classifier"))


@pytest.mark.parametrize(("family", "layout"), [("llama", "plain"), ("qwen2", "shared"), ("qwen3", "shared")])
def test_the_last_value_is_transformers_own_score(tmp_path: Path, family: str, layout: str) -> None:
    path, batch = write_classifier(tmp_path, family), make_batch()
    values = ours(path, layout=layout).values(batch)
    own = transformers.AutoModelForSequenceClassification.from_pretrained(path)
    own.config.pad_token_id = None
    for row, (_, ids) in enumerate(rows_of(batch)):
        with torch.no_grad():
            assert values[row, batch.lengths[row] - 1] == pytest.approx(own(input_ids=ids).logits.item(), abs=1e-5)
    assert (values[batch.mask == 0] == 0).all()


@pytest.mark.parametrize("read_at", ["before", "token"])
def test_values_losses_and_five_steps_equal_torchs(folder: Path, read_at: str) -> None:
    one, other, batch = theirs(folder, read_at), ours(folder, read_at), make_batch()
    np.testing.assert_allclose(other.values(batch), one.values(batch), rtol=0, atol=5e-6)
    for step in range(5 if read_at == "token" else 0):
        wanted, got = (model.update(batch, weighted_loss, learning_rate=1e-3) for model in (one, other))
        assert got.loss == pytest.approx(wanted.loss, rel=1e-4, abs=1e-5), step
        assert got.grad_norm == pytest.approx(wanted.grad_norm, rel=1e-3), step
        assert got.sums.keys() == wanted.sums.keys() == {"tokens", "logps", "max/surprise"}
    np.testing.assert_allclose(other.values(batch), one.values(batch), rtol=0, atol=2e-4)
    if read_at == "token":
        with pytest.raises(BackendError, match="has been trained cannot be released"):
            other.release()


def test_a_causal_lm_gets_the_same_head_as_on_torch_and_is_saved_as_a_classifier(tmp_path: Path) -> None:
    model, batch = ours(write_model(tmp_path / "lm")), make_batch()
    assert model.fingerprint() == theirs(tmp_path / "lm").fingerprint()
    model.save_model(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    own = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert own.num_labels == 1
    assert theirs(tmp_path / "saved").fingerprint() == model.fingerprint()
    np.testing.assert_allclose(theirs(tmp_path / "saved").values(batch), model.values(batch), rtol=0, atol=5e-6)


@pytest.mark.slow  # runs/test_ups_rm scores with one
def test_an_mlp_head_gives_and_learns_what_it_does_on_torch(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = {"score.0.weight": (5, 32), "score.0.bias": (5,), "score.2.weight": (1, 5), "score.2.bias": (1,)}
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    path = with_head(write_classifier(tmp_path), tensors, score_activation="leaky_relu")
    one, other, batch = theirs(path), ours(path), make_batch()
    np.testing.assert_allclose(other.values(batch), one.values(batch), rtol=0, atol=2e-5)
    wanted, got = (model.update(batch, weighted_loss, learning_rate=1e-3) for model in (one, other))
    assert got.grad_norm == pytest.approx(wanted.grad_norm, rel=1e-4)


def test_a_head_of_another_size_is_refused_with_its_shapes(tmp_path: Path) -> None:
    path = with_head(write_classifier(tmp_path), {"score.weight": torch.zeros(2, 32)})
    with pytest.raises(ConfigError, match=r"no head of one number over 32 numbers: score\.weight \[2, 32\]"):
        ours(path)


@pytest.mark.parametrize("lora_rank", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_resume_is_bit_identical(tmp_path: Path, lora_rank: int) -> None:
    path, batch = write_model(tmp_path / "lm"), make_batch()
    straight, resumed = (ours(path, "before", lora_rank=lora_rank) for _ in range(2))
    straight.update(batch, weighted_loss, learning_rate=1e-2)
    straight.save_model(tmp_path / "model")
    straight.save_state(tmp_path / "state")
    resumed.load_state(tmp_path / "model", tmp_path / "state")
    assert resumed.fingerprint() == straight.fingerprint()
    results = [model.update(batch, weighted_loss, learning_rate=1e-2) for model in (straight, resumed)]
    assert results[0] == results[1]
    assert resumed.fingerprint() == straight.fingerprint()
    if lora_rank:
        other = theirs(path, "before", lora_rank=lora_rank)
        with pytest.raises(CheckpointError):
            resumed.load_state(path, tmp_path / "state")
        straight.save_model(tmp_path / "adapter")
        other.update(batch, weighted_loss, learning_rate=1e-2)
        other.save_state(tmp_path / "torch")
        other.load_state(tmp_path / "adapter", tmp_path / "torch")
        np.testing.assert_allclose(other.values(batch), straight.values(batch), rtol=0, atol=1e-5)


def test_released_weights_are_empty_and_come_back(folder: Path) -> None:
    model, batch = ours(folder), make_batch()
    before = model.values(batch)
    weights = list(model.weights.values())
    model.release()
    model.release()
    assert {weight.size for weight in weights} == {1}
    assert np.array_equal(model.values(batch), before)


@dataclass(frozen=True)
class Pairs:
    """Bradley-Terry on the last values of rows 2i and 2i + 1."""

    reads_entropy: ClassVar[bool] = False
    reads_values: ClassVar[bool] = False

    def __call__(self, xp: Any, values: Any, tensors: Any) -> tuple[Any, dict[str, Any]]:
        n = values.shape[0] // 2
        last = xp.sum(values * tensors["last"], axis=1)
        margin = last[0 : 2 * n : 2] - last[1 : 2 * n : 2]
        weights = tensors["weights"][:, 0]
        return xp.sum(weights[0 : 2 * n : 2] * xp.log(1.0 + xp.exp(-margin))), {"margin": xp.sum(margin)}


def test_a_loss_over_pairs_has_torchs_gradient(folder: Path) -> None:
    """Slices with a step of two, forward and backward, and rows that pad."""
    batch = make_batch([(5, [3, 7]), (2, [4, 4]), (9, [6, 1])])
    batch = batch.take(np.argsort(batch.prompt_of, kind="stable"))
    last = np.zeros(batch.ids.shape, np.float32)
    last[np.arange(len(batch)), batch.lengths - 1] = 1
    batch = replace(batch, coupled=True, tensors={"last": last}, weights=batch.mask / 3)
    one, other = theirs(folder), ours(folder)
    wanted, got = (model.update(batch, Pairs(), learning_rate=1e-3) for model in (one, other))
    assert got.loss == pytest.approx(wanted.loss, rel=1e-5)
    assert got.grad_norm == pytest.approx(wanted.grad_norm, rel=1e-4)
    assert got.sums["margin"] == pytest.approx(wanted.sums["margin"], rel=1e-4, abs=1e-5)
