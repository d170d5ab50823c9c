"""Tiny models on MindSpore with a plain causal attention, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

ms = pytest.importorskip("mindspore")

from mindrlhf_grpo_mindspore import ops  # noqa: E402
from mindrlhf_grpo_mindspore.models import Decoder, hf  # noqa: E402
from mindspore import Tensor, nn  # noqa: E402
from mindspore import ops as native  # noqa: E402

PADDING = -1e9


class PlainAttention(nn.Cell):
    """Rows of equal width; the plan is their bias ``[B, 1, W, W]``."""

    def __init__(self, scale: float) -> None:
        super().__init__(auto_prefix=False)
        self.scale = scale

    def construct(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, plan: tuple[Tensor, ...]) -> Tensor:
        rows, width = plan[0].shape[0], plan[0].shape[3]
        queries, keys, values = (part.reshape(rows, width, *part.shape[1:]) for part in (queries, keys, values))
        mixed = ops.softmax_attention(queries, keys, values, plan[0], self.scale)
        return mixed.reshape(rows * width, *mixed.shape[2:])


def inputs(ids: NDArray[np.int64], real: NDArray[np.bool_]) -> tuple[Tensor, Tensor, Tensor]:
    """Flat ids, flat positions, bias ``[B, 1, W, W]``: causal, and real tokens see real ones only."""
    width = ids.shape[1]
    seen = np.tril(np.ones((width, width), bool))[None] & (real[:, None, :] | np.eye(width, dtype=bool))
    bias = np.where(seen, 0.0, PADDING).astype(np.float32)[:, None]
    positions = np.maximum(real.cumsum(1) - 1, 0)
    return tuple(Tensor(array) for array in (ids.ravel().astype(np.int32), positions.ravel().astype(np.int32), bias))


def load(folder: Path) -> Decoder:
    architecture = hf.load_architecture(folder)
    return Decoder(architecture, hf.load_weights(folder, architecture), PlainAttention(architecture.attention_scale))


def log_probs(decoder: Decoder, ids: Tensor, positions: Tensor, bias: Tensor) -> Tensor:
    """Log-probs of every vocabulary entry after every token, ``[S, V]``."""
    return native.log_softmax(decoder.logits(decoder(ids, positions, (bias,))), -1)
