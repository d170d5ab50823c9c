"""The base of every section of a configuration, and the function that declares a key."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

# What lies above these is a slip of the exponent, which would fill memory or destroy the weights.
LARGEST_RATE, LARGEST_GROUP, LARGEST_COUNT = 100, 100_000, 1_000_000_000

Unit = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A part of the configuration: immutable, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


def key(default: Any, description: str, *, peers: str = "", **limits: Any) -> Any:
    """A configuration key with its description, what peers call it, and its limits."""
    return Field(default, description=description, json_schema_extra={"peers": peers}, **limits)
