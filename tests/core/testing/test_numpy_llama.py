"""The NumPy model itself: gradients against central differences, samples against literals, log-probs against transformers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.losses import PolicyLoss
from mindrlhf_grpo.model_files.families import read_architecture
from mindrlhf_grpo.testing.numpy_model import training as truth
from mindrlhf_grpo.testing.numpy_model.generation import draw
from mindrlhf_grpo.testing.numpy_model.llama import NumpyLlama, log_softmax, rms_norm, rotate, rotation, unrotate
from mindrlhf_grpo.testing.numpy_model.tiny_llama import NumberTokenizer, random_weights, tiny_llama_config
from mindrlhf_grpo.testing.numpy_model.training import NumpyAdamW
from mindrlhf_grpo.testing.parity.workload import random_batch, with_old_logps
from mindrlhf_grpo.types import Batch, Sampling

LOSS = PolicyLoss(clip_high=0.28, kl_coef=0.1, dual_clip=1.5)
LOGITS = np.log(np.array([0.1, 0.2, 0.3, 0.4]))


def model(*, tied: bool, biases: bool = False) -> NumpyLlama:
    config = tiny_llama_config(
        vocabulary=11, hidden=8, intermediate=6, layers=2, heads=4, kv_heads=2, head_size=4, tied=tied
    )
    architecture = read_architecture({**config, "attention_bias": biases, "mlp_bias": biases})
    return NumpyLlama(architecture, random_weights(architecture, seed=3))


def batch(of: NumpyLlama) -> Batch:
    random = np.random.default_rng(0)
    drawn = replace(random_batch(random, of.architecture.vocabulary), temperature=0.7).take([0, 2, 5])
    return with_old_logps(drawn, truth.logps(of, drawn), random)


@pytest.mark.parametrize(("tied", "biases"), [(False, False), (True, False), (False, True)])
def test_gradients_are_those_of_central_differences(tied: bool, biases: bool) -> None:
    llama = model(tied=tied, biases=biases)
    rows = batch(llama)
    _, gradients = truth.loss_and_gradients(llama, rows, LOSS)
    random, step = np.random.default_rng(1), 1e-6
    for name, weight in llama.weights.items():
        place = tuple(int(random.integers(size)) for size in weight.shape)
        values = []
        for sign in (1.0, -1.0):
            weight[place] += sign * step
            tensors = {key: np.asarray(array, np.float64) for key, array in rows.loss_tensors().items()}
            values.append(float(LOSS(truth.xp.NUMPY, truth.logps(llama, rows), tensors)[0]))
            weight[place] -= sign * step
        assert gradients[name][place] == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5, abs=1e-9), name


def test_last_layer_end_is_the_model_itself_and_past_each_length_is_zero() -> None:
    llama = model(tied=False)
    rows = batch(llama)
    ends = truth.layer_logps(llama, rows)
    assert ends.shape == (3, 3, rows.ids.shape[1])
    assert np.array_equal(ends[-1], truth.logps(llama, rows))
    assert (ends[:, np.arange(rows.ids.shape[1]) >= rows.lengths[:, None]] == 0).all()


def test_rms_norm_of_three_and_four() -> None:
    normed, _ = rms_norm(np.array([[3.0, 4.0]]), np.array([1.0, 2.0]), 0.0)
    assert normed[0] == pytest.approx([3 / np.sqrt(12.5), 8 / np.sqrt(12.5)])


def test_rotation_keeps_lengths_and_is_undone_by_its_backward() -> None:
    cos, sin = rotation(read_architecture(tiny_llama_config()), 5)
    x = np.random.default_rng(0).normal(size=(2, 5, 8))
    assert np.linalg.norm(rotate(x, cos, sin), axis=-1) == pytest.approx(np.linalg.norm(x, axis=-1))
    assert unrotate(rotate(x, cos, sin), cos, sin) == pytest.approx(x)
    assert np.array_equal(rotate(x, cos, sin)[:, 0], x[:, 0])


def test_first_adamw_step_moves_by_the_learning_rate_and_decays() -> None:
    optimizer = NumpyAdamW(betas=(0.9, 0.99), weight_decay=0.1, max_grad_norm=0.0)
    weights = {"w": np.array([1.0, -1.0])}
    optimizer.step(weights, {"w": np.array([5.0, -0.001])}, learning_rate=0.01)
    assert weights["w"] == pytest.approx([1.0 * 0.999 - 0.01, -1.0 * 0.999 + 0.01], abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "uniform", "token"),
    [
        ({}, 0.0, 0),
        ({}, 0.0999, 0),
        ({}, 0.1001, 1),
        ({}, 0.9999, 3),
        ({"temperature": 0.0}, 0.0, 3),
        ({"top_k": 2}, 0.0, 2),
        ({"top_k": 2}, 0.42, 2),
        ({"top_k": 2}, 0.43, 3),
        ({"top_p": 0.6}, 0.0, 2),
        ({"top_p": 0.39}, 0.0, 3),
        ({"min_p": 0.5}, 0.0, 1),
        ({"temperature": 0.5}, 0.033, 0),
        ({"temperature": 0.5}, 0.034, 1),
    ],
)
def test_draw_inverts_the_kept_distribution(settings: dict[str, float], uniform: float, token: int) -> None:
    assert draw(LOGITS, Sampling(max_tokens=1, **settings), seen=[], banned=[], uniform=uniform) == token


def test_draw_leaves_banned_tokens_out_and_penalises_seen_ones() -> None:
    greedy = Sampling(max_tokens=1, temperature=0.0)
    assert draw(LOGITS, greedy, seen=[], banned=[3], uniform=0.0) == 2
    assert draw(LOGITS, replace(greedy, repetition_penalty=2.0), seen=[3], banned=[], uniform=0.0) == 2


def test_numbers_tokenizer_reads_what_it_writes() -> None:
    tokenizer = NumberTokenizer(61, (2,))
    assert tokenizer.decode([17, 2, 5]) == "<17><5>"
    assert tokenizer.encode("<17><5>") == [17, 5]


@pytest.mark.parametrize(
    "name",
    [
        "llama", "llama with biases and tied head", "llama 3.1", "llama linear", "qwen2", "qwen2 yarn", "mistral", "seed_oss",
        "seed_oss with all biases",
    ],
)  # fmt: skip
def test_log_probs_of_llama_like_families_are_those_of_transformers(name: str) -> None:
    pytest.importorskip("torch")
    from tests.support.tiny_families import VOCABULARY, expected_log_probs, make_batch, make_model

    model = make_model(name)
    llama = NumpyLlama(
        read_architecture(model.config.to_dict()), {key: value.numpy() for key, value in model.state_dict().items()}
    )
    ids, real = make_batch(padded=False)
    logits = np.stack([llama.logits(llama.hidden_states(row)[0][-1]) for row in ids])
    expected = expected_log_probs(model, ids, real).reshape(*ids.shape, VOCABULARY)
    np.testing.assert_allclose(log_softmax(logits), expected, rtol=0, atol=1e-4)


def test_an_architecture_with_other_parts_is_refused() -> None:
    architecture = read_architecture({**tiny_llama_config(), "model_type": "qwen3"})
    with pytest.raises(ConfigError, match=r"without head_norms$"):
        NumpyLlama(architecture, {})
