"""A mapping whose keys are attributes too."""

from __future__ import annotations

from typing import Any


class AttributeMapping(dict[str, Any]):
    """Values by key or by attribute; every object has its own."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(f"{type(self).__name__} has no {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    @staticmethod
    def of(value: Any) -> Any:
        """Nested mappings as attribute mappings."""
        if isinstance(value, dict):
            return AttributeMapping({key: AttributeMapping.of(inner) for key, inner in value.items()})
        return [AttributeMapping.of(item) for item in value] if isinstance(value, list) else value
