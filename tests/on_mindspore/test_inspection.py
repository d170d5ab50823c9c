"""A MindSpore policy seen from inside: the same names, layer ends and digest as torch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.tiny_policy import make_batch, run_config, weighted_loss, write_model

pytest.importorskip("mindspore")
pytest.importorskip("torch")

import mindrlhf_grpo_mindspore
import mindrlhf_grpo_torch
import torch
from mindrlhf_grpo_mindspore.inspection import MindSporeInspection
from mindrlhf_grpo_torch.sync.fingerprint import fingerprint as torch_fingerprint

from mindrlhf_grpo.errors import BackendError
from mindrlhf_grpo.model_files.fingerprint import fingerprint


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, Any]]:
    """(policy, inspection) of torch and of MindSpore, over the same weights."""
    config = run_config(write_model(tmp_path_factory.mktemp("inspection") / "model"), device="cpu")
    backends = [module.build(config) for module in (mindrlhf_grpo_torch, mindrlhf_grpo_mindspore)]
    policies = [backend.load_policy() for backend in backends]
    return [(policy, backend.inspect(policy)) for backend, policy in zip(backends, policies, strict=True)]


def test_untrained_weights_have_the_names_values_and_digest_of_torchs(pair: list[tuple[Any, Any]]) -> None:
    (theirs, their_inside), (ours, our_inside) = pair
    expected, found = their_inside.weights(), our_inside.weights()
    assert expected.keys() == found.keys()
    assert all(np.array_equal(expected[name], found[name]) for name in expected)
    assert ours.fingerprint() == theirs.fingerprint()


def test_every_layer_end_is_torchs_and_the_last_is_the_models_own(pair: list[tuple[Any, Any]]) -> None:
    (_, their_inside), (ours, our_inside) = pair
    batch = make_batch(temperature=0.7)
    ends = our_inside.layer_logps(batch)
    assert ends.shape == (3, *batch.ids.shape)
    np.testing.assert_allclose(ends, their_inside.layer_logps(batch), rtol=0, atol=1e-5)
    np.testing.assert_allclose(ends[-1], ours.logps(batch).logps, rtol=0, atol=1e-6)


def test_gradients_after_layer_ends_are_torchs_and_change_nothing(pair: list[tuple[Any, Any]]) -> None:
    """Cells shared between compiled functions once gave a wrong forward pass: see ``MindSporePolicy.model``."""
    (_, their_inside), (ours, our_inside) = pair
    batch, before = make_batch(), ours.fingerprint()
    our_inside.layer_logps(batch)
    loss, gradients = our_inside.gradients(batch, weighted_loss)
    expected_loss, expected = their_inside.gradients(batch, weighted_loss)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    for name, gradient in expected.items():
        assert np.linalg.norm(gradients[name] - gradient) <= 1e-5 * np.linalg.norm(gradient), name
    assert ours.fingerprint() == before


def test_the_digest_of_an_array_is_that_of_a_tensor() -> None:
    random = np.random.default_rng(0)
    arrays = {
        "matrix": random.normal(size=(5, 3)).astype(np.float32), "number": np.array(2.5, np.float32),
        "half": random.normal(size=(3, 5)).astype(np.float16), "even": random.normal(size=(3, 4)).astype(np.float16),
    }  # fmt: skip
    tensors = {name: torch.tensor(array) for name, array in arrays.items()}
    assert fingerprint(arrays.items()) == torch_fingerprint(reversed(list(tensors.items())))
    arrays["matrix"][[0, 1]] = arrays["matrix"][[1, 0]]
    assert fingerprint(arrays.items()) != torch_fingerprint(tensors.items())


def test_a_policy_of_another_backend_is_refused(pair: list[tuple[Any, Any]]) -> None:
    with pytest.raises(BackendError, match="inspects its own policies, not TorchPolicy"):
        MindSporeInspection(pair[0][0])
