"""The configuration of a run: typed sections, one file each, and reading them from YAML and ``key=value`` overrides.

To add a key, add a field to its section: its description is what ``mindrlhf-grpo explain KEY`` prints. ``explain``
alone lists all keys and counts them.
"""

from __future__ import annotations

from .file import load_config
from .offline import OfflineConfig
from .run import RunConfig

__all__ = ["OfflineConfig", "RunConfig", "load_config"]
