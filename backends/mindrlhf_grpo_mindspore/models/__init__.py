"""Decoders of every family from one set of cells."""

from .architecture import Architecture, read_architecture
from .decoder import Decoder

__all__ = ["Architecture", "Decoder", "read_architecture"]
