"""Names that say what a thing is, and configuration keys: few, each with a description."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from mindrlhf_grpo.config.run import RunConfig
from tests.support.repository import python_files, tree

CONFIG_KEYS = 70
FORBIDDEN_NAMES = re.compile(r"^Base[A-Z]|(Manager|Helper)s?$")


@pytest.mark.parametrize("path", python_files("mindrlhf_grpo", "backends"), ids=str)
def test_names_say_what_a_thing_is(path: Path) -> None:
    assert path.name not in {"utils.py", "helpers.py", "common.py", "misc.py"}
    classes = [node.name for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef)]
    assert [name for name in classes if FORBIDDEN_NAMES.search(name)] == []


def config_keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    """Dotted names of all keys of a GRPO run: of a list's items once, no sections that are null unless asked for."""
    found: list[str] = []
    for name, field in section.model_fields.items():
        candidates = [field.annotation, *get_args(field.annotation)]
        candidates += [item for kind in candidates for item in get_args(kind)]
        nested = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if nested and type(None) in candidates:
            continue
        found += config_keys(nested[0], f"{prefix}{name}.") if nested else [prefix + name]
    return found


def test_a_run_has_few_keys_and_each_is_described() -> None:
    keys = config_keys(RunConfig)
    assert {"rewards.function", "train.learning_rate", "backend"} <= set(keys)
    assert len(keys) <= CONFIG_KEYS, f"{len(keys)} keys"
    assert undescribed(RunConfig) == []


def undescribed(section: type[BaseModel]) -> list[str]:
    """Keys without a description, in a section and those under it."""
    found: list[str] = []
    for name, field in section.model_fields.items():
        found += [] if field.description else [f"{section.__name__}.{name}"]
        for candidate in (field.annotation, *get_args(field.annotation)):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                found += undescribed(candidate)
    return found
