"""What a configuration key does, for ``mindrlhf-grpo explain``; a peer's name for a key works too."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Sequence

from .config_keys import Key, by_peer_name, catalogue, children, leaves, record_path, suggestion
from .errors import ConfigError


def explain(name: str | None = None) -> str:
    """The page of a key or section, or the table of all keys for None.

    Args:
        name: dotted key, section, last part of a key, or what a peer calls it.

    Raises:
        ConfigError: no such key; the text names the nearest.
    """
    if name is None:
        return "\n".join(_table())
    path = record_path(name.strip().split("."))
    found = catalogue().get(path)
    if found is not None:
        return "\n".join(_section(found) if found.section else _page(found))
    same = [key for key in catalogue().values() if key.name == name]
    if same:
        return "\n\n".join("\n".join(_page(key)) for key in same if key.section is None) or explain(same[0].path)
    peers = by_peer_name(name)
    if not peers:
        raise ConfigError(f"unknown key {name}; {suggestion(name.split('.')) or 'run `mindrlhf-grpo explain` for all'}")
    pages = []
    for key, frameworks in peers.items():
        pages.append("\n".join([f"{name} in {', '.join(frameworks)} is {key} here.", "", *_page(catalogue()[key])]))
    return "\n\n".join(pages)


def _table() -> Iterator[str]:
    """All keys with defaults, by section."""
    yield "Configuration keys. `mindrlhf-grpo explain KEY` tells more; KEY may be what trl, verl or openrlhf call it."
    yield ""
    yield from _rows([key for key in children("") if key.section is None])
    for section in (key for key in children("") if key.section is not None):
        yield ""
        yield from _section(section)


def _section(section: Key) -> Iterator[str]:
    documented = (section.section.__doc__ or "").splitlines()[0] if section.section else ""
    yield f"{section.path}: {section.description or documented}"
    inside = [key for key in leaves() if key.parent in (section.path, f"{section.path}.N")]
    yield from _rows(inside)


def _rows(keys: Sequence[Key]) -> Iterator[str]:
    width = max(len(key.path) for key in leaves()) + 2
    for key in keys:
        default = "(required)" if key.default is None else f"[{key.default}]"
        yield from _wrapped(f"{default} {key.description}", f"  {key.path:<{width}}")


def _page(key: Key) -> Iterator[str]:
    yield key.path
    yield from _wrapped(key.description, "  ")
    yield from _wrapped(key.accepted, "  takes    ")
    yield f"  default  {'none: it must be given' if key.default is None else key.default}"
    if key.peers:
        peers = "; ".join(f"{framework}: {name}" for framework, name in key.peers)
        yield from _wrapped(peers, "  peers    ")
    if presets := _presets(key):
        yield from _wrapped(presets, "  presets  ")
    yield "  write    " + _example(key)


def _presets(key: Key) -> str:
    """The value that each preset fills in, for a key of the algorithm left at null."""
    if key.parent != "algorithm" or key.default != "null":
        return ""
    from .algorithms import OURS, PRESETS

    values = {name: getattr(preset, key.name, None) for name, preset in [("(none)", OURS), *PRESETS.items()]}
    return "; ".join(f"{name} {'as clip_low' if value is None else value}" for name, value in values.items())


def _example(key: Key) -> str:
    path = key.path.replace(".N.", ".0.")
    value = key.default if key.default not in (None, "null") else (key.choices or ("...",))[0]
    return f"{path}={value}" if " " not in str(value) else f"'{path}={value}'"


def _wrapped(text: str, first: str) -> list[str]:
    width = max(60, min(120, shutil.get_terminal_size((120, 24)).columns))
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=" " * len(first)) or [first.rstrip()]
