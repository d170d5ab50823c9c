"""What a model and an environment say to each other, checked: arguments of calls, results of tools and of ``step``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from .call_formats import Call
from .turn_template import call_id

Problem: TypeAlias = str  # what is wrong; empty where nothing is


def observation(value: Any) -> str:
    """A tool's result as text: JSON of lists and mappings, else as ``str`` writes it."""
    if isinstance(value, list | dict | tuple):
        try:
            return json.dumps(value, ensure_ascii=False)
        except (TypeError, ValueError):
            pass
    return str(value)


def wrong_step(result: Any) -> Problem:
    """What is wrong with the result of ``step``; empty where nothing is."""
    if not isinstance(result, tuple | list) or len(result) != 3:
        return f"it returned {type(result).__name__}, not (observation, done, reward)"
    _, done, reward = result
    if not isinstance(done, bool | np.bool_):
        return f"done is {type(done).__name__}, not true or false"
    try:
        number = float(reward)
    except (TypeError, ValueError):
        return f"the reward is {type(reward).__name__}, not a number"
    return "" if math.isfinite(number) else f"the reward is {number}"


TYPES: Mapping[str, tuple[type, ...]] = {
    "integer": (int,), "number": (int, float), "string": (str,), "boolean": (bool,), "array": (list,), "object": (dict,),
}  # fmt: skip


def wrong_arguments(call: Call, definition: Mapping[str, Any]) -> Problem:
    """What is wrong with the arguments of a call by the tool's definition; empty where nothing is."""
    schema = definition["function"]["parameters"]
    properties, arguments = schema.get("properties", {}), call.arguments or {}
    accepted = ", ".join(properties) or "none"
    for name in arguments:
        if name not in properties:
            return f"{call.name} has no argument {name!r}; accepted: {accepted}"
    for name in schema.get("required", []):
        if name not in arguments:
            return f"{call.name} needs the argument {name!r}; accepted: {accepted}"
    for name, value in arguments.items():
        wanted = properties[name].get("type")
        kinds = TYPES.get(wanted) if isinstance(wanted, str) else None
        whole = wanted == "integer" and isinstance(value, float) and value.is_integer()
        if value is None and properties[name].get("nullable"):
            continue
        if kinds and not whole and (not isinstance(value, kinds) or (isinstance(value, bool) and wanted != "boolean")):
            return f"the argument {name!r} of {call.name} is {type(value).__name__}, not {wanted}"
        choices = properties[name].get("enum")
        if choices and value not in choices:
            return f"the argument {name!r} of {call.name} is one of {', '.join(map(str, choices))}, not {value!r}"
    return ""


def as_message(call: Call, number: int) -> dict[str, Any]:
    """A call as chat templates and reports have it."""
    function: dict[str, Any] = {"name": call.name, "arguments": dict(call.arguments or {})}
    return {"id": call_id(number), "type": "function", "function": function} | (
        {"problem": call.problem} if call.problem else {}
    )
