"""A critic on the policy's body: MindSpore's values, losses and step are torch's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.backend import load_backend
from mindrlhf_grpo.losses import PolicyLoss, ValueLoss
from tests.support.tiny_policy import make_batch, run_config, write_model

pytest.importorskip("mindspore")
pytest.importorskip("torch")

VALUE = ValueLoss(clip=0.2, coef=0.5, reads_values=True)


def load(folder: Path, backend: str) -> Any:
    values = {**run_config(folder, device="cpu").model_dump(), "critic": {"shared": True}, "backend": backend}
    return load_backend(type(run_config(folder)).model_validate(values)).load_policy()


@pytest.mark.row("mindrlhf", "PPO")
@pytest.mark.slow
def test_a_step_of_both_losses_is_torchs(tmp_path: Path) -> None:
    folder, batch = write_model(tmp_path / "model"), make_batch()
    policies = {backend: load(folder, backend) for backend in ("torch", "mindspore")}
    values = {backend: policy.values(batch) for backend, policy in policies.items()}
    np.testing.assert_allclose(values["mindspore"], values["torch"], rtol=0, atol=1e-5)
    tensors = {"returns": (values["torch"] + 1).astype(np.float32), "old_values": values["torch"]}
    batch = replace(batch, old_logps=policies["torch"].logps(batch).logps, tensors=tensors)
    results = {
        backend: policy.update(batch, PolicyLoss(), learning_rate=1e-3, also=[(batch, VALUE)])
        for backend, policy in policies.items()
    }
    assert results["mindspore"].loss == pytest.approx(results["torch"].loss, rel=1e-5)
    assert results["mindspore"].grad_norm == pytest.approx(results["torch"].grad_norm, rel=1e-4)
    assert dict(results["mindspore"].also[0]) == pytest.approx(dict(results["torch"].also[0]), rel=1e-4, abs=1e-4)
    moved = {backend: policy.values(batch) for backend, policy in policies.items()}
    assert np.abs(moved["torch"] - values["torch"]).max() > 1e-3
    np.testing.assert_allclose(moved["mindspore"], moved["torch"], rtol=0, atol=1e-4)
    (tmp_path / "state").mkdir()
    policies["mindspore"].save_model(tmp_path / "policy")
    policies["mindspore"].save_state(tmp_path / "state")
    policies["torch"].load_state(tmp_path / "policy", tmp_path / "state")
    np.testing.assert_allclose(policies["torch"].values(batch), moved["mindspore"], rtol=0, atol=1e-5)
