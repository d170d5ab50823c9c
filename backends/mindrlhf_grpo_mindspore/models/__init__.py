"""Decoders of every family from one set of cells.

The architecture of a model can be read, and refused, without MindSpore: it is imported with ``Decoder``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .architecture import Architecture, read_architecture

if TYPE_CHECKING:
    from .decoder import Decoder

__all__ = ["Architecture", "Decoder", "read_architecture"]


def __getattr__(name: str) -> Any:
    if name != "Decoder":
        raise AttributeError(name)
    from .decoder import Decoder

    return Decoder
