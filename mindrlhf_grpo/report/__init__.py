"""The report: one self-contained HTML file made from a run folder."""

from __future__ import annotations

from .page import render

__all__ = ["render"]
