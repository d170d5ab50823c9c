"""Decoders of every family from one set of cells.

To support another family, see ``mindrlhf_grpo.model_files.families``. Whether a model is supported can be found out
without MindSpore: it is imported with ``Decoder``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .families import supported_architecture

if TYPE_CHECKING:
    from .decoder import Decoder

__all__ = ["Decoder", "supported_architecture"]


def __getattr__(name: str) -> Any:
    if name != "Decoder":
        raise AttributeError(name)
    from .decoder import Decoder

    return Decoder
