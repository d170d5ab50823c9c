"""The output head in chunks: torch's numbers, whatever the chunk; the temperature compiles nothing again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("mindspore")
pytest.importorskip("torch")

import mindspore as ms
import torch
from mindrlhf_grpo_mindspore.graph import Compiled
from mindrlhf_grpo_mindspore.training.head import EntropyHead, LinearHead
from mindspore import Parameter, ParameterTuple, Tensor, nn

from mindrlhf_grpo.backend import CompileLog

POSITIONS, VOCABULARY, HIDDEN = 11, 37, 8
RANDOM = np.random.default_rng(0)
STATES = RANDOM.normal(size=(POSITIONS, HIDDEN)).astype(np.float32)
WEIGHT = RANDOM.normal(size=(VOCABULARY, HIDDEN)).astype(np.float32)
TARGETS = np.array([3, 0, 36, 3, 3, 9, 12, 36, 1, 2, 3], np.int32)  # some more than once
SLOPES = RANDOM.normal(size=POSITIONS).astype(np.float32)


class Head(nn.Cell):
    """Log-probs, entropies, and the gradients of the log-probs in hidden states and weight."""

    def __init__(self, chunk: int) -> None:
        super().__init__(auto_prefix=False)
        self.head = LinearHead(VOCABULARY)
        self.head.chunk = chunk
        self.weight = Parameter(Tensor(WEIGHT), name="lm_head.weight")
        self.trained = ParameterTuple([self.weight])

    def value(self, states: Tensor, targets: Tensor, slopes: Tensor, sharpness: Tensor) -> Any:
        logps, entropies = self.head(states, self.weight, targets, sharpness)
        return (logps * slopes).sum(), (logps, entropies)

    def construct(self, states: Tensor, targets: Tensor, slopes: Tensor, sharpness: Tensor) -> Any:
        return ms.value_and_grad(self.value, 0, self.trained, has_aux=True)(states, targets, slopes, sharpness)


def torch_head(temperature: float) -> list[np.ndarray]:
    states, weight = (torch.tensor(array, requires_grad=True) for array in (STATES, WEIGHT))
    every = torch.log_softmax(states @ weight.t() / temperature, dim=-1)
    logps = every.gather(1, torch.tensor(TARGETS).long()[:, None])[:, 0]
    (logps * torch.tensor(SLOPES)).sum().backward()
    entropies = -(every.exp() * every).sum(-1)
    return [tensor.detach().numpy() for tensor in (logps, entropies, states.grad, weight.grad)]


@pytest.mark.parametrize("chunk", [64, 4, 1])
def test_values_and_gradients_are_torchs_in_every_chunk(chunk: int) -> None:
    log = CompileLog()
    head = Compiled("head", Head(chunk).construct, log)
    inputs = [Tensor(array) for array in (STATES, TARGETS, SLOPES)]
    for temperature in (1.0, 0.6):
        (_, (logps, entropies)), (to_states, (to_weight,)) = head(*inputs, Tensor(np.float32(1 / temperature)))
        for found, expected in zip((logps, entropies, to_states, to_weight), torch_head(temperature), strict=True):
            np.testing.assert_allclose(found.asnumpy(), expected, rtol=1e-5, atol=3e-6)
    assert len(log.entries) == 1


class BothHead(Head):
    """Gradients of a value that reads log-probs and entropies."""

    def __init__(self, chunk: int) -> None:
        super().__init__(chunk)
        self.head = EntropyHead(VOCABULARY)
        self.head.chunk = chunk

    def value(self, states: Tensor, targets: Tensor, slopes: Tensor, sharpness: Tensor) -> Any:
        logps, entropies = self.head(states, self.weight, targets, sharpness)
        return (entropies * logps * slopes + entropies * entropies).sum(), (logps, entropies)


@pytest.mark.parametrize("chunk", [64, 4])
def test_an_entropy_in_the_loss_has_torchs_gradient(chunk: int) -> None:
    head = Compiled("head", BothHead(chunk).construct, CompileLog())
    inputs = [Tensor(array) for array in (STATES, TARGETS, SLOPES)]
    for temperature in (1.0, 0.6):
        states, weight = (torch.tensor(array, requires_grad=True) for array in (STATES, WEIGHT))
        every = torch.log_softmax(states @ weight.t() / temperature, dim=-1)
        logps, entropies = every.gather(1, torch.tensor(TARGETS).long()[:, None])[:, 0], -(every.exp() * every).sum(-1)
        (entropies * logps * torch.tensor(SLOPES) + entropies**2).sum().backward()
        _, (to_states, (to_weight,)) = head(*inputs, Tensor(np.float32(1 / temperature)))
        for found, expected in ((to_states.asnumpy(), states.grad.numpy()), (to_weight.asnumpy(), weight.grad.numpy())):
            # The processor's exponentials and logarithms are good to 1.6e-5 here (MindSpore 2.10).
            assert np.linalg.norm(found - expected) < 1.6e-5 * np.linalg.norm(expected)


def test_a_chunk_holds_a_bounded_number_of_logits() -> None:
    assert LinearHead(49152).chunk == 682
    assert LinearHead(152064).chunk == 220
    assert LinearHead(2**24).chunk == 64
