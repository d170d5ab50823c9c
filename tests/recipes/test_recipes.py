"""Rules for every recipe: its acceptance table is shown by tests, it subclasses no trainer, and only recipes read its parts."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.support.recipes import coverage_page
from tests.support.recipes.acceptance import ROWS
from tests.support.repository import ROOT, python_files, tree

IN_RECIPES = [path for path in python_files("mindrlhf_grpo") if path.parts[1] == "recipes"]
OUTSIDE = [path for path in python_files("mindrlhf_grpo", "backends") if path.parts[1] not in ("recipes", "compat")]
MOST_MODULES = 20
LINK = re.compile(r"\]\(\.\./([^)#]+)\)")


def imported_packages(path: Path) -> set[str]:
    """Packages of the core that a file imports from, wherever the statement stands: ``compat`` for ``..compat.x``."""
    names: list[str] = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and node.level:
            names += [f"{node.module or ''}.{alias.name}".lstrip(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return {name.removeprefix("mindrlhf_grpo.").split(".")[0] for name in names}


@pytest.mark.parametrize(("recipe", "row"), [(recipe, row) for recipe, rows in ROWS.items() for row in rows])
def test_every_row_is_shown_by_a_test(recipe: str, row: str) -> None:
    assert [mark.test for mark in coverage_page.marked_tests() if (mark.recipe, mark.row) == (recipe, row)] != []


def test_marks_name_rows_that_exist() -> None:
    assert [mark for mark in coverage_page.marked_tests() if mark.row not in ROWS.get(mark.recipe, {})] == []


@pytest.mark.parametrize("recipe", ROWS)
def test_the_page_has_every_row_with_every_file_that_shows_it(recipe: str) -> None:
    page = coverage_page.PAGE.read_text(encoding="utf-8")
    section = page.partition(f"## {recipe}\n")[2].partition("\n## ")[0]
    lines = {line.split("|")[1].strip(): line for line in section.splitlines() if line.startswith("|")}
    for row in ROWS[recipe]:
        files = {mark.path for mark in coverage_page.marked_tests() if (mark.recipe, mark.row) == (recipe, row)}
        assert set(LINK.findall(lines[row])) == files, (
            f"{row}: run `python -m tests.support.recipes.coverage_page --write`"
        )


def test_every_file_on_the_page_exists() -> None:
    linked = LINK.findall(coverage_page.PAGE.read_text(encoding="utf-8"))
    assert [name for name in linked if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("path", OUTSIDE, ids=str)
def test_only_recipes_read_other_programs_files(path: Path) -> None:
    assert not imported_packages(path) & {"compat", "recipes"}


@pytest.mark.parametrize("path", IN_RECIPES, ids=str)
def test_no_recipe_subclasses_a_trainer(path: Path) -> None:
    classes = [node for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef)]
    bases = [ast.unparse(base) for node in classes for base in node.bases]
    assert [base for base in bases if "Trainer" in base] == []


@pytest.mark.parametrize("path", IN_RECIPES, ids=str)
def test_a_recipe_reaches_a_backend_only_through_the_core(path: Path) -> None:
    imports = [node for node in ast.walk(tree(path)) if isinstance(node, ast.ImportFrom)]
    names = {alias.name for node in imports if node.level and node.module == "backend" for alias in node.names}
    assert names <= {"Backend", "load_backend", "record_files"}


@pytest.mark.parametrize("recipe", sorted({path.parts[2] for path in IN_RECIPES if len(path.parts) > 3}))
def test_a_recipe_has_few_modules(recipe: str) -> None:
    modules = [path for path in IN_RECIPES if path.parts[2] == recipe and path.name != "__init__.py"]
    assert len(modules) <= MOST_MODULES
