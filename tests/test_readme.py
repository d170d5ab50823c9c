"""README keeps in step with the files: its tree names each one, its "where is what" table points at things that exist.

``python tests/test_readme.py`` prints what the tree lacks; ``--write`` lays it anew, with the comments it has and, for
new files, the first line of their docstrings.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

from tests.support.repository import ROOT, files, tree

TOPICS = {"advantage", "loss", "KL", "reward", "packing", "sampling", "sync", "config", "checkpoint", "new backend"}
README = (ROOT / "README.md").read_text()
PLACE = re.compile(r"`([\w./-]+\.\w+)(?::([\w.]+))?`")
# Version control and packaging markers that say nothing of their own.
UNLISTED = {"__init__.py", "py.typed", ".gitignore", ".gitkeep"}


TOP = {
    "mindrlhf_grpo": "the core: imports no framework",
    "backends": "one package per framework",
    "model_configs": "fragments: facts of a model on a kind of hardware",
    "examples": "one folder each, one command each",
    "docker": "images, written but not built",
    "benchmarks": "against TRL, one JSON line each",
    "tests": "core/ mirrors the core; on_torch/ and on_mindspore/ the backends; integration/ has whole runs",
    "docs": "",
    "requirements": "pinned sets",
    ".ci": "",
}
COLUMN = 40  # where comments start


def section(title: str) -> str:
    """The text under a second-level heading."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    assert found, f"README has no section {title!r}"
    return found[1]


def listed() -> dict[str, str]:
    """Path -> comment of every file in the README's tree; folders are lines that end in a slash."""
    block = re.search(r"```\n(.*?)```", section("The tree"), re.DOTALL)
    assert block, "the section has no code block"
    found: dict[str, str] = {}
    folders: list[str] = []
    for line in block[1].splitlines():
        if not line.strip():
            continue
        depth = (len(line) - len(line.lstrip())) // 2
        name, _, comment = line.strip().partition("  ")
        folders = folders[:depth]
        if name.endswith("/"):
            folders.append(name)
        else:
            found["".join(folders) + name] = comment.strip()
    return found


def expected() -> set[str]:
    return {path.as_posix() for path in files() if path.name not in UNLISTED}


def table() -> dict[str, str]:
    """Topic -> place, of the table."""
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", section("Where is what"), re.MULTILINE)
    return {topic: place for topic, place in rows if not set(topic) <= {"-", " "}}


def test_tree_lists_every_file() -> None:
    assert sorted(expected() - listed().keys()) == []


def test_tree_lists_nothing_that_is_gone() -> None:
    assert sorted(listed().keys() - expected()) == []


def test_every_file_has_a_comment() -> None:
    assert [path for path, comment in listed().items() if comment in {"", "?"}] == []


def test_table_answers_every_question() -> None:
    assert table().keys() >= TOPICS


@pytest.mark.parametrize("place", sorted(set(PLACE.findall("".join(table().values())))), ids=":".join)
def test_table_points_at_things_that_exist(place: tuple[str, str]) -> None:
    path, symbol = place
    assert (ROOT / path).is_file()
    if symbol:
        assert defines(Path(path), symbol)


def defines(path: Path, symbol: str) -> bool:
    """Whether a Python file defines ``name`` or ``Class.name`` at its top."""
    body: list[ast.stmt] = tree(path).body
    for name in symbol.split("."):
        found = [node for node in body if name in names(node)]
        if not found:
            return False
        body = getattr(found[0], "body", [])
    return True


def names(node: ast.stmt) -> set[str]:
    """What a statement binds."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!https?:|#)([^)#]+)", README))))
def test_links_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


@pytest.mark.parametrize("command", sorted(set(re.findall(r"^make ([\w-]+)", README, re.MULTILINE))))
def test_make_targets_exist(command: str) -> None:
    assert re.search(rf"^{re.escape(command)}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def first_comment(path: Path) -> str:
    """The first sentence of a file's docstring, opening comment or heading, without its full stop."""
    if path.suffix == ".py":
        text = ast.get_docstring(tree(path))
    else:
        first = (ROOT / path).read_text(encoding="utf-8").partition("\n")[0]
        text = first.lstrip("#").strip() if first.startswith("# ") else None
    return text.splitlines()[0].split(". ")[0].rstrip(".").replace("``", "") if text else "?"


def relaid() -> str:
    """README with a tree of the files there are: comments kept, new files with their docstring's first line."""
    comments = listed()
    lines: list[str] = []
    inside: tuple[str, ...] = ()
    for path in sorted((Path(name) for name in expected()), key=place_in_tree):
        folders = path.parts[:-1]
        shared = next((i for i, pair in enumerate(zip(inside, folders, strict=False)) if pair[0] != pair[1]), None)
        known = min(len(inside), len(folders)) if shared is None else shared
        for depth in range(known, len(folders)):
            comment = TOP.get(folders[depth], "") if depth == 0 else ""
            lines.append(f"{'  ' * depth + folders[depth] + '/':<{COLUMN}}  {comment}".rstrip())
        name = "  " * len(folders) + path.name
        lines.append(f"{name:<{COLUMN}}  {comments.get(path.as_posix()) or first_comment(path)}")
        inside = folders
    return re.sub(
        r"(^## The tree\n.*?```\n).*?(```)", rf"\g<1>{'PLACE'}\2", README, count=1, flags=re.M | re.S
    ).replace("PLACE", "\n".join(lines) + "\n", 1)


def place_in_tree(path: Path) -> tuple[int, list[tuple[bool, str]]]:
    """Top folders in the order of ``TOP``, then the root's files; in each folder its files before its folders."""
    first = path.parts[0]
    rank = list(TOP).index(first) if first in TOP else len(TOP) + (len(path.parts) == 1)
    last = len(path.parts) - 1
    return rank, [(index < last, part) for index, part in enumerate(path.parts)]


if __name__ == "__main__":
    for missing in sorted(expected() - listed().keys()):
        print(f"missing  {missing:60}  {first_comment(Path(missing))}")
    for gone in sorted(listed().keys() - expected()):
        print(f"gone     {gone}")
    if "--write" in sys.argv:
        (ROOT / "README.md").write_text(relaid())
