"""Post-training of language models with two native engines over one core.

This package is the core: NumPy and plain Python. It never imports torch or mindspore; backends are loaded by name
through :func:`mindrlhf_grpo.backend.load_backend`.
"""

from __future__ import annotations

__version__ = "0.2.0"
