"""Writes docs/coverage.md: each row of the recipes' acceptance tables, the tests that show it, and where they run.

python -m tests.support.recipes.coverage_page --write
"""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.recipes.acceptance import ROWS
from tests.support.repository import ROOT, python_files, tree

PAGE = ROOT / "docs/coverage.md"
HEAD = """# Recipes: what is shown, and by which test

Written by `python -m tests.support.recipes.coverage_page --write` from the marks on the tests; a test holds it to them.
*core* is framework-free. Tests of both backends stand in both columns.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One mark: a row, the test that carries it, and the backend it runs on."""

    recipe: str
    row: str
    test: str
    backend: str


@functools.cache
def shown() -> list[Shown]:
    """Every mark of the tests, in the order of the files."""
    return [found for path in python_files("tests") for found in marks(path)]


def marks(path: Path) -> Iterator[Shown]:
    """The marks of one file: on functions, on classes, or on the module (``pytestmark``)."""
    whole = tree(path)
    module = [value for node in whole.body if isinstance(node, ast.Assign) and named(node, "pytestmark")
              for value in elements(node.value)]  # fmt: skip
    for node in ast.walk(whole):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            for mark in [*node.decorator_list, *module]:
                yield from of_mark(mark, path, node.name)


def of_mark(mark: ast.expr, path: Path, name: str) -> Iterator[Shown]:
    """What a decorator says, if it is ``pytest.mark.row(recipe, row, backend=...)``."""
    if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.row":
        recipe, row = (ast.literal_eval(argument) for argument in mark.args)
        keywords = {word.arg: ast.literal_eval(word.value) for word in mark.keywords}
        on_mindspore = "mindspore" if "on_mindspore" in path.parts else "torch"
        yield Shown(
            recipe=recipe, row=row, test=f"{path.as_posix()}::{name}", backend=keywords.get("backend", on_mindspore)
        )


def named(node: ast.Assign, name: str) -> bool:
    return any(isinstance(target, ast.Name) and target.id == name for target in node.targets)


def elements(value: ast.expr) -> list[ast.expr]:
    return list(value.elts) if isinstance(value, ast.List | ast.Tuple) else [value]


def page(found: list[Shown]) -> str:
    """The whole page."""
    parts = [HEAD]
    for recipe, rows in ROWS.items():
        parts.append(f"\n## {recipe}\n\n| row | what | core | torch | mindspore |\n|---|---|---|---|---|\n")
        for row, what in rows.items():
            of_row = [one for one in found if (one.recipe, one.row) == (recipe, row)]
            cells = [links(of_row, kinds) for kinds in (("none",), ("torch", "both"), ("mindspore", "both"))]
            parts.append(f"| {row} | {what} | {' | '.join(cells)} |\n")
    return "".join(parts)


def links(found: list[Shown], kinds: tuple[str, ...]) -> str:
    """The tests of these backends, a file once, with the number of its tests."""
    files: dict[str, list[str]] = {}
    for one in found:
        if one.backend in kinds:
            path, name = one.test.split("::")
            files.setdefault(path, []).append(name)
    return "<br>".join(f"[{Path(path).name}](../{path}): {', '.join(f'`{n}`' for n in names)}"
                       for path, names in files.items())  # fmt: skip


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        PAGE.write_text(page(shown()), encoding="utf-8")
    missing = [(recipe, row) for recipe, rows in ROWS.items() for row in rows
               if not any((one.recipe, one.row) == (recipe, row) for one in shown())]  # fmt: skip
    for recipe, row in missing:
        print(f"no test shows {recipe}: {row}")
