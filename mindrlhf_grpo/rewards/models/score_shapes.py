"""Normalises the outputs of third-party reward models to one score per sequence.

Legend: B sequences, T tokens with padding on either side.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError


def last_valid(mask: NDArray[Any]) -> NDArray[np.int64]:
    """Return the place of the last 1 of each row ``[B]``; also right for padding on the left, where ``sum - 1`` is not.

    Raises:
        ValueError: a row without any 1.
    """
    inside = np.asarray(mask) > 0
    if inside.ndim != 2 or not inside.any(axis=1).all():
        raise ValueError(f"a mask is [B, T] with a 1 in every row, not {inside.shape}")
    return np.asarray(inside.shape[1] - 1 - np.argmax(inside[:, ::-1], axis=1), np.int64)


def sequence_scores(outputs: NDArray[Any], mask: NDArray[Any]) -> NDArray[np.float64]:
    """Return scores ``[B]``: outputs ``[B]`` or ``[B, 1]`` as they are, of ``[B, T]`` or ``[B, T, 1]`` the last valid token's.

    With T = 1 both readings give the same number.

    Raises:
        ConfigError: outputs of another shape.
    """
    values = np.asarray(outputs, np.float64)
    rows, tokens = mask.shape
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.shape in ((rows,), (rows, 1)):
        return values.reshape(rows)
    if values.shape == (rows, tokens):
        return np.asarray(values[np.arange(rows), last_valid(mask)])
    raise ConfigError(
        f"the reward model's output for {rows} sequences of {tokens} tokens has the shape {list(np.shape(outputs))}; "
        f"accepted: [{rows}], [{rows}, 1], [{rows}, {tokens}] or [{rows}, {tokens}, 1]"
    )
