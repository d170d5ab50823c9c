"""Text of a model or a dataset on a terminal: it cannot move the cursor or begin a line."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text on one line, with control and invisible characters written as escapes."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode() for char in text
    )
