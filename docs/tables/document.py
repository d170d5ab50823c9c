"""A table that code writes into a document, between two lines that mark its place."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path


def between(text: str, begin: str, end: str, table: str) -> str:
    """A document with what stands between its markers replaced. Raises ValueError where the markers are missing."""
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the document lacks the line {begin!r} or {end!r}")
    return f"{before}{begin}\n\n{table}\n\n{end}{after}"


def print_or_write(document: Path, table: Callable[[], str], in_document: Callable[[str], str], *, module: str) -> None:
    """The command line of a module that makes a table: print it, or with ``--write`` bring the document up to date."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}")
    parser.add_argument("--write", action="store_true", help=f"write it into {document.parent.name}/{document.name}")
    if parser.parse_args().write:
        document.write_text(in_document(document.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(table())
