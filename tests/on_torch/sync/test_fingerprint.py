"""The digest sees every bit, name and shape, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from mindrlhf_grpo_torch.sync.fingerprint import fingerprint  # noqa: E402

torch.set_num_threads(1)
TYPES = [torch.float32, torch.bfloat16, torch.float64, torch.int8]


def digest(tensor: torch.Tensor, name: str = "w") -> str:
    return fingerprint([(name, tensor)])


def random(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 50).to(dtype)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple), dtype=st.sampled_from(TYPES), data=st.data()
)
def test_one_changed_bit_shows(shape: tuple[int, ...], dtype: torch.dtype, data: st.DataObject) -> None:
    tensor = random(shape, dtype)
    changed = tensor.clone().flatten()
    raw = changed.view(torch.uint8)
    place, bit = data.draw(st.integers(0, len(raw) - 1)), data.draw(st.integers(0, 7))
    raw[place] ^= 1 << bit
    assert digest(changed.view(shape)) != digest(tensor)


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(2, 9), columns=st.integers(2, 9), dtype=st.sampled_from(TYPES), data=st.data())
def test_two_exchanged_elements_show(rows: int, columns: int, dtype: torch.dtype, data: st.DataObject) -> None:
    tensor = torch.arange(rows * columns).to(dtype)
    one, other = data.draw(st.lists(st.integers(0, len(tensor) - 1), min_size=2, max_size=2, unique=True))
    changed = tensor.clone()
    changed[one], changed[other] = tensor[other], tensor[one]
    assert digest(changed.view(rows, columns)) != digest(tensor.view(rows, columns))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("columns", [4, 5])
def test_views_of_a_fused_tensor_have_the_digest_of_their_copies(dtype: torch.dtype, columns: int) -> None:
    fused = random((7, columns), dtype)
    for view in (fused[:3], fused[1:4], fused[:, 1:3], fused[:, 1:], fused.t()):
        assert digest(view) == digest(view.clone().contiguous())


def test_order_does_not_matter_but_names_shapes_and_types_do() -> None:
    one, other = random((2, 6)), random((3, 4))
    assert fingerprint([("a", one), ("b", other)]) == fingerprint([("b", other), ("a", one)])
    assert fingerprint([("a", one), ("b", other)]) != fingerprint([("b", one), ("a", other)])
    assert digest(one) != digest(one.view(3, 4))
    assert digest(torch.zeros(4)) != digest(torch.zeros(4, dtype=torch.int32))
    assert digest(torch.zeros(2)) != digest(-torch.zeros(2))


def test_a_scalar_has_a_digest() -> None:
    assert digest(torch.tensor(1.0)) != digest(torch.tensor(2.0))
