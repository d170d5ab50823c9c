"""Writes docs/coverage.md: each row of the recipes' acceptance tables, and the files of the tests that show it.

python -m tests.support.recipes.coverage_page --write     write the page
python -m tests.support.recipes.coverage_page             list the tests of every row
"""

from __future__ import annotations

import ast
import functools
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.recipes.acceptance import ROWS
from tests.support.repository import ROOT, python_files, tree

PAGE = ROOT / "docs/coverage.md"
HEAD = """# Which test shows what a recipe promises

Each recipe has an acceptance table. Its rows stand below with the test files that show them; a number in brackets counts
the test functions where there are several. *Core* tests need no framework; tests of both backends stand in both columns.

`make docs` writes this page from the marks `@pytest.mark.row(recipe, row)` on the tests.
`python -m tests.support.recipes.coverage_page` lists the test functions of every row.
"""
COLUMNS = {"core": ("none",), "torch": ("torch", "both"), "mindspore": ("mindspore", "both")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One mark: a row, the test function that carries it, and the backend it runs on."""

    recipe: str
    row: str
    path: str
    function: str
    backend: str

    @property
    def test(self) -> str:
        return f"{self.path}::{self.function}"


@functools.cache
def marked_tests() -> list[Mark]:
    """Return every mark of the tests, in the order of the files."""
    return [mark for path in python_files("tests") for mark in marks_of_file(path)]


def marks_of_file(path: Path) -> Iterator[Mark]:
    """Yield the marks of one file: on functions, or on the module (``pytestmark``)."""
    module = tree(path)
    on_module = [
        value
        for node in module.body
        if isinstance(node, ast.Assign) and assigns(node, "pytestmark")
        for value in elements(node.value)
    ]
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            for decorator in [*node.decorator_list, *on_module]:
                yield from read_mark(decorator, path, node.name)


def read_mark(mark: ast.expr, path: Path, function: str) -> Iterator[Mark]:
    """Yield the mark that a decorator ``pytest.mark.row(recipe, row, backend=...)`` stands for; nothing for others."""
    if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.row":
        recipe, row = (ast.literal_eval(argument) for argument in mark.args)
        keywords = {word.arg: ast.literal_eval(word.value) for word in mark.keywords}
        default = "mindspore" if "on_mindspore" in path.parts else "torch"
        backend = keywords.get("backend", default)
        yield Mark(recipe=recipe, row=row, path=path.as_posix(), function=function, backend=backend)


def assigns(node: ast.Assign, name: str) -> bool:
    return any(isinstance(target, ast.Name) and target.id == name for target in node.targets)


def elements(value: ast.expr) -> list[ast.expr]:
    return list(value.elts) if isinstance(value, ast.List | ast.Tuple) else [value]


def page(marks: list[Mark]) -> str:
    """Return the text of the page."""
    parts = [HEAD]
    for recipe, rows in ROWS.items():
        parts.append(f"\n## {recipe}\n\n| row | promise | {' | '.join(COLUMNS)} |\n|---|---|---|---|---|\n")
        for row, promise in rows.items():
            of_row = [mark for mark in marks if (mark.recipe, mark.row) == (recipe, row)]
            cells = [links(of_row, backends) for backends in COLUMNS.values()]
            parts.append(f"| {row} | {promise} | {' | '.join(cells)} |\n")
    return "".join(parts)


def links(marks: list[Mark], backends: tuple[str, ...]) -> str:
    """Return links to the files of a row's tests on these backends, with their numbers."""
    counts = Counter(mark.path for mark in marks if mark.backend in backends)
    names = {path: Path(path).stem.removeprefix("test_") for path in counts}
    return ", ".join(f"[{names[path]}](../{path}){f' ({n})' if n > 1 else ''}" for path, n in counts.items())


def main() -> None:
    """Write the page, or list the tests of every row; rows without a test are named either way."""
    for recipe, rows in ROWS.items():
        for row in rows:
            tests = [mark.test for mark in marked_tests() if (mark.recipe, mark.row) == (recipe, row)]
            if not tests:
                print(f"no test shows {recipe}: {row}")
            elif "--write" not in sys.argv[1:]:
                print(f"{recipe}: {row}", *dict.fromkeys(tests), sep="\n  ")
    if "--write" in sys.argv[1:]:
        PAGE.write_text(page(marked_tests()), encoding="utf-8")


if __name__ == "__main__":
    main()
