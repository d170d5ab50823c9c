"""Checks of a configuration before torch is imported and before any weights are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mindrlhf_grpo.backend import BackendConfig


def check(config: BackendConfig) -> None:
    """Do nothing: which models, devices and dtypes work is known only once torch and transformers are imported."""


def environment_warning() -> str:
    """Return an empty string: no environment needs mending."""
    return ""
