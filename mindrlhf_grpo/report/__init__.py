"""A run folder becomes one self-contained HTML file."""

from __future__ import annotations

from .page import render

__all__ = ["render"]
