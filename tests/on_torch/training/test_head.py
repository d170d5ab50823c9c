"""Chunked log-probs against log_softmax: values, gradients, temperature, entropy, memory."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from mindrlhf_grpo_torch.training import head  # noqa: E402

torch.set_num_threads(1)
R, E, V = 23, 8, 31


def problem(*, bias: bool, dtype: torch.dtype = torch.float32) -> tuple:
    torch.manual_seed(0)
    projection = torch.nn.Linear(E, V, bias=bias).to(dtype)
    hidden = torch.randn(R, E, dtype=dtype, requires_grad=True)
    return projection, hidden, torch.randint(0, V, (R,)), torch.randn(R)


def backward(logps: torch.Tensor, slopes: torch.Tensor, *inputs: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad((logps * slopes).sum() + (logps**2).sum(), inputs))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("chunk", [1, 5, 23, 100])
def test_values_entropies_and_gradients_equal_log_softmax(
    monkeypatch: pytest.MonkeyPatch, bias: bool, temperature: float, chunk: int
) -> None:
    monkeypatch.setattr(head, "CHUNK", chunk)
    projection, hidden, targets, slopes = problem(bias=bias)
    inputs = (hidden, *projection.parameters())
    logps, entropy = head.LinearHead(projection)(hidden, targets, temperature=temperature, entropy="metric")
    every = torch.log_softmax(projection(hidden) / temperature, -1)
    expected = every.gather(1, targets[:, None])[:, 0]
    assert torch.allclose(logps, expected, atol=1e-6)
    assert torch.allclose(entropy, -(every.exp() * every).sum(-1), atol=1e-6)
    assert not entropy.requires_grad
    for ours, theirs in zip(backward(logps, slopes, *inputs), backward(expected, slopes, *inputs), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("chunk", [5, 100])
@pytest.mark.parametrize("form", ["linear", "own"])
def test_an_entropy_in_the_loss_has_the_gradient_of_plain_autograd(
    monkeypatch: pytest.MonkeyPatch, form: str, temperature: float, chunk: int
) -> None:
    monkeypatch.setattr(head, "CHUNK", chunk)
    projection, hidden, targets, slopes = problem(bias=True)
    inputs = (hidden, *projection.parameters())
    made = head.LinearHead(projection) if form == "linear" else own_head(projection)
    logps, entropy = made(hidden, targets, temperature=temperature, entropy="loss")
    every = torch.log_softmax(projection(hidden) / temperature, -1)
    expected = every.gather(1, targets[:, None])[:, 0], -(every.exp() * every).sum(-1)
    assert torch.allclose(entropy, expected[1], atol=1e-6)
    for one, other in (
        (entropy, expected[1]),
        (entropy * logps + entropy**2, expected[0] * expected[1] + expected[1] ** 2),
    ):
        ours = torch.autograd.grad((one * slopes).sum(), inputs, retain_graph=True)
        theirs = torch.autograd.grad((other * slopes).sum(), inputs, retain_graph=True)
        assert all(torch.allclose(x, y, rtol=1e-5, atol=1e-6) for x, y in zip(ours, theirs, strict=True))


def own_head(projection: torch.nn.Linear) -> head.ModelHead:
    """The head that goes through a model's own code, over a model that is a projection alone."""

    class Body(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, use_cache: bool) -> None: ...

    class Model(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, use_cache: bool) -> SimpleNamespace:
            return SimpleNamespace(logits=projection(body(input_ids, use_cache=use_cache)[0]))

    body = Body()
    return head.ModelHead(Model(), body)


def test_literal_values() -> None:
    projection = torch.nn.Linear(1, 3, bias=False)
    projection.weight.data = torch.tensor([[0.0], [1.0], [2.0]])
    logps, entropy = head.LinearHead(projection)(torch.ones(1, 1), torch.tensor([2]), temperature=1.0, entropy="metric")
    assert logps.item() == pytest.approx(-0.40760596, abs=1e-6)
    assert entropy.item() == pytest.approx(0.83239555, abs=1e-6)


def test_large_logits_do_not_overflow() -> None:
    projection = torch.nn.Linear(1, 2, bias=False)
    projection.weight.data = torch.tensor([[1000.0], [-1000.0]])
    hidden = torch.ones(2, 1, requires_grad=True)
    logps, entropy = head.LinearHead(projection)(hidden, torch.tensor([0, 1]), temperature=1.0, entropy="metric")
    assert logps.tolist() == [0.0, -2000.0]
    assert entropy.tolist() == [0.0, 0.0]
    logps.sum().backward()
    assert torch.isfinite(hidden.grad).all()


def test_a_frozen_projection_gets_no_gradient_and_no_entropy_unless_asked() -> None:
    projection, hidden, targets, _ = problem(bias=True)
    projection.requires_grad_(False)
    logps, entropy = head.LinearHead(projection)(hidden, targets, temperature=1.0, entropy="none")
    logps.sum().backward()
    assert entropy is None
    assert projection.weight.grad is None
    assert hidden.grad is not None


def test_the_logits_of_all_positions_never_exist_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "CHUNK", 4)
    sizes = []
    linear = torch.nn.functional.linear
    monkeypatch.setattr(head.F, "linear", lambda *x: sizes.append(len(x[0])) or linear(*x))
    projection, hidden, targets, _ = problem(bias=False)
    head.LinearHead(projection)(hidden, targets, temperature=1.0, entropy="metric")[0].sum().backward()
    assert sizes == 2 * [4, 4, 4, 4, 4, 3]


def test_bfloat16_gradients_are_summed_over_chunks_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "CHUNK", 1)
    projection = torch.nn.Linear(1, 2, bias=False).to(torch.bfloat16)
    projection.weight.data.zero_()
    hidden, targets = torch.ones(1000, 1, dtype=torch.bfloat16), torch.zeros(1000, dtype=torch.long)
    logps, _ = head.LinearHead(projection)(hidden, targets, temperature=1.0, entropy="none")
    assert logps.dtype == torch.float32
    logps.sum().backward()
    assert projection.weight.grad.tolist() == [[500.0], [-500.0]]  # a bfloat16 sum of halves stops at 128
