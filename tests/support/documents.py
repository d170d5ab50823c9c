"""The project's documents as data: their fenced blocks, the commands and files in these, links and code places."""

from __future__ import annotations

import functools
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.support.repository import ROOT, files

PROGRAMS = {"make", "mindrlhf-grpo", "torchrun", "msrun", "python", "pip", "pytest", "git", ".venv/bin/python",
            ".venv/bin/pip", ".venv/bin/pytest", ".venv/bin/pre-commit", ".venv/bin/mindrlhf-grpo"}  # fmt: skip
TEXT = {"", "bash", "sh", "console", "shell"}  # languages of blocks that may hold commands
PLACE = re.compile(r"`([\w.-]+(?:/[\w.-]+)+\.\w+)(?::([A-Za-z_][\w.]*))?`")


@dataclass(frozen=True, slots=True)
class Command:
    """One command line of a document, without its comment."""

    document: Path
    text: str
    inline: bool = False  # mentioned in a sentence, perhaps without its arguments

    @property
    def words(self) -> list[str]:
        """Its words without leading ``VARIABLE=value``; redirections end it."""
        words = shlex.split(self.text)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        return words[: words.index(">")] if ">" in words else words

    @property
    def has_placeholder(self) -> bool:
        """Tell whether a word stands for the reader's own value (``NAME``, ``FOLDER``, ``...``)."""
        return any(re.search(r"(^|=|/)[A-Z][A-Z_]{2,}$|\.\.\.", word) for word in self.words)

    def __str__(self) -> str:
        return f"{self.document}: {self.text}"


def documents() -> list[Path]:
    """Every Markdown page of the project that people read, relative to its root."""
    return [path for path in files() if path.suffix == ".md" and path.parts[0] not in {"tests", "mindrlhf_grpo"}]


@functools.cache
def text_of(document: Path) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(document: Path) -> list[tuple[str, str]]:
    """Language and content of each fenced block, indentation removed."""
    pattern = r"^([ \t]*)```(\w*)[^\n]*\n(.*?)^[ \t]*```[ \t]*$"
    matches = re.findall(pattern, text_of(document), re.MULTILINE | re.DOTALL)
    return [(language, re.sub(rf"^{indent}", "", content, flags=re.MULTILINE)) for indent, language, content in matches]


def prose(document: Path) -> str:
    """The text outside fenced blocks."""
    return re.sub(r"^([ \t]*)```.*?^[ \t]*```[ \t]*$", "", text_of(document), flags=re.MULTILINE | re.DOTALL)


def named_files(document: Path) -> dict[str, str]:
    """File name -> content of the blocks whose first line is a comment that names a file (``# sums.yaml``)."""
    named = {}
    for _, content in blocks(document):
        first = re.match(r"# ([\w./-]+\.(?:yaml|py))\n", content)
        if first:
            named[first[1]] = content
    return named


def commands(document: Path) -> list[Command]:
    """The command lines of fenced blocks and of inline code, in order, one for each part of ``A && B``."""
    found: list[Command] = []
    for language, content in blocks(document):
        if language in TEXT:
            for line in re.sub(r"\\\n\s*", "", content).splitlines():
                found += _commands_of(document, line, inline=False)
    for inline in re.findall(r"`([^`\n]+)`", prose(document)):
        if len(inline.split()) > 1:
            found += _commands_of(document, inline, inline=True)
    return list({command.text: command for command in reversed(found)}.values())[::-1]


def _commands_of(document: Path, line: str, *, inline: bool) -> list[Command]:
    line = re.sub(r"\s+#\s.*$", "", line.strip()).removeprefix("$ ")
    parts = [part.strip() for part in line.split(" && ")]
    return [Command(document, part, inline) for part in parts if first_word(part) in PROGRAMS]


def first_word(line: str) -> str:
    """The program of a command line: its first word that is not ``VARIABLE=value``."""
    return next((word for word in line.split() if not re.fullmatch(r"[A-Z_]+=\S*", word)), "")


def places(document: Path) -> list[tuple[str, str]]:
    """(path, symbol or "") of each ``path/file.ext:symbol`` in inline code."""
    return sorted(set(PLACE.findall(prose(document))))


def links(document: Path) -> list[str]:
    """Targets of the links to files of the project."""
    targets = re.findall(r"\]\((?!https?:|mailto:|#)([^)\s#]+)", prose(document))
    return sorted(set(targets))


def make_targets() -> set[str]:
    """The targets that the Makefile offers."""
    return set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
