"""Storages that leave the device: their views come back intact, and offloaded values read as NaN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.tiny_engine import make_engine, make_prompts, sampling, tokens
from tests.support.tiny_policy import load_policy, make_batch, weighted_loss, write_model

torch = pytest.importorskip("torch")


def test_views_of_one_storage_move_once_and_come_back_bit_for_bit() -> None:
    from mindrlhf_grpo_torch.sync.swap import DeviceMemory

    whole = torch.randn(6, 4)
    parts = list(whole.split(2))
    before, place = whole.clone(), whole.data_ptr()
    memory = DeviceMemory(lambda: parts, torch.device("cpu"))
    assert memory.device_bytes() == 96
    memory.offload()
    assert torch.isnan(whole).all()
    memory.load()
    assert torch.equal(whole, before)
    assert whole.data_ptr() == place
    assert memory.away == []


def test_an_engine_on_the_policys_weights_leaves_and_returns_with_them(tmp_path: Path) -> None:
    policy = load_policy(write_model(tmp_path))
    engine = make_engine(policy.model)
    roles = {**policy.roles(), **engine.roles()}
    expected = tokens(engine.generate(make_prompts(), sampling(), group_size=2))
    assert roles["engine"].device_bytes() == 0
    assert roles["kv_cache"].device_bytes() > 0
    roles["kv_cache"].offload()
    assert roles["kv_cache"].device_bytes() == 0
    digest = policy.fingerprint()
    roles["weights"].offload()
    assert np.isnan(policy.logps(make_batch()).logps[0, 0])
    assert policy.fingerprint() != digest
    roles["weights"].load()
    assert policy.fingerprint() == digest
    assert tokens(engine.generate(make_prompts(), sampling(), group_size=2)) == expected


def test_merged_adapters_are_the_engines_own(tmp_path: Path) -> None:
    policy = load_policy(write_model(tmp_path), lora_rank=2, lora_targets=["down_proj"])
    engine = make_engine(policy.model)
    assert engine.roles()["engine"].device_bytes() == 2 * 4 * 32 * 48  # float32, of two layers


def test_weights_optimizer_and_reference_move_between_updates_without_a_trace(tmp_path: Path) -> None:
    plain, swapped = (load_policy(write_model(tmp_path), train={"weight_decay": 0.1}) for _ in range(2))
    assert results(plain, []) == results(swapped, list(swapped.roles().values()))
    sizes = {name: role.device_bytes() for name, role in swapped.roles().items()}
    assert sizes["optimizer"] == 2 * sizes["weights"] == 2 * sizes["reference"]


def results(policy: Any, roles: list[Any]) -> list[Any]:
    """Two updates with everything away before and between them."""
    found: list[Any] = []
    for seed in range(2):
        for role in roles:
            role.offload()
        for role in roles:
            role.load()
        batch = make_batch(seed=seed)
        found.append(policy.logps(batch, reference=True).logps.tolist())
        found.append(policy.update(batch, weighted_loss, learning_rate=1e-2))
        found.append(policy.fingerprint())
    return found
