"""Names of files and classes say what a thing is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.support.repository import python_files, tree

FORBIDDEN_NAMES = re.compile(r"^Base[A-Z]|(Manager|Helper)s?$")


@pytest.mark.parametrize("path", python_files("mindrlhf_grpo", "backends"), ids=str)
def test_names_say_what_a_thing_is(path: Path) -> None:
    assert path.name not in {"utils.py", "helpers.py", "common.py", "misc.py"}
    classes = [node.name for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef)]
    assert [name for name in classes if FORBIDDEN_NAMES.search(name)] == []
