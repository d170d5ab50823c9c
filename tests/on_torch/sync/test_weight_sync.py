"""Weight sync from policy to engine: shared memory, merged adapters, and a difference that stops the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.batches.online import build_batch
from mindrlhf_grpo.errors import BackendError, RunFailed
from tests.support.tiny_engine import Letters, by_request, make_engine, make_prompts, own_logps, sampling
from tests.support.tiny_engine import tokens as tokens_of
from tests.support.tiny_policy import load_policy, make_batch, make_model, weighted_loss, write_model

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from mindrlhf_grpo_torch.generation.engine import build_engine  # noqa: E402
from mindrlhf_grpo_torch.sync.weight_sync import build_weight_sync  # noqa: E402

torch.set_num_threads(1)


def parts(folder: Path, family: str = "llama", **model: Any) -> tuple[Any, Any, Any]:
    policy = load_policy(write_model(folder, family), **model)
    engine = build_engine(policy.config, policy, Letters())
    return policy, engine, build_weight_sync(policy, engine)


def train(policy: Any, steps: int = 3) -> None:
    for seed in range(steps):
        policy.update(make_batch(seed=seed), weighted_loss, learning_rate=0.02)


@pytest.mark.parametrize(("family", "lora_rank"), [("llama", 0), ("llama", 3), ("gpt2", 0), ("gpt2", 3)])
def test_after_training_the_engine_samples_from_the_policy(tmp_path: Path, family: str, lora_rank: int) -> None:
    policy, engine, sync = parts(tmp_path, family, lora_rank=lora_rank)
    assert engine.decoder_name == ("fused" if family == "llama" else "cached")
    sync.push(0)
    before = tokens_of(engine.generate(make_prompts(), sampling(), group_size=2))
    train(policy)
    sync.push(4)
    assert engine.fingerprint() == policy.fingerprint()
    groups = engine.generate(make_prompts(), sampling(), group_size=2)
    assert tokens_of(groups) != before
    for group in groups:
        for rollout in group.rollouts:
            assert rollout.weight_version == 4
            expected = own_logps(policy.model, group.prompt, rollout)
            np.testing.assert_allclose(rollout.logps, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("lora_rank", [0, 3])
def test_sampled_logps_equal_the_policys_training_logps(tmp_path: Path, lora_rank: int) -> None:
    policy, engine, sync = parts(tmp_path, lora_rank=lora_rank)
    train(policy)
    sync.push(1)
    groups = engine.generate(make_prompts(), sampling(temperature=0.8), group_size=3)
    rollouts = list(by_request(groups).values())
    longest = max(len(rollout.ids) for rollout in rollouts)
    mask = (np.arange(longest) < np.array([[len(rollout.ids)] for rollout in rollouts])).astype(np.float32)
    batch = build_batch(groups, np.zeros_like(mask), weights=mask, temperature=0.8, mask=mask)
    gap = (policy.logps(batch).logps - batch.rollout_logps) * mask
    assert np.abs(gap).max() < 1e-4


def test_a_lora_engine_keeps_its_own_merged_weights(tmp_path: Path) -> None:
    policy, engine, sync = parts(tmp_path, lora_rank=3, lora_targets=["q_proj", "down_proj"])
    train(policy)
    held, name = engine.decoder.weights(), "model.layers.0.self_attn.q_proj.weight"
    plain = policy.model.get_base_model().model.layers[0].self_attn
    stale = held[name].clone()
    sync.push(1)
    assert not torch.equal(held[name], stale)
    assert held[name].data_ptr() != plain.q_proj.base_layer.weight.data_ptr()
    assert held["model.layers.0.self_attn.k_proj.weight"].data_ptr() == plain.k_proj.weight.data_ptr()


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_bfloat16_weights_arrive_too(tmp_path: Path, lora_rank: int) -> None:
    policy, engine, sync = parts(tmp_path, dtype="bfloat16", lora_rank=lora_rank)
    before = policy.fingerprint()
    train(policy)
    sync.push(1)
    assert engine.fingerprint() == policy.fingerprint() != before


def test_policy_weights_put_elsewhere_are_copied(tmp_path: Path) -> None:
    policy, engine, sync = parts(tmp_path)
    norm = policy.model.model.layers[1].mlp.up_proj
    norm.weight.data = norm.weight.data.clone() * 1.5
    with pytest.raises(RunFailed, match=r"model\.layers\.1\.mlp\.up_proj\.weight differs between engine and policy"):
        sync.verify()
    sync.push(2)
    assert engine.fingerprint() == policy.fingerprint()
    assert engine.weight_version == 2


def test_the_first_corrupted_weight_is_named(tmp_path: Path) -> None:
    _, engine, sync = parts(tmp_path, lora_rank=2)
    sync.push(1)
    engine.decoder.weights()["model.layers.1.self_attn.v_proj.weight"][3, 4] += 1e-6
    with pytest.raises(RunFailed, match=r"model\.layers\.1\.self_attn\.v_proj\.weight differs"):
        sync.verify()


def test_a_copy_that_fails_stops_the_run_and_keeps_the_version(tmp_path: Path, monkeypatch: Any) -> None:
    policy, engine, sync = parts(tmp_path, lora_rank=2)
    train(policy, 1)
    monkeypatch.setattr(torch.Tensor, "copy_", lambda target, source: target)
    with pytest.raises(RunFailed, match="differs between engine and policy after the sync"):
        sync.push(9)
    assert engine.weight_version == 0


def test_a_weight_the_engine_does_not_know_is_named(tmp_path: Path) -> None:
    _, engine, sync = parts(tmp_path)
    del engine.decoder.tensors.named["model.norm.weight"]
    with pytest.raises(RunFailed, match=r"model\.norm\.weight of the policy is unknown"):
        sync.push(1)


def test_an_engine_on_another_model_cannot_be_synced(tmp_path: Path) -> None:
    policy = load_policy(write_model(tmp_path, "gpt2"))
    with pytest.raises(RunFailed, match="another model"):
        build_weight_sync(policy, make_engine(make_model("gpt2"))).push(1)
    with pytest.raises(BackendError, match="not to object"):
        build_weight_sync(policy, object())


def test_an_engine_without_a_policy_loads_the_model(tmp_path: Path) -> None:
    policy, engine, _ = parts(tmp_path)
    alone = build_engine(policy.config, None, Letters())
    ours, theirs = (tokens_of(e.generate(make_prompts(), sampling(), group_size=2)) for e in (engine, alone))
    assert ours == theirs
