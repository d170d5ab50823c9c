"""Command lines of other programs, by a table of their arguments."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ConfigError
from ..nearest import did_you_mean


def options_of(words: Sequence[str], known: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """``--name value`` and ``--name=value`` of a command line, and its other words; an option alone is ``true``.

    Raises:
        ConfigError: an option that is not known.
    """
    options: dict[str, str] = {}
    others: list[str] = []
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if not word.startswith("--"):
            others.append(word)
            continue
        name, given, value = word[2:].replace("-", "_").partition("=")
        if name not in known:
            raise ConfigError(f"option {word!r} is unknown{did_you_mean(name, known)}")
        alone = not waiting or waiting[0].startswith("--")
        options[name] = value if given else "true" if alone else waiting.pop(0)
    return options, others
