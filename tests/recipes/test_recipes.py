"""What holds for every recipe: its acceptance table is shown, it is short, and nothing below it knows its name."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.support import lines
from tests.support.recipes import coverage_page as coverage
from tests.support.recipes.acceptance import ROWS
from tests.support.repository import python_files, tree

RECIPE_LINES = 600
# Of MindRLHF only the package: its name also stands for a peer, whose presets and names of keys the core knows.
NAMES = re.compile(r"safe[-_]?work|raiden|ups[-_]?rm|safe[-_]?rank|recipes[./]mindrlhf", re.IGNORECASE)
OF_RECIPES = [path for path in python_files("mindrlhf_grpo") if "recipes" in path.parts]
BELOW = [path for path in python_files("mindrlhf_grpo", "backends") if "recipes" not in path.parts]


def test_the_page_is_the_one_of_the_marks() -> None:
    assert coverage.PAGE.read_text(encoding="utf-8") == coverage.page(coverage.shown())


@pytest.mark.parametrize(("recipe", "row"), [(recipe, row) for recipe, rows in ROWS.items() for row in rows])
def test_every_row_is_shown_by_a_test(recipe: str, row: str) -> None:
    assert [one.test for one in coverage.shown() if (one.recipe, one.row) == (recipe, row)] != []


def test_marks_name_rows_that_exist() -> None:
    assert [one for one in coverage.shown() if one.row not in ROWS.get(one.recipe, {})] == []


@pytest.mark.parametrize(("recipe", "count"), sorted(lines.of_recipes().items()))
def test_a_recipe_is_short(recipe: str, count: int) -> None:
    assert count <= RECIPE_LINES, recipe


@pytest.mark.parametrize("path", BELOW, ids=str)
def test_core_and_backends_name_no_recipe(path: Path) -> None:
    named = [word for node in ast.walk(tree(path)) for word in words(node) if NAMES.search(word)]
    assert named == []


def words(node: ast.AST) -> list[str]:
    """What a node of the syntax tree says: names, attributes, imports and texts, docstrings among them."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        return [node.attr]
    if isinstance(node, ast.alias):
        return [node.name]
    return [str(node.value)] if isinstance(node, ast.Constant) else []


@pytest.mark.parametrize("path", OF_RECIPES, ids=str)
def test_no_recipe_subclasses_a_trainer(path: Path) -> None:
    classes = [node for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef)]
    bases = [ast.unparse(base) for node in classes for base in node.bases]
    assert [base for base in bases if "Trainer" in base] == []
