"""One optimizer step, log-probs, the reference, saving and exact resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.errors import BackendError, RunFailed
from tests.support.tiny_policy import load_policy, make_batch, own_logps, weighted_loss, write_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), "qwen2")


@pytest.fixture(scope="module")
def bfloat16_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), "qwen2", dtype="bfloat16")


def step(policy: Any, seed: int = 0, **settings: Any) -> Any:
    return policy.update(make_batch(seed=seed), weighted_loss, **{"learning_rate": 1e-2, **settings})


def weights(policy: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in policy.trainable.items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_and_entropies_are_transformers_own(folder: Path, temperature: float) -> None:
    policy, batch = load_policy(folder), make_batch(temperature=temperature)
    found = policy.logps(batch, entropy=True)
    assert found.logps.dtype == np.float32
    assert np.abs(found.logps - own_logps(policy.model, batch)).max() < 2e-5
    assert found.entropy is not None
    assert (found.entropy[batch.mask == 1] > 0).all()
    assert (found.entropy[batch.mask == 0] == 0).all()
    assert policy.logps(batch).entropy is None


@pytest.mark.parametrize("layout", ["shared", "plain"])
def test_an_update_equals_plain_torch_training(folder: Path, layout: str) -> None:
    policy = load_policy(folder, layout=layout, train={"max_grad_norm": 0.5, "weight_decay": 0.1})
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model.get_input_embeddings().padding_idx = None  # token 0 is a token like any other: masks come from lengths
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    for seed in range(2):
        batch = make_batch(seed=seed)
        logps = torch.zeros(batch.ids.shape)
        for row, length in enumerate(batch.lengths):
            prompt = batch.prompts[batch.prompt_of[row]]
            ids = torch.tensor(np.concatenate([prompt, batch.ids[row, :length]])[None]).long()
            every = torch.log_softmax(model(input_ids=ids).logits[0], -1)[len(prompt) - 1 : -1]
            logps[row, :length] = every.gather(1, ids[0, len(prompt) :, None])[:, 0]
        from mindrlhf_grpo_torch import xp

        value, _ = weighted_loss(xp, logps, {name: torch.from_numpy(x) for name, x in batch.loss_tensors().items()})
        optimizer.zero_grad()
        value.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        result = policy.update(batch, weighted_loss, learning_rate=1e-2)
        assert result.loss == pytest.approx(value.item(), rel=1e-5)
        assert result.grad_norm == pytest.approx(norm.item(), rel=1e-5)
        assert result.sums["tokens"] == batch.mask.sum()
        assert result.sums["max/surprise"] == pytest.approx(-logps.min().item(), rel=1e-5)
        assert result.sums["logps"] == pytest.approx(logps.sum().item(), rel=1e-5)
    for name, weight in model.named_parameters():
        assert torch.allclose(policy.trainable[name], weight, atol=2e-5), name


def test_a_row_without_a_trained_token_changes_nothing(folder: Path) -> None:
    one, other = load_policy(folder), load_policy(folder)
    batch = make_batch()
    batch.mask[2] = 0
    batch.weights[2] = 0
    rest = [row for row in range(len(batch)) if row != 2]
    first = one.update(batch, weighted_loss, learning_rate=1e-2)
    second = other.update(batch.take(rest), weighted_loss, learning_rate=1e-2)
    assert first == second
    assert equal(weights(one), weights(other))


def test_an_empty_batch_still_takes_part(folder: Path) -> None:
    policy = load_policy(folder)
    empty = make_batch().take([])
    result = policy.update(empty, weighted_loss, learning_rate=1e-2)
    assert (result.loss, result.grad_norm, dict(result.sums)) == (0.0, 0.0, {"tokens": 0.0, "entropy": 0.0})
    assert policy.logps(empty).logps.shape == (0, 0)


def test_a_gradient_that_is_not_finite_stops_before_the_step(folder: Path) -> None:
    policy = load_policy(folder)
    before = weights(policy)
    batch = make_batch()
    batch.advantages[0, 0] = np.nan
    with pytest.raises(RunFailed, match="gradient norm is nan"):
        policy.update(batch, weighted_loss, learning_rate=1e-2)
    assert equal(before, weights(policy))
    assert all(weight.grad is None for weight in policy.trainable.values())


def test_dropout_of_the_model_is_off(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "gpt2")
    config = json.loads((folder / "config.json").read_text())
    assert config["attn_pdrop"] == config["resid_pdrop"] == 0.1
    policy = load_policy(folder, recompute=True)
    assert step(policy, learning_rate=1e-12).loss == step(policy, learning_rate=1e-12).loss


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_the_reference_stays_at_the_initial_weights(folder: Path, lora_rank: int) -> None:
    policy, batch = load_policy(folder, lora_rank=lora_rank), make_batch()
    initial = policy.logps(batch).logps
    step(policy)
    assert np.array_equal(policy.logps(batch, reference=True).logps, initial)
    assert np.abs(policy.logps(batch).logps - initial).max() > 1e-3
    step(policy)  # the adapter is trainable again after the reference was read


def test_no_reference_is_loaded_unless_it_is_read(folder: Path) -> None:
    policy = load_policy(folder)
    policy.logps(make_batch())
    assert policy.reference.frozen is None


class EntropyBonus:
    """A loss that reads entropies: ``weight`` times their weighted sum is taken off ``weighted_loss``."""

    reads_entropy = True
    reads_values = False

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, xp: Any, logps: Any, tensors: Any) -> tuple[Any, dict[str, Any]]:
        value, sums = weighted_loss(xp, logps, tensors)
        return value - self.weight * xp.sum(tensors["entropies"] * tensors["weights"]), sums


@pytest.mark.parametrize("layout", ["shared", "plain"])
def test_a_loss_that_reads_entropies_is_given_them_with_gradient(folder: Path, layout: str) -> None:
    from mindrlhf_grpo_torch import xp

    policy, batch = load_policy(folder, layout=layout), make_batch(temperature=0.7)
    own = transformers.AutoModelForCausalLM.from_pretrained(folder)
    own.get_input_embeddings().padding_idx = None
    logps, entropies = torch.zeros(batch.ids.shape), torch.zeros(batch.ids.shape)
    for row, length in enumerate(batch.lengths):
        prompt = batch.prompts[batch.prompt_of[row]]
        ids = torch.tensor(np.concatenate([prompt, batch.ids[row, :length]])[None]).long()
        every = torch.log_softmax(own(input_ids=ids).logits[0] / 0.7, -1)[len(prompt) - 1 : -1]
        logps[row, :length] = every.gather(1, ids[0, len(prompt) :, None])[:, 0]
        entropies[row, :length] = -(every.exp() * every).sum(-1)
    tensors = {name: torch.from_numpy(x) for name, x in batch.loss_tensors().items()} | {"entropies": entropies}
    value, _ = EntropyBonus(0.5)(xp, logps, tensors)
    value.backward()
    parts = policy.backward_all(batch, EntropyBonus(0.5))
    assert sum(part["loss"] for part in parts) == pytest.approx(value.item(), rel=1e-5)
    for name, weight in own.named_parameters():
        assert (policy.trainable[name].grad - weight.grad).norm() < 1e-5 * weight.grad.norm(), name
    policy.drop_gradients()


def test_further_batches_join_the_step_and_have_sums_of_their_own(folder: Path) -> None:
    one, other, both = (load_policy(folder) for _ in range(3))
    first, second = make_batch(seed=0), make_batch(seed=1)
    one.backward_all(first, weighted_loss)
    one.backward_all(second, EntropyBonus(0.5))
    expected = {name: weight.grad.clone() for name, weight in one.trainable.items()}
    norm = float(torch.stack([gradient.double().norm() for gradient in expected.values()]).norm())
    alone = load_policy(folder).update(first, weighted_loss, learning_rate=1e-2)
    further = other.update(second, EntropyBonus(0.5), learning_rate=1e-2)
    result = both.update(first, weighted_loss, learning_rate=1e-2, also=[(second, EntropyBonus(0.5))])
    assert result.grad_norm == pytest.approx(norm, rel=1e-6)
    assert result.loss == pytest.approx(alone.loss + further.loss, rel=1e-6)
    assert result.sums == alone.sums
    assert result.also == (further.sums,)
    empty = make_batch().take([])
    again = load_policy(folder).update(empty, weighted_loss, learning_rate=1e-2, also=[(first, weighted_loss)])
    assert (again.loss, again.also) == (alone.loss, (alone.sums,))


def test_the_reference_moves_by_its_share_of_the_policy(folder: Path, tmp_path: Path) -> None:
    policy = load_policy(folder)
    step(policy)
    policy.save_state(tmp_path / "untouched")
    assert not (tmp_path / "untouched" / "reference.safetensors").exists()
    policy.sync_reference(0.25)
    initial = weights(load_policy(folder))
    moved = dict(policy.reference.frozen.model.named_parameters())
    for name, weight in policy.trainable.items():
        assert torch.allclose(moved[name], 0.25 * weight + 0.75 * initial[name], atol=1e-7), name
    policy.sync_reference(1.0)
    assert all(torch.equal(moved[name], weight) for name, weight in policy.trainable.items())
    step(policy, 1)
    assert not any(torch.equal(moved[name], weight) for name, weight in policy.trainable.items())
    with pytest.raises(ValueError, match="share must be above 0 and at most 1, not 0"):
        policy.sync_reference(0.0)


def test_a_moved_reference_is_kept_over_a_resume(folder: Path, tmp_path: Path) -> None:
    policy, batch = load_policy(folder), make_batch()
    initial = policy.logps(batch, reference=True).logps
    step(policy)
    policy.sync_reference(0.5)
    moved = policy.logps(batch, reference=True).logps
    assert np.abs(moved - initial).max() > 1e-3
    policy.save_model(tmp_path / "model")
    policy.save_state(tmp_path / "state")
    resumed = load_policy(folder)
    resumed.load_state(tmp_path / "model", tmp_path / "state")
    assert np.array_equal(resumed.logps(batch, reference=True).logps, moved)
    other = load_policy(folder)
    step(other)
    other.save_model(tmp_path / "model")
    other.save_state(tmp_path / "state")  # over a state with a reference
    resumed.load_state(tmp_path / "model", tmp_path / "state")
    assert np.array_equal(resumed.logps(batch, reference=True).logps, initial)


def test_a_reference_of_lora_cannot_be_moved(folder: Path) -> None:
    with pytest.raises(BackendError, match="cannot be moved with LoRA: it is the model without adapters"):
        load_policy(folder, lora_rank=2).sync_reference(1.0)


@pytest.mark.parametrize("lora_rank", [0, 4])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_resume_is_bit_identical(
    folder: Path, bfloat16_folder: Path, tmp_path: Path, dtype: str, lora_rank: int
) -> None:
    path = folder if dtype == "float32" else bfloat16_folder
    straight = load_policy(path, dtype=dtype, lora_rank=lora_rank)
    for seed in range(2):
        step(straight, seed)
    straight.save_model(tmp_path / "policy")
    straight.save_state(tmp_path / "optimizer")
    resumed = load_policy(path, dtype=dtype, lora_rank=lora_rank)
    places = [weight.data_ptr() for weight in resumed.trainable.values()]
    resumed.load_state(tmp_path / "policy", tmp_path / "optimizer")
    assert places == [weight.data_ptr() for weight in resumed.trainable.values()]
    assert resumed.fingerprint() == straight.fingerprint()
    for seed in range(2, 4):
        assert step(straight, seed) == step(resumed, seed)
    assert equal(weights(straight), weights(resumed))
    assert resumed.fingerprint() == straight.fingerprint()


def test_the_fingerprint_follows_every_update(folder: Path) -> None:
    policy = load_policy(folder, lora_rank=2)
    before = policy.fingerprint()
    assert policy.fingerprint() == before
    assert before == load_policy(folder).fingerprint()  # a fresh adapter adds nothing
    step(policy)
    assert policy.fingerprint() != before


def test_adapters_are_the_same_for_a_seed(folder: Path) -> None:
    assert equal(weights(load_policy(folder, lora_rank=2)), weights(load_policy(folder, lora_rank=2)))
