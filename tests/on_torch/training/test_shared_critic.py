"""A critic that is a head on the policy's body: one forward pass reads both, one step trains both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.losses import PolicyLoss, ValueLoss
from mindrlhf_grpo.losses.xp import NUMPY
from mindrlhf_grpo.types import Batch
from tests.support.tiny_policy import make_batch, run_config, write_model

torch = pytest.importorskip("torch")

VALUE = ValueLoss(clip=0.2, coef=0.5, reads_values=True)


def load(folder: Path) -> Any:
    from mindrlhf_grpo_torch import build

    config = run_config(folder)
    return build(type(config).model_validate({**config.model_dump(), "critic": {"shared": True}})).load_policy()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


def ready(policy: Any) -> Batch:
    """A batch with what both losses read."""
    batch = make_batch()
    values = policy.values(batch)
    tensors = {"returns": (values + 1).astype(np.float32), "old_values": values}
    return replace(batch, old_logps=policy.logps(batch).logps, tensors=tensors)


@pytest.mark.row("mindrlhf", "PPO")
def test_values_are_the_head_on_the_state_before_each_token(folder: Path) -> None:
    policy, batch = load(folder), make_batch()
    found = policy.values(batch)
    head = policy.trainable["score.weight"].detach().numpy()
    for row, length in enumerate(batch.lengths):
        prompt = batch.prompts[batch.prompt_of[row]]
        ids = torch.tensor(np.concatenate([prompt, batch.ids[row, :length]])[None]).long()
        with torch.no_grad():
            hidden = policy.model.model(input_ids=ids).last_hidden_state[0, len(prompt) - 1 : -1].numpy()
        np.testing.assert_allclose(found[row, :length], hidden @ head[0], rtol=0, atol=1e-5)
    assert (found[batch.mask == 0] == 0).all()


@pytest.mark.row("mindrlhf", "PPO")
def test_one_step_has_the_gradients_of_both_losses(folder: Path) -> None:
    surrogate = PolicyLoss()
    gradients = {}
    for name, losses in {"policy": [surrogate], "value": [VALUE], "both": [surrogate, VALUE]}.items():
        policy = load(folder)
        batch = ready(policy)
        for loss in losses:
            policy.backward_all(batch, loss)
        gradients[name] = {
            key: 0 if weight.grad is None else weight.grad.clone() for key, weight in policy.trainable.items()
        }
    for key, both in gradients["both"].items():
        np.testing.assert_allclose(both, gradients["policy"][key] + gradients["value"][key], rtol=1e-5, atol=1e-6)
    assert float(gradients["both"]["score.weight"].abs().sum()) > 0


def test_a_step_moves_values_towards_returns_and_resumes_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    policy = load(folder)
    batch = ready(policy)
    result = policy.update(batch, PolicyLoss(), learning_rate=0.01, also=[(batch, VALUE)])
    assert result.also[0]["value_error"] == pytest.approx(float(batch.mask.sum()), rel=1e-5)
    before = policy.values(batch)
    assert (before - batch.tensors["old_values"])[batch.mask > 0].mean() > 0
    (tmp_path / "state").mkdir()
    policy.save_model(tmp_path / "policy")
    policy.save_state(tmp_path / "state")
    other = load(folder)
    other.load_state(tmp_path / "policy", tmp_path / "state")
    assert np.array_equal(other.values(batch), before)
    for one in (policy, other):
        one.update(batch, PolicyLoss(), learning_rate=0.01, also=[(batch, VALUE)])
    assert np.array_equal(other.values(batch), policy.values(batch))


def test_the_coefficient_is_a_factor_of_the_loss() -> None:
    tensors = {"mask": np.ones((1, 2)), "weights": np.full((1, 2), 0.5), "returns": np.array([[1.0, 3.0]])}
    losses = [ValueLoss(clip=0, coef=coef)(NUMPY, np.zeros((1, 2)), tensors)[0] for coef in (1.0, 0.5)]
    assert losses == [2.5, 1.25]


def test_a_shared_critic_has_nothing_of_its_own(folder: Path) -> None:
    config = run_config(folder).model_dump()
    with pytest.raises(ValueError, match=r"critic\.path does not go with critic\.shared"):
        type(run_config(folder)).model_validate({**config, "critic": {"shared": True, "path": "elsewhere"}})
