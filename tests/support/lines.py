"""Counts the lines of code of each recipe: without blank lines, comments and docstrings.

python -m tests.support.lines
"""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

from tests.support.repository import ROOT, python_files

NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def code_lines(path: Path) -> int:
    """Lines of a file that hold code."""
    text = (ROOT / path).read_text(encoding="utf-8")
    used = {
        number
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in NO_CODE
        for number in range(token.start[0], token.end[0] + 1)
    }
    return len(used - docstring_lines(text))


def docstring_lines(text: str) -> set[int]:
    """The lines of docstrings."""
    found: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                found.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return found


def of_recipes() -> dict[str, int]:
    """Recipe -> lines of code."""
    totals: dict[str, int] = {}
    for path in python_files("mindrlhf_grpo"):
        if path.parts[1] == "recipes" and len(path.parts) > 3:
            totals[path.parts[2]] = totals.get(path.parts[2], 0) + code_lines(path)
    return totals


if __name__ == "__main__":
    for recipe, count in of_recipes().items():
        print(f"{recipe:12} {count}")
