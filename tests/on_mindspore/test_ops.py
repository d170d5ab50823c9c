"""Operations: references against plain NumPy, and which kernels of a device are taken."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

ms = pytest.importorskip("mindspore")

from mindrlhf_grpo_mindspore import ascend_kernels, ops, portable_ops  # noqa: E402
from mindspore import Tensor  # noqa: E402

RANDOM = np.random.default_rng(0)


def numbers(*shape: int) -> Any:
    return RANDOM.standard_normal(shape).astype(np.float32)


@pytest.fixture
def chosen() -> Iterator[None]:
    """Undo the choice of each test."""
    yield
    ops.choose_kernels("cpu", "float32")


def test_rms_norm_is_its_formula() -> None:
    x, weight = numbers(3, 8), numbers(8)
    expected = weight * x / np.sqrt((x**2).mean(-1, keepdims=True) + 0.01)
    np.testing.assert_allclose(ops.rms_norm(Tensor(x), Tensor(weight), 0.01).asnumpy(), expected, atol=1e-6)


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotation_leaves_lengths_and_makes_scores_depend_on_distance(interleaved: bool) -> None:
    query, key = np.repeat(numbers(1, 1, 8), 6, 0), np.repeat(numbers(1, 1, 8), 6, 0)
    angles = (np.arange(6)[:, None] * 10.0 ** -np.arange(4))[:, None].astype(np.float32)
    cos, sin = Tensor(np.cos(angles)), Tensor(np.sin(angles))
    queries, keys = (ops.rotate(Tensor(x), cos, sin, interleaved).asnumpy()[:, 0] for x in (query, key))
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), np.linalg.norm(query[:, 0], axis=1), rtol=1e-5)
    scores = queries @ keys.T
    for distance in range(-4, 5):
        np.testing.assert_allclose(np.diff(np.diagonal(scores, distance)), 0, atol=1e-5)
    assert np.ptp(scores[0]) > 0.1


def test_attention_serves_the_right_query_heads_with_each_key_head() -> None:
    queries, keys, values = numbers(2, 3, 4, 8), numbers(2, 5, 2, 8), numbers(2, 5, 2, 6)
    bias = np.where(RANDOM.random((2, 1, 3, 5)) < 0.6, 0, -1e9).astype(np.float32)
    bias[..., 0] = 0
    found = ops.softmax_attention(*map(Tensor, (queries, keys, values, bias)), 0.3).asnumpy()
    for head in range(4):
        scores = np.einsum("btd,bwd->btw", queries[:, :, head], keys[:, :, head // 2]) * 0.3 + bias[:, 0]
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        expected = np.einsum("btw,bwd->btd", shares, values[:, :, head // 2])
        np.testing.assert_allclose(found[:, :, head], expected, atol=1e-5)


def test_experts_are_those_chosen_with_their_shares() -> None:
    x, gate_up, down = numbers(5, 8), numbers(4, 6, 8), numbers(4, 8, 3)
    picks, shares = np.array([[0, 3], [1, 2], [3, 0], [2, 1], [1, 3]], np.int32), numbers(5, 2)
    found = ops.experts(*map(Tensor, (x, gate_up, down, picks, shares))).asnumpy()
    for token in range(5):
        expected = np.zeros(8, np.float32)
        for expert, share in zip(picks[token], shares[token], strict=True):
            gate, up = np.split(gate_up[expert] @ x[token], 2)
            expected += share * (down[expert] @ (gate / (1 + np.exp(-gate)) * up))
        np.testing.assert_allclose(found[token], expected, atol=1e-5)


def test_the_processor_is_served_by_references() -> None:
    assert ops.choose_kernels("cpu", "float32") == dict.fromkeys(ops.REFERENCE, "reference")


def ascend_swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return up * gate * ms.ops.sigmoid(gate)


def wrong_value(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return portable_ops.reference_rms_norm(x, weight, eps) * 1.01


def wrong_gradient(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    return portable_ops.reference_rotate(ms.ops.stop_gradient(x), cos, sin, interleaved)


def missing_kernel(*arguments: Any) -> Tensor:
    raise RuntimeError("The kernel is unregistered")


@pytest.mark.usefixtures("chosen")
def test_only_kernels_that_run_and_agree_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = {
        "swiglu": ascend_swiglu,
        "rms_norm": wrong_value,
        "rotate": wrong_gradient,
        "softmax_attention": missing_kernel,
        "experts": portable_ops.reference_experts,
    }
    monkeypatch.setattr(ascend_kernels, "KERNELS", tried)
    expected = {
        "swiglu": "^ascend_swiglu$",
        "rms_norm": r"^reference \(wrong_value: value differs by (1\.0e-02|9\.\de-03), accepted 0\.005\)$",
        "rotate": r"^reference \(wrong_gradient: gradient 0 differs by 1\.0e\+00, accepted 0\.005\)$",
        "softmax_attention": r"^reference \(missing_kernel does not run: '?The kernel is unregistered'?\)$",
        "experts": "^reference$",  # it is the reference
    }
    found = ops.choose_kernels("npu", "float16")
    assert found.keys() == expected.keys()
    for name, pattern in expected.items():
        assert re.match(pattern, found[name]), found[name]
    compiled = ms.jit(ops.swiglu)
    gate, up = Tensor(numbers(2, 3)), Tensor(numbers(2, 3))
    np.testing.assert_allclose(
        compiled(gate, up).asnumpy(), portable_ops.reference_swiglu(gate, up).asnumpy(), atol=1e-6
    )


def rotate_without_gradient_of_angles(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    return portable_ops.reference_rotate(x, ms.ops.stop_gradient(cos), ms.ops.stop_gradient(sin), interleaved)


def attention_without_gradient_of_masks(
    queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, scale: float
) -> Tensor:
    return portable_ops.reference_softmax_attention(queries, keys, values, ms.ops.stop_gradient(bias), scale)


@pytest.mark.usefixtures("chosen")
def test_kernels_that_give_only_the_gradients_in_use_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ascend's backward passes leave out masks, and return zeros for cosine and sine."""
    tried = {"rotate": rotate_without_gradient_of_angles, "softmax_attention": attention_without_gradient_of_masks}
    monkeypatch.setattr(ascend_kernels, "KERNELS", tried)
    found = ops.choose_kernels("npu", "float16")
    assert {name: found[name] for name in tried} == {name: kernel.__name__ for name, kernel in tried.items()}


@pytest.mark.usefixtures("chosen")
def test_attention_kernels_have_no_float32() -> None:
    assert ops.choose_kernels("npu", "float32")["softmax_attention"] == "reference (the kernel has no float32)"


@pytest.mark.usefixtures("chosen")
def test_kernels_of_ascend_are_missed_elsewhere_without_harm() -> None:
    if ms.get_context("device_target") == "Ascend":
        pytest.skip("Ascend has them")
    for kernel in ops.choose_kernels("npu", "float16").values():
        assert kernel.startswith("reference (ascend_")
        assert "does not run" in kernel


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ops.REFERENCE)
def test_kernels_agree_with_their_references(name: str, dtype: str) -> None:
    if ms.get_context("device_target") != "Ascend":
        pytest.skip("the kernels exist on Ascend only; here the references serve")
    if dtype == "float32" and ascend_kernels.without_float32(name):
        pytest.skip("the kernel has no float32")
    assert ops.refusal(name, ascend_kernels.KERNELS[name], dtype) == ""
