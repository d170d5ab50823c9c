from __future__ import annotations
from .config_section import Section, key


class OfflineConfig(Section):
    backend: str = key("torch", "x")
