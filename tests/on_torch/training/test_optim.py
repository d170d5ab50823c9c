"""AdamW: equal to torch's in float32, master weights for bfloat16, exact resume."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from mindrlhf_grpo_torch.training.optim import AdamW, gradient_norm  # noqa: E402

from mindrlhf_grpo.config.run import AdamWConfig, TrainConfig  # noqa: E402
from mindrlhf_grpo.errors import CheckpointError  # noqa: E402

torch.set_num_threads(1)


def weights(dtype: torch.dtype = torch.float32) -> dict[str, torch.nn.Parameter]:
    torch.manual_seed(0)
    return {name: torch.nn.Parameter(torch.randn(shape).to(dtype)) for name, shape in {"a": (5, 3), "b": (7,)}.items()}


def set_gradients(named: dict[str, torch.nn.Parameter], step: int) -> None:
    torch.manual_seed(100 + step)
    for weight in named.values():
        weight.grad = torch.randn(weight.shape).to(weight.dtype)


def adam(named: dict[str, torch.nn.Parameter], *, weight_decay: float = 0.1) -> AdamW:
    return AdamW(named.items(), TrainConfig(betas=(0.9, 0.95), weight_decay=weight_decay))


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_five_float32_steps_equal_torch(weight_decay: float) -> None:
    ours, theirs = weights(), weights()
    optimizer = adam(ours, weight_decay=weight_decay)
    reference = torch.optim.AdamW(theirs.values(), lr=1e-2, betas=(0.9, 0.95), weight_decay=weight_decay, fused=True)
    for step in range(5):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        optimizer.step(learning_rate=1e-2)
        reference.step()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_vectors_are_left_out_of_the_decay_and_epsilon_is_as_asked() -> None:
    ours, theirs = weights(), weights()
    settings = TrainConfig(betas=(0.9, 0.95), weight_decay=0.1, adamw=AdamWConfig(decayed="matrices", epsilon=1e-3))
    optimizer = AdamW(ours.items(), settings)
    groups = [{"params": [theirs["a"]], "weight_decay": 0.1}, {"params": [theirs["b"]], "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), eps=1e-3, fused=True)
    for step in range(5):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        optimizer.step(learning_rate=1e-2)
        reference.step()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_first_step_moves_by_the_learning_rate_against_the_sign() -> None:
    named = {"a": torch.nn.Parameter(torch.tensor([1.0, -2.0]))}
    named["a"].grad = torch.tensor([0.5, -0.25])
    AdamW(named.items(), TrainConfig(betas=(0.9, 0.999), weight_decay=0.1)).step(learning_rate=0.1)
    assert named["a"].tolist() == pytest.approx([1 - 0.01 - 0.1, -2 + 0.02 + 0.1], abs=1e-6)


def test_a_gradient_scale_is_the_same_as_scaled_gradients() -> None:
    one, other = weights(), weights()
    first, second = adam(one), adam(other)
    for step in range(2):
        set_gradients(one, step)
        set_gradients(other, step)
        for weight in other.values():
            weight.grad *= 0.25
        first.step(learning_rate=1e-2, gradient_scale=0.25)
        second.step(learning_rate=1e-2)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_keep_their_storage_and_gradients_are_freed(dtype: torch.dtype) -> None:
    named = weights(dtype)
    fused = torch.cat([named["a"].detach(), torch.zeros(2, 3, dtype=dtype)])
    named["a"].data = fused[:5]
    before = fused.clone()
    optimizer = adam(named)
    set_gradients(named, 0)
    optimizer.step(learning_rate=1e-1)
    assert named["a"].data_ptr() == fused.data_ptr()
    assert not torch.equal(fused[:5], before[:5])
    assert torch.equal(fused[5:], before[5:])
    assert all(weight.grad is None for weight in named.values())


def test_bfloat16_follows_float32_masters_where_single_steps_round_away() -> None:
    named, exact = weights(torch.bfloat16), {}
    exact = {name: torch.nn.Parameter(weight.detach().float()) for name, weight in named.items()}
    optimizer, reference = adam(named), adam(exact)
    for _ in range(30):
        for weight in (*named.values(), *exact.values()):
            weight.grad = torch.ones_like(weight)
        optimizer.step(learning_rate=1e-4)
        reference.step(learning_rate=1e-4)
    assert all(torch.equal(named[name], exact[name].bfloat16()) for name in named)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resume_is_bit_identical(tmp_path: Path, dtype: torch.dtype) -> None:
    straight, stopped = weights(dtype), weights(dtype)
    first, second = adam(straight), adam(stopped)
    for step in range(3):
        for named, optimizer in ((straight, first), (stopped, second)):
            set_gradients(named, step)
            optimizer.step(learning_rate=1e-2)
    second.save(tmp_path)
    resumed = {name: torch.nn.Parameter(weight.detach().clone()) for name, weight in stopped.items()}
    third = adam(resumed)
    third.load(tmp_path)
    for step in range(3, 6):
        for named, optimizer in ((straight, first), (resumed, third)):
            set_gradients(named, step)
            optimizer.step(learning_rate=1e-2)
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    assert {path.name for path in tmp_path.iterdir()} == {"optimizer.safetensors", "optimizer.json"}


def test_a_state_of_other_weights_is_refused(tmp_path: Path) -> None:
    named = weights()
    set_gradients(named, 0)
    optimizer = adam(named)
    optimizer.step(learning_rate=1e-2)
    optimizer.save(tmp_path)
    with pytest.raises(CheckpointError, match="tensors differ: average/c"):
        adam({**weights(), "c": torch.nn.Parameter(torch.ones(1))}).load(tmp_path)
    (tmp_path / "optimizer.safetensors").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match="does not hold this optimizer's state"):
        adam(weights()).load(tmp_path)


def test_the_gradient_norm_is_that_of_all_gradients_as_one_vector() -> None:
    named = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))]
    named[0].grad, named[1].grad = torch.tensor([3.0, 4.0]), torch.tensor([12.0])
    assert gradient_norm(named) == pytest.approx(13.0)
