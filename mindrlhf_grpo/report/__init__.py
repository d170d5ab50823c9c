"""A run folder becomes one self-contained HTML file."""

from .page import render

__all__ = ["render"]
