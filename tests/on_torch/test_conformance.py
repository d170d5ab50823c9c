"""The shipped conformance suite on the torch backend; MindSpore's run of it is in ``tests/on_mindspore``."""

from __future__ import annotations

import pytest

from mindrlhf_grpo.testing.conformance import CHECKS, BackendUnderTest

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> BackendUnderTest:
    return BackendUnderTest("torch", tmp_path_factory.mktemp("conformance"), device="cpu")


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.row("mindrlhf", "Backend parity")
def test_torch_conforms(backend: BackendUnderTest, name: str) -> None:
    CHECKS[name](backend)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> BackendUnderTest:
    return BackendUnderTest("torch", tmp_path_factory.mktemp("float16"), device="cpu", dtype="float16")


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKS)
def test_torch_conforms_in_sixteen_bits(narrow: BackendUnderTest, name: str) -> None:
    CHECKS[name](narrow)
