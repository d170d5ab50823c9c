"""AdamW equals torch's; its state is saved, refused and resumed exactly."""

from __future__ import annotations

import json
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindrlhf_grpo_mindspore.graph import overwrite
from mindrlhf_grpo_mindspore.training.optim import AdamW, gradient_norm
from mindspore import Parameter, Tensor

from mindrlhf_grpo.backend import CompileLog
from mindrlhf_grpo.config.run import AdamWConfig, TrainConfig
from mindrlhf_grpo.errors import CheckpointError

SHAPES = {"a": (5, 3), "b": (7,), "c": (64, 48)}


def arrays(seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def parameters(dtype: ms.Type = ms.float32) -> dict[str, Parameter]:
    return {name: Parameter(Tensor(array).astype(dtype), name=name) for name, array in arrays(0).items()}


def adam(named: dict[str, Parameter], weight_decay: float = 0.1) -> AdamW:
    return AdamW(named, TrainConfig(betas=(0.9, 0.999), weight_decay=weight_decay), CompileLog())


def gradients(seed: int, factor: float = 1.0) -> list[Tensor]:
    return [Tensor(array * np.float32(factor)) for array in arrays(100 + seed).values()]


def torch_steps(weight_decay: float, steps: int) -> dict[str, np.ndarray]:
    torch = pytest.importorskip("torch")
    weights = {name: torch.nn.Parameter(torch.tensor(array)) for name, array in arrays(0).items()}
    optimizer = torch.optim.AdamW(weights.values(), lr=1e-2, betas=(0.9, 0.999), weight_decay=weight_decay)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-2 / (1 + step)
        for weight, gradient in zip(weights.values(), arrays(100 + step).values(), strict=True):
            weight.grad = torch.tensor(gradient)
        optimizer.step()
    return {name: weight.detach().numpy() for name, weight in weights.items()}


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("steps", [1, 20])
def test_steps_equal_torch(weight_decay: float, steps: int) -> None:
    named = parameters()
    optimizer = adam(named, weight_decay)
    for step in range(steps):
        optimizer.step(gradients(step), learning_rate=1e-2 / (1 + step))
    for name, expected in torch_steps(weight_decay, steps).items():
        np.testing.assert_allclose(named[name].asnumpy(), expected, rtol=0, atol=1e-6)
    assert len(optimizer.log.entries) == 1  # the rates are inputs: no step compiles again


def test_small_gradients_step_as_in_torch() -> None:
    """With sqrt(v) as small as eps, a misplaced bias correction shows."""
    torch = pytest.importorskip("torch")
    named, weight = parameters(), torch.nn.Parameter(torch.tensor(arrays(0)["a"]))
    optimizer, reference = adam(named, 0.0), torch.optim.AdamW([weight], lr=1e-2, weight_decay=0.0)
    for step in range(3):
        optimizer.step(gradients(step, 1e-8), learning_rate=1e-2)
        weight.grad = torch.tensor(arrays(100 + step)["a"] * np.float32(1e-8))
        reference.step()
    np.testing.assert_allclose(named["a"].asnumpy(), weight.detach().numpy(), rtol=0, atol=1e-6)


def test_vectors_are_left_out_of_the_decay_and_epsilon_is_as_asked() -> None:
    torch = pytest.importorskip("torch")
    named = parameters()
    settings = TrainConfig(betas=(0.9, 0.999), weight_decay=0.1, adamw=AdamWConfig(decayed="matrices", epsilon=1e-3))
    optimizer = AdamW(named, settings, CompileLog())
    theirs = {name: torch.nn.Parameter(torch.tensor(array)) for name, array in arrays(0).items()}
    matrices = [weight for weight in theirs.values() if weight.dim() == 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": [theirs["b"]], "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.999), eps=1e-3)
    for step in range(5):
        optimizer.step(gradients(step), learning_rate=1e-2)
        for weight, gradient in zip(theirs.values(), arrays(100 + step).values(), strict=True):
            weight.grad = torch.tensor(gradient)
        reference.step()
    for name, weight in theirs.items():
        np.testing.assert_allclose(named[name].asnumpy(), weight.detach().numpy(), rtol=0, atol=1e-6)


def test_the_first_step_moves_by_the_learning_rate_against_the_sign() -> None:
    named = {"a": Parameter(Tensor(np.array([1.0, -2.0], np.float32)), name="a")}
    adam(named).step([Tensor(np.array([0.5, -0.25], np.float32))], learning_rate=0.1)
    assert named["a"].asnumpy().tolist() == pytest.approx([1 - 0.01 - 0.1, -2 + 0.02 + 0.1], abs=1e-6)


def test_a_gradient_scale_is_the_same_as_scaled_gradients() -> None:
    one, other = parameters(), parameters()
    first, second = adam(one), adam(other)
    for step in range(2):
        first.step(gradients(step), learning_rate=1e-2, gradient_scale=0.25)
        second.step(gradients(step, 0.25), learning_rate=1e-2)
    assert all(np.array_equal(one[name].asnumpy(), other[name].asnumpy()) for name in one)


def test_weights_of_sixteen_bits_follow_their_float32_masters() -> None:
    half, single = parameters(ms.float16), parameters()
    for name, weight in half.items():
        single[name].set_data(weight.astype(ms.float32))
    first, second = adam(half), adam(single)
    for step in range(8):
        first.step([gradient.astype(ms.float16) for gradient in gradients(step)], learning_rate=1e-5)
        rounded = [gradient.astype(ms.float16).astype(ms.float32) for gradient in gradients(step)]
        second.step(rounded, learning_rate=1e-5)
    for name, weight in half.items():
        assert weight.dtype == ms.float16
        assert np.array_equal(weight.asnumpy(), single[name].asnumpy().astype(np.float16))


def test_resume_is_bit_identical(tmp_path: Path) -> None:
    straight = parameters()
    first = adam(straight)
    first.step(gradients(0), learning_rate=1e-2)
    first.save(tmp_path)
    resumed = {name: Parameter(Tensor(weight.asnumpy()), name=name) for name, weight in straight.items()}
    second = adam(resumed)
    second.load(tmp_path)
    for step in (1, 2):
        first.step(gradients(step), learning_rate=1e-2)
        second.step(gradients(step), learning_rate=1e-2)
    assert all(np.array_equal(straight[name].asnumpy(), resumed[name].asnumpy()) for name in straight)
    assert second.steps == 3


def test_a_state_can_be_loaded_over_a_running_one(tmp_path: Path) -> None:
    named = parameters()
    optimizer = adam(named)
    optimizer.step(gradients(0), learning_rate=1e-2)
    optimizer.save(tmp_path)
    saved = {name: weight.asnumpy().copy() for name, weight in named.items()}
    optimizer.step(gradients(1), learning_rate=1e-2)
    after = named["a"].asnumpy().copy()
    optimizer.load(tmp_path)
    for name, weight in named.items():
        overwrite(weight, Tensor(saved[name]))
    optimizer.step(gradients(1), learning_rate=1e-2)
    assert np.array_equal(named["a"].asnumpy(), after)


def test_a_state_before_the_first_step_is_saved_and_loaded(tmp_path: Path) -> None:
    adam(parameters()).save(tmp_path)
    optimizer = adam(parameters())
    optimizer.load(tmp_path)
    assert (optimizer.steps, optimizer.named_state()) == (0, {})


def test_a_state_of_other_weights_is_refused(tmp_path: Path) -> None:
    optimizer = adam(parameters())
    optimizer.step(gradients(0), learning_rate=1e-2)
    optimizer.save(tmp_path)
    with pytest.raises(CheckpointError, match="tensors differ: average/c, square_average/c"):
        adam({name: weight for name, weight in parameters().items() if name != "c"}).load(tmp_path)
    (tmp_path / "optimizer.json").write_text(json.dumps({}))
    with pytest.raises(CheckpointError, match="does not hold this optimizer's state"):
        adam(parameters()).load(tmp_path)


@pytest.mark.parametrize("on_host", [True, False])
def test_the_norm_keeps_its_digits_over_a_million_numbers(on_host: bool) -> None:
    random = np.random.default_rng(0)
    big, small = random.normal(size=(1024, 1024)).astype(np.float32), random.normal(size=3).astype(np.float32)
    expected = np.sqrt(np.square(big, dtype=np.float64).sum() + np.square(small, dtype=np.float64).sum())
    assert gradient_norm([Tensor(big), Tensor(small)], on_host=on_host) == pytest.approx(expected, rel=1e-6)
    assert np.isnan(gradient_norm([Tensor(big * np.float32("nan")), Tensor(small)], on_host=on_host))
