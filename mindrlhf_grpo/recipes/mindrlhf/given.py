"""Reward functions that a script hands to a trainer as objects.

A configuration names a function as ``module:function``, but a function of a script may be local and have no importable
name. So it is kept here under its own name, and run folders of such scripts name it ``...mindrlhf.given:NAME``: this
module cannot be renamed without making them impossible to resume.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_FUNCTIONS: dict[str, Callable[..., Any]] = {}


def reference_to(function: Callable[..., Any]) -> str:
    """Keep a script's function and return its reference; the latest function of a name counts."""
    _FUNCTIONS[function.__name__] = function
    return f"{__name__}:{function.__name__}"


def __getattr__(name: str) -> Callable[..., Any]:
    """Return the function kept under a name (PEP 562: called for names that the module does not define)."""
    try:
        return _FUNCTIONS[name]
    except KeyError:
        raise AttributeError(f"no script has handed over a function {name!r}") from None
