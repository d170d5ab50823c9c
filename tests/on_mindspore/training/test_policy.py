"""The trained model against torch's: log-probs, losses, gradients, twenty optimizer steps, and exact resume."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from tests.support import tiny_policy

pytest.importorskip("mindspore")
pytest.importorskip("torch")

import mindrlhf_grpo_mindspore
import mindrlhf_grpo_torch

from mindrlhf_grpo.errors import BackendError, RunFailed
from mindrlhf_grpo.losses import PolicyLoss

LORA = {"lora_rank": 4, "lora_alpha": 8}
LOSS = PolicyLoss(kl_coef=0.1, clip_high=0.3, dual_clip=3.0)
LOSS_WITHOUT_REFERENCE = PolicyLoss()
STEPS = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_policy.write_model(tmp_path_factory.mktemp("policy") / "model")


@pytest.fixture(scope="module")
def shallow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One layer: half the time to compile, where depth has nothing to show."""
    return tiny_policy.write_model(tmp_path_factory.mktemp("policy") / "shallow", num_hidden_layers=1)


class Pair:
    """The same configuration on both backends."""

    def __init__(self, folder: Path, *, train: dict[str, Any] | None = None, **model: Any) -> None:
        config = tiny_policy.run_config(folder, train=train, **{"device": "cpu", **model})
        self.backends = [module.build(config) for module in (mindrlhf_grpo_torch, mindrlhf_grpo_mindspore)]
        self.policies = [backend.load_policy() for backend in self.backends]

    def weights(self) -> list[dict[str, Any]]:
        return [backend.inspect(policy).weights() for backend, policy in zip(self.backends, self.policies, strict=True)]


def learned_from(policy: Any, batch: Any) -> Any:
    """The batch with old and reference log-probs from this policy."""
    return replace(
        batch, old_logps=policy.logps(batch).logps - 0.05, ref_logps=policy.logps(batch, reference=True).logps - 0.1
    )


def assert_close(one: dict[str, Any], other: dict[str, Any], tolerance: float) -> None:
    """Every tensor, relative to its norm."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert np.linalg.norm(tensor - other[name]) <= tolerance * max(np.linalg.norm(tensor), 1e-8), name


PLAIN = pytest.param({"layout": "plain"}, marks=pytest.mark.slow, id="plain")
# conformance: adapters_are_computed_and_alone_are_trained
ADAPTED = pytest.param(LORA, marks=pytest.mark.slow, id="lora")


@pytest.mark.parametrize("model", [pytest.param({}, id="shared"), PLAIN, ADAPTED])
def test_log_probs_gradients_and_twenty_steps_equal_torchs(folder: Path, model: dict[str, Any]) -> None:
    pair = Pair(folder, **model)
    theirs, ours = pair.policies
    batch = tiny_policy.make_batch(temperature=0.8)
    expected, found = (policy.logps(batch, entropy=True) for policy in (theirs, ours))
    np.testing.assert_allclose(found.logps, expected.logps, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.entropy, expected.entropy, rtol=1e-5, atol=0)

    batch = learned_from(theirs, batch)
    inspections = [backend.inspect(policy) for backend, policy in zip(pair.backends, pair.policies, strict=True)]
    (loss, gradients), (our_loss, our_gradients) = (inside.gradients(batch, LOSS) for inside in inspections)
    assert our_loss == pytest.approx(loss, abs=1e-5)
    assert_close(gradients, our_gradients, 1e-4)

    for step in range(STEPS):
        wanted, got = (policy.update(batch, LOSS, learning_rate=1e-3) for policy in (theirs, ours))
        assert got.loss == pytest.approx(wanted.loss, abs=1e-4), step
        assert got.grad_norm == pytest.approx(wanted.grad_norm, rel=1e-3), step
        assert got.sums.keys() == wanted.sums.keys()
        for name, value in wanted.sums.items():
            assert got.sums[name] == pytest.approx(value, rel=1e-3, abs=1e-3), (step, name)
    assert_close(*pair.weights(), 1e-4)


@pytest.mark.slow  # conformance: gradients_do_not_depend_on_micro_batches
def test_the_size_of_micro_batches_does_not_change_the_update(shallow: Path) -> None:
    results = []
    for budget in (1, 24, 8192):
        config = tiny_policy.run_config(shallow, train={"tokens_per_micro_batch": budget}, device="cpu")
        backend = mindrlhf_grpo_mindspore.build(config)
        policy = backend.load_policy()
        batch = tiny_policy.make_batch()
        result = policy.update(batch, LOSS_WITHOUT_REFERENCE, learning_rate=1e-3)
        results.append((len(policy.micro_batches(batch)), result, backend.inspect(policy).weights()))
    parts = [parts for parts, *_ in results]
    assert (parts[0], parts[-1]) == (6, 1)
    for _, result, weights in results[:-1]:
        assert result.loss == pytest.approx(results[-1][1].loss, rel=1e-6)
        assert_close(results[-1][2], weights, 1e-5)


@dataclass(frozen=True)
class EntropyBonus:
    """Reads entropies: half their weighted sum is taken off the weighted log-probs."""

    reads_entropy: ClassVar[bool] = True
    reads_values: ClassVar[bool] = False

    def __call__(self, xp: Any, logps: Any, tensors: Any) -> tuple[Any, dict[str, Any]]:
        entropies = tensors["entropies"]
        total = xp.sum((logps * tensors["advantages"] - 0.5 * entropies) * tensors["weights"])
        return total, {"spread": xp.sum(xp.stop_gradient(entropies) * tensors["mask"])}


def test_further_batches_and_losses_that_read_entropies_join_a_step_as_on_torch(shallow: Path) -> None:
    pair = Pair(shallow)
    first, second = tiny_policy.make_batch(seed=0, temperature=0.8), tiny_policy.make_batch(seed=1)
    for _ in range(2):
        wanted, got = (
            policy.update(first, LOSS_WITHOUT_REFERENCE, learning_rate=1e-3, also=[(second, EntropyBonus())])
            for policy in pair.policies
        )
        assert got.loss == pytest.approx(wanted.loss, rel=1e-5)
        assert got.grad_norm == pytest.approx(wanted.grad_norm, rel=1e-4)
        for theirs, ours in zip((wanted.sums, *wanted.also), (got.sums, *got.also), strict=True):
            assert ours.keys() == theirs.keys()
            for name, value in theirs.items():
                assert ours[name] == pytest.approx(value, rel=1e-4, abs=1e-4), name
    assert [sums["tokens"] for sums in (got.sums, *got.also)] == [first.mask.sum(), second.mask.sum()]


def test_a_reference_moves_as_on_torch_and_is_kept_over_a_resume(shallow: Path, tmp_path: Path) -> None:
    pair, batch = Pair(shallow), tiny_policy.make_batch()
    theirs, ours = pair.policies
    initial = ours.logps(batch, reference=True).logps
    for policy in pair.policies:
        policy.update(batch, LOSS_WITHOUT_REFERENCE, learning_rate=1e-3)
    ours.save_model(tmp_path / "model")
    ours.save_state(tmp_path / "state")
    for policy in pair.policies:
        policy.sync_reference(0.25)
        policy.sync_reference(0.5)
    moved = ours.logps(batch, reference=True).logps  # what was compiled before reads the moved weights
    assert np.abs(moved - initial).max() > 1e-3
    np.testing.assert_allclose(moved, theirs.logps(batch, reference=True).logps, rtol=0, atol=1e-4)
    ours.save_model(tmp_path / "later")
    ours.save_state(tmp_path / "later")
    ours.load_state(tmp_path / "model", tmp_path / "state")
    assert np.array_equal(ours.logps(batch, reference=True).logps, initial)
    ours.load_state(tmp_path / "later", tmp_path / "later")
    assert np.array_equal(ours.logps(batch, reference=True).logps, moved)
    ours.sync_reference(1.0)
    assert np.array_equal(ours.logps(batch, reference=True).logps, ours.logps(batch).logps)
    with pytest.raises(ValueError, match="share must be above 0"):
        ours.sync_reference(0.0)


def test_a_reference_of_lora_cannot_be_moved(folder: Path) -> None:
    policy = mindrlhf_grpo_mindspore.build(tiny_policy.run_config(folder, device="cpu", **LORA)).load_policy()
    with pytest.raises(BackendError, match="cannot be moved with LoRA: it is the model without adapters"):
        policy.sync_reference(1.0)


# conformance resumes a full policy
FULL = pytest.param({}, marks=pytest.mark.slow, id="full")


@pytest.mark.parametrize("model", [FULL, pytest.param(LORA, id="lora")])
def test_a_restored_policy_goes_on_bit_for_bit(shallow: Path, tmp_path: Path, model: dict[str, Any]) -> None:
    config = tiny_policy.run_config(shallow, device="cpu", **model)
    batch = tiny_policy.make_batch()
    whole, fresh = (mindrlhf_grpo_mindspore.build(config).load_policy() for _ in range(2))
    for _ in range(2):
        whole.update(batch, LOSS_WITHOUT_REFERENCE, learning_rate=1e-3)
    (tmp_path / "policy").mkdir()
    whole.save_model(tmp_path / "policy")
    whole.save_state(tmp_path / "state")
    saved = whole.fingerprint()
    as_model = tiny_policy.run_config(tmp_path / "policy", device="cpu")  # an adapter stands for the merged model
    assert mindrlhf_grpo_mindspore.build(as_model).load_policy().fingerprint() == saved
    fresh.load_state(tmp_path / "policy", tmp_path / "state")
    for policy in (whole, fresh):
        for _ in range(2):
            policy.update(batch, LOSS_WITHOUT_REFERENCE, learning_rate=1e-3)
    assert fresh.fingerprint() == whole.fingerprint() != saved


def test_a_gradient_that_is_not_finite_leaves_the_weights(shallow: Path) -> None:
    policy = mindrlhf_grpo_mindspore.build(tiny_policy.run_config(shallow, device="cpu")).load_policy()
    before = policy.fingerprint()
    batch = tiny_policy.make_batch()
    batch.advantages[0, 0] = np.inf
    with pytest.raises(RunFailed, match="the update was not made"):
        policy.update(batch, LOSS_WITHOUT_REFERENCE, learning_rate=1e-3)
    assert policy.fingerprint() == before


def test_every_rank_may_come_with_an_empty_batch(folder: Path) -> None:
    policy = mindrlhf_grpo_mindspore.build(tiny_policy.run_config(folder, device="cpu")).load_policy()
    result = policy.update(tiny_policy.make_batch().take([]), LOSS_WITHOUT_REFERENCE, learning_rate=1e-3)
    assert (result.loss, result.grad_norm, result.sums["tokens"]) == (0.0, 0.0, 0.0)
