"""Parameters that leave the device on MindSpore and come back where compiled functions read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import tiny_policy

pytest.importorskip("mindspore")

import mindrlhf_grpo_mindspore
from mindrlhf_grpo_mindspore.graph import wait

from mindrlhf_grpo.parallel.residency import NEEDS, Residency


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tiny_policy.write_model(tmp_path_factory.mktemp("swap") / "model", num_hidden_layers=1)
    return mindrlhf_grpo_mindspore.build(tiny_policy.run_config(folder, device="cpu")).load_policy()


def results(policy: Any, residency: Residency) -> list[Any]:
    """Log-probs of policy and reference, and an update, twice; each in the phase that a run does it in."""
    found: list[Any] = []
    for seed in range(2):
        batch = tiny_policy.make_batch([(5, [3, 7]), (2, [4, 6])], seed=seed)
        residency.place("logps")
        found += [policy.logps(batch, reference=reference).logps.tolist() for reference in (False, True)]
        residency.place("update")
        found.append(policy.update(batch, tiny_policy.weighted_loss, learning_rate=1e-2))
        residency.place("sync")
        found.append(policy.fingerprint())
    return found


@pytest.mark.row("mindrlhf", "Incremental/reshard/swap/resume")
def test_turns_on_the_device_change_no_bit_of_compiled_steps(policy: Any, tmp_path: Path) -> None:
    results(policy, Residency({}, NEEDS, ()))  # an optimizer that has seen gradients
    policy.save_model(tmp_path / "model")
    policy.save_state(tmp_path / "state")
    expected = results(policy, Residency({}, NEEDS, ()))
    policy.load_state(tmp_path / "model", tmp_path / "state")
    roles = policy.roles()
    roles["policy"] = roles.pop("weights")
    residency = Residency(roles, NEEDS, tuple(roles))
    assert results(policy, residency) == expected
    assert set(residency.trace[-1].resident) == {"policy"}
    steady = max(moment.bytes for moment in residency.trace if moment.phase != "start")
    assert steady < sum(residency.largest().values())


def test_what_is_away_reads_as_nan(policy: Any) -> None:
    role, weights = policy.roles()["weights"], list(policy.weights.values())
    role.offload()
    wait(weights)
    assert all(np.isnan(weight.asnumpy()).all() for weight in weights)
    role.load()
    wait(weights)
    assert all(np.isfinite(weight.asnumpy()).all() for weight in weights)
