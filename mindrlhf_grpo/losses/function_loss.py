"""A plain function as a loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class FunctionLoss:
    """A function ``(xp, outputs, tensors) -> (loss, sums)`` that reads nothing but log-probs and the batch's tensors."""

    function: Callable[[Any, Any, Mapping[str, Any]], tuple[Any, dict[str, Any]]]

    reads_entropy: ClassVar[bool] = False
    reads_values: ClassVar[bool] = False

    def __call__(self, xp: Any, outputs: Any, tensors: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return what the function returns."""
        return self.function(xp, outputs, tensors)
