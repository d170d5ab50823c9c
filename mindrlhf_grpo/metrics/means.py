"""The mean of measured values."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def mean(values: ArrayLike) -> float:
    """Mean of the finite values, 0 if there are none."""
    finite = np.asarray(values, np.float64)
    finite = finite[np.isfinite(finite)]
    return float(finite.mean()) if finite.size else 0.0
