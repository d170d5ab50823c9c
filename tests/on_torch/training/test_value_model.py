"""Critic and reward model of the torch backend: values, gradients, heads, folders, release."""

from __future__ import annotations

import json
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.errors import BackendError, CheckpointError, ConfigError, RunFailed
from mindrlhf_grpo.losses.function_loss import FunctionLoss
from mindrlhf_grpo.types import Batch
from tests.support.tiny_policy import make_batch, relative, run_config, weighted_loss, write_model
from tests.support.tiny_value_model import rows_of, with_head, write_classifier

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)

FAMILIES = ["llama", "qwen2", "qwen3"]


def load(path: Path, read_at: str = "token", *, train: dict[str, Any] | None = None, **model: Any) -> Any:
    from mindrlhf_grpo_torch import build

    config = run_config(path, train=train, **model)
    return build(config).load_value_model(config.model, config.train, read_at=read_at)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("classifier"))


def own_values(model: Any, batch: Batch, read_at: str) -> torch.Tensor:
    """Values one row at a time from transformers' body and head."""
    values = torch.zeros(batch.ids.shape)
    for row, (prompt, ids) in enumerate(rows_of(batch)):
        hidden = model.base_model(input_ids=ids).last_hidden_state[0]
        start = prompt if read_at == "token" else prompt - 1
        length = ids.shape[1] - prompt
        values[row, :length] = model.score(hidden[start : start + length])[:, 0]
    return values


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layout", ["shared", "plain"])
def test_the_last_value_is_transformers_own_score(tmp_path: Path, family: str, layout: str) -> None:
    path, batch = write_classifier(tmp_path, family), make_batch()
    values = load(path, layout=layout).values(batch)
    own = transformers.AutoModelForSequenceClassification.from_pretrained(path)
    own.config.pad_token_id = None  # it would look for the last token that is not 0; here 0 is a token like any other
    for row, (_, ids) in enumerate(rows_of(batch)):
        with torch.no_grad():
            assert values[row, batch.lengths[row] - 1] == pytest.approx(own(input_ids=ids).logits.item(), abs=1e-5)


@pytest.mark.parametrize("read_at", ["before", "token"])
def test_values_are_equal_in_both_layouts_and_zero_past_the_end(folder: Path, read_at: str) -> None:
    shared, plain = load(folder, read_at, layout="shared"), load(folder, read_at, layout="plain")
    batch = make_batch()
    values = shared.values(batch)
    assert (shared.layout, plain.layout) == ("shared", "plain")
    assert values.dtype == np.float32
    assert np.abs(values - plain.values(batch)).max() < 2e-6
    assert (values[batch.mask == 0] == 0).all()
    assert (values[batch.mask == 1] != 0).all()
    with torch.no_grad():
        assert np.abs(values - own_values(shared.held.unwrapped, batch, read_at).numpy()).max() < 1e-5


@pytest.mark.parametrize("read_at", ["before", "token"])
@pytest.mark.parametrize("layout", ["shared", "plain"])
def test_loss_and_gradients_equal_plain_torch(folder: Path, read_at: str, layout: str) -> None:
    from mindrlhf_grpo_torch import xp

    model = load(folder, read_at, layout=layout, train={"tokens_per_micro_batch": 20})
    own = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    own.get_input_embeddings().padding_idx = None
    batch = make_batch()
    tensors = {name: torch.from_numpy(x) for name, x in batch.loss_tensors().items()}
    value, _ = weighted_loss(xp, own_values(own, batch, read_at), tensors)
    value.backward()
    expected = {name: weight.grad for name, weight in own.named_parameters()}
    model.backward_all(batch, weighted_loss)
    assert all(relative(model.trainable[name].grad, gradient) < 1e-5 for name, gradient in expected.items())
    model.drop_gradients()
    result = model.update(batch, weighted_loss, learning_rate=1e-2)
    assert result.loss == pytest.approx(value.item(), rel=1e-5)
    norm = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    assert result.grad_norm == pytest.approx(norm.item(), rel=1e-5)
    assert result.sums["tokens"] == batch.mask.sum()
    assert "entropy" not in result.sums


def test_a_causal_lm_gets_a_small_head_that_depends_on_the_seed_alone(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    model, batch = load(path), make_batch()
    weight = model.trainable["score.weight"].detach().numpy()
    assert weight.dtype == np.float32
    assert weight[0, :3].tolist() == pytest.approx([0.0038100, -0.0040032, 0.0194067], abs=1e-7)
    assert np.array_equal(model.values(batch), load(path).values(batch))


def test_a_saved_model_is_a_classifier_of_transformers(tmp_path: Path) -> None:
    model, batch = load(write_model(tmp_path / "lm")), make_batch()
    model.update(batch, weighted_loss, learning_rate=1e-2)
    model.save_model(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    own = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert own.num_labels == 1
    own.config.pad_token_id = None
    values = model.values(batch)
    for row, (_, ids) in enumerate(rows_of(batch)):
        with torch.no_grad():
            assert values[row, batch.lengths[row] - 1] == pytest.approx(own(input_ids=ids).logits.item(), abs=1e-5)
    assert load(tmp_path / "saved").fingerprint() == model.fingerprint()


def test_the_head_of_a_token_classifier_keeps_its_bias(tmp_path: Path) -> None:
    path, batch = write_classifier(tmp_path / "tokens", kind="TokenClassification"), make_batch()
    model = load(path)
    assert set(model.stored_head.tensors) == {"score.weight", "score.bias"}
    model.save_model(tmp_path / "saved")
    own = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path / "saved").eval()
    for row, (prompt, ids) in enumerate(rows_of(batch)):
        with torch.no_grad():
            expected = own(input_ids=ids).logits[0, prompt:, 0].numpy()
        assert np.abs(model.values(batch)[row, : len(expected)] - expected).max() < 1e-5


@pytest.mark.parametrize(
    ("activation", "function"), [("relu", torch.relu), ("tanh", torch.tanh), ("leaky_relu", torch.nn.LeakyReLU(0.01))]
)
def test_an_mlp_head_is_read_trained_and_saved(tmp_path: Path, activation: str, function: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = {"score.0.weight": (5, 32), "score.0.bias": (5,), "score.2.weight": (1, 5), "score.2.bias": (1,)}
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    path = with_head(write_classifier(tmp_path / "mlp"), tensors, score_activation=activation)
    model, batch = load(path), make_batch()
    prompt, ids = rows_of(batch)[0]
    with torch.no_grad():
        hidden = model.held.unwrapped.base_model(input_ids=ids).last_hidden_state[0, prompt:]
        inner = function(hidden @ tensors["score.0.weight"].T + tensors["score.0.bias"])
        expected = inner @ tensors["score.2.weight"].T + tensors["score.2.bias"]
    assert np.abs(model.values(batch)[0, : len(expected)] - expected[:, 0].numpy()).max() < 1e-5
    model.update(batch, weighted_loss, learning_rate=1e-2)
    model.save_model(tmp_path / "saved")
    assert np.array_equal(load(tmp_path / "saved").values(batch), model.values(batch))


def test_a_head_of_another_size_is_refused_with_its_shapes(tmp_path: Path) -> None:
    path = with_head(write_classifier(tmp_path), {"score.weight": torch.zeros(2, 32)})
    with pytest.raises(ConfigError, match=r"no head of one number over 32 numbers: score\.weight \[2, 32\]"):
        load(path)
    with pytest.raises(ConfigError, match=r"classifier\.dense\.weight"):
        load(with_head(path, {"classifier.dense.weight": torch.zeros(1, 32)}))


def test_lora_trains_adapters_and_head_and_saves_both(tmp_path: Path) -> None:
    import peft

    path, batch = write_model(tmp_path / "lm"), make_batch()
    model = load(path, lora_rank=2)
    assert {name for name in model.trainable if "lora" not in name} == {"base_model.model.score.weight"}
    for seed in range(2):
        model.update(make_batch(seed=seed), weighted_loss, learning_rate=1e-2)
    values = model.values(batch)
    model.save_model(tmp_path / "adapter")
    model.save_state(tmp_path / "state")
    model.save_model(tmp_path / "merged", merge=True)
    assert np.abs(load(tmp_path / "merged").values(batch) - values).max() < 1e-5
    assert np.abs(load(tmp_path / "adapter").values(batch) - values).max() < 1e-5
    fresh = load(path, lora_rank=2)
    fresh.load_state(tmp_path / "adapter", tmp_path / "state")
    assert np.array_equal(fresh.values(batch), values)
    base = transformers.AutoModelForSequenceClassification.from_pretrained(path, num_labels=1)
    own = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    own.config.pad_token_id = None
    _, ids = rows_of(batch)[0]
    with torch.no_grad():
        assert own(input_ids=ids).logits.item() == pytest.approx(float(values[0, batch.lengths[0] - 1]), abs=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_resume_is_bit_identical(folder: Path, tmp_path: Path, dtype: str) -> None:
    straight = load(folder, "before", dtype=dtype)
    assert straight.trainable["score.weight"].dtype == torch.float32
    for seed in range(2):
        straight.update(make_batch(seed=seed), weighted_loss, learning_rate=1e-2)
    straight.save_model(tmp_path / "model")
    straight.save_state(tmp_path / "state")
    resumed = load(folder, "before", dtype=dtype)
    resumed.load_state(tmp_path / "model", tmp_path / "state")
    assert resumed.fingerprint() == straight.fingerprint()
    batch = make_batch(seed=5)
    assert resumed.update(batch, weighted_loss, learning_rate=1e-2) == straight.update(
        batch, weighted_loss, learning_rate=1e-2
    )
    with pytest.raises(CheckpointError, match="does not hold this model's weights"):
        resumed.load_state(tmp_path, tmp_path / "state")


def test_released_weights_are_gone_and_come_back(folder: Path) -> None:
    model, batch = load(folder), make_batch()
    before, digest = model.values(batch), model.fingerprint()
    weights = [weakref.ref(weight) for weight in model.model.parameters()]
    model.release()
    model.release()
    assert all(weight() is None for weight in weights)
    assert np.array_equal(model.values(batch), before)
    model.release()
    assert model.fingerprint() == digest
    model.release()
    model.update(batch, weighted_loss, learning_rate=1e-2)
    with pytest.raises(BackendError, match="has been trained cannot be released"):
        model.release()


def test_a_gradient_that_is_not_finite_stops_before_the_step(folder: Path) -> None:
    model, batch = load(folder), make_batch()
    batch.advantages[0, 0] = np.nan
    digest = model.fingerprint()
    with pytest.raises(RunFailed, match="gradient norm is nan"):
        model.update(batch, weighted_loss, learning_rate=1e-2)
    assert model.fingerprint() == digest


def test_an_empty_batch_still_takes_part(folder: Path) -> None:
    model, empty = load(folder), make_batch().take([])
    result = model.update(empty, weighted_loss, learning_rate=1e-2)
    assert (result.loss, result.grad_norm, dict(result.sums)) == (0.0, 0.0, {"tokens": 0.0})
    assert model.values(empty).shape == (0, 0)


def test_coupled_rows_reach_the_loss_as_pairs_though_one_of_a_pair_is_not_trained(folder: Path) -> None:
    seen: list[tuple[int, ...]] = []

    @FunctionLoss
    def pairs(xp: Any, values: Any, tensors: Any) -> tuple[Any, dict[str, Any]]:
        seen.append(tuple(int(length) for length in tensors["mask"].sum(1)))
        n = values.shape[0] // 2
        chosen, rejected = values[0 : 2 * n : 2], values[1 : 2 * n : 2]
        return xp.sum(chosen * tensors["weights"][0 : 2 * n : 2]) - xp.sum(rejected), {}

    batch = make_batch([(5, [3, 7]), (2, [4, 4]), (9, [6, 1])])
    order = np.argsort(batch.prompt_of, kind="stable")
    batch = replace(batch.take(order), coupled=True)
    batch.mask[1] = 0
    load(folder, train={"tokens_per_micro_batch": 16}).update(batch, pairs, learning_rate=1e-3)
    lengths = [tuple(batch.mask[rows].sum(1).astype(int)) for rows in ([0, 1], [2, 3], [4, 5])]
    assert sorted(pair for rows in seen for pair in zip(rows[::2], rows[1::2], strict=True)) == sorted(lengths)


@pytest.mark.parametrize("layout", ["shared", "plain"])
def test_sequences_without_a_prompt_are_read_from_their_first_token(folder: Path, layout: str) -> None:
    model, batch = load(folder, layout=layout), make_batch([(0, [3, 7]), (2, [4])])
    with torch.no_grad():
        expected = own_values(model.held.unwrapped, batch, "token").numpy()
    assert np.abs(model.values(batch) - expected).max() < 1e-5
    assert np.isfinite(model.update(batch, weighted_loss, learning_rate=1e-3).grad_norm)


def test_recomputed_activations_change_no_result(folder: Path) -> None:
    batch = make_batch()
    results = [load(folder, recompute=flag).update(batch, weighted_loss, learning_rate=1e-2) for flag in (False, True)]
    assert results[0] == results[1]


def test_gradients_of_both_layouts_are_equal(folder: Path) -> None:
    batch, found = make_batch(), []
    for layout in ("shared", "plain"):
        model = load(folder, layout=layout)
        model.backward_all(batch, weighted_loss)
        found.append({name: weight.grad for name, weight in model.trainable.items()})
    assert all(relative(found[0][name], gradient) < 1e-5 for name, gradient in found[1].items())
