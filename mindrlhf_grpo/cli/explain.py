"""Pages about configuration keys for ``mindrlhf-grpo explain``; other frameworks' names for a key work too."""

from __future__ import annotations

import inspect
import shutil
import textwrap
from collections.abc import Iterator, Sequence

from ..config.keys import Catalogue, Key, catalogue, record_path
from ..config.offline import OfflineConfig
from ..config.peer_names import PeerName, find_peer_name
from ..errors import ConfigError
from ..rewards.resolve import BUILT_INS, arguments_of, load_function

KINDS = (catalogue(), catalogue(OfflineConfig))  # online runs first: a key that both have is explained once


def explain(name: str | None = None) -> str:
    """Return the page of a key or section, or the table of all keys for None.

    Args:
        name: dotted key, section, last part of a key, another framework's name for it, or a built-in reward.

    Raises:
        ConfigError: the key does not exist; the text suggests the nearest.
    """
    if name is None:
        return "\n".join(_table())
    path = record_path(name.strip().split("."))
    for keys in KINDS:
        if path in keys.records:
            record = keys.records[path]
            return "\n".join(_section(record, keys) if record.section else _page(record))
    pages: dict[str, str] = {}
    for keys in KINDS:
        for matching_path, page in _by_name(name, keys):
            pages.setdefault(matching_path, page)
    if not pages and (peer := find_peer_name(name)):
        pages[name] = "\n".join(_peer_page(peer))
    if not pages and "." in name:  # a peer's path to a name that both have: algorithm.kl_ctrl.kl_coef
        pages.update(page for keys in KINDS for page in _by_name(name.rpartition(".")[2], keys))
    if name in BUILT_INS:
        pages[f"rewards {name}"] = "\n".join(_reward(name))
    if not pages:
        suggestion = next((near for keys in KINDS if (near := keys.suggestion(name.split(".")))), "")
        raise ConfigError(f"unknown key {name}; {suggestion or 'run `mindrlhf-grpo explain` for all'}")
    return "\n\n".join(pages.values())


def _peer_page(peer: PeerName) -> Iterator[str]:
    """Yield what a name of another framework is here, and the page of that key."""
    yield from _wrapped(f"{peer.sentence}.", "")
    for keys in KINDS if peer.key else ():
        if record := keys.records.get(record_path(peer.key.split("."))):
            yield ""
            yield from _section(record, keys) if record.section else _page(record)
            return


def _by_name(name: str, keys: Catalogue) -> Iterator[tuple[str, str]]:
    """Yield path and page of the keys whose last part is ``name``, else of those that another framework calls so."""
    named = [key for key in keys.records.values() if key.name == name]
    for key in named:
        yield key.path, "\n".join(_page(key) if key.section is None else _section(key, keys))
    for path, frameworks in ({} if named else keys.by_peer_name(name)).items():
        yield path, "\n".join([f"{name} in {', '.join(frameworks)} is {path} here.", "", *_page(keys.records[path])])


def _table() -> Iterator[str]:
    """Yield all keys with their defaults, by section; the keys that only offline training has come last."""
    yield "Configuration keys. `mindrlhf-grpo explain KEY` has details; KEY may also be the name used by trl, verl or openrlhf."
    online, offline = KINDS
    yield (
        f"An online run has {len(online.leaves())} keys, {len(online.always_present())} of them outside sections that "
        f"are null unless a run asks for them; training on a fixed dataset has {len(offline.leaves())}."
    )
    yield ""
    yield from _rows([key for key in online.children("") if key.section is None], online)
    for section in (key for key in online.children("") if key.section is not None):
        yield ""
        yield from _section(section, online)
    yield ""
    yield "With a section `objective`, for training on a fixed dataset (SFT, preferences, reward models):"
    for section in (key for key in offline.children("") if key.section is not None):
        offline_only = [key for key in _inside(section, offline) if key.path not in online.records]
        if offline_only:
            yield ""
            yield _title(section)
            yield from _rows(offline_only, offline)


def _section(section: Key, keys: Catalogue) -> Iterator[str]:
    yield _title(section)
    yield from _rows(_inside(section, keys), keys)


def _title(section: Key) -> str:
    documented = (section.section.__doc__ or "").splitlines()[0] if section.section else ""
    return f"{section.path}: {section.description or documented}"


def _inside(section: Key, keys: Catalogue) -> list[Key]:
    """Return the keys of a section and of its subsections."""
    return [key for key in keys.leaves() if key.path.startswith(f"{section.path}.")]


def _rows(rows: Sequence[Key], keys: Catalogue) -> Iterator[str]:
    width = max(len(key.path) for key in keys.leaves()) + 2
    for key in rows:
        default = "(required)" if key.default is None else f"[{key.default}]"
        yield from _wrapped(f"{default} {key.description}", f"  {key.path:<{width}}")


def _page(key: Key) -> Iterator[str]:
    yield key.path
    yield from _wrapped(key.description, "  ")
    yield from _wrapped(key.accepted, "  takes    ")
    yield f"  default  {'none: it is required' if key.default is None else key.default}"
    if key.peers:
        peers = "; ".join(f"{framework}: {name}" for framework, name in key.peers)
        yield from _wrapped(peers, "  peers    ")
    if names := _names(key):
        yield from _wrapped(names, "  names    ")
    if presets := _presets(key):
        yield from _wrapped(presets, "  presets  ")
    yield "  write    " + _example(key)


def _names(key: Key) -> str:
    """List the names that are built in or installed, for a key that also takes a user's code."""
    if key.path == "rewards.N.function":
        return f"{', '.join(BUILT_INS)}; `mindrlhf-grpo explain NAME` has the arguments of each"
    if key.path not in ("algorithm.name", "algorithm.loss", "objective.name"):
        return ""
    from ..algorithms.references import ALGORITHM, LOSS, OBJECTIVE
    from ..algorithms.registry import ALGORITHMS, ALIASES, OBJECTIVES, POLICY_LOSSES

    built_in = {ALGORITHM: [*ALGORITHMS], LOSS: [*POLICY_LOSSES], OBJECTIVE: [*OBJECTIVES, *ALIASES]}
    extension, names = next((extension, names) for extension, names in built_in.items() if extension.key == key.path)
    return f"{', '.join([*names, *extension.installed()])}; or your own: path/file.py:thing, package.module:thing"


def _reward(name: str) -> Iterator[str]:
    """Yield the page of a built-in reward: the text of its function, the columns and the arguments that it reads."""
    function, built_in = load_function(name, label="reward"), BUILT_INS[name]
    yield f"{name}, a built-in reward (rewards.N.function)"
    yield ""
    yield from inspect.cleandoc(function.__doc__ or "").splitlines()
    yield ""
    references = ["answer or solution, or the one named by the argument column"] if built_in.references else []
    if columns := [*built_in.columns, *references]:
        yield from _wrapped(", ".join(columns), "  columns  ")
    for argument, accepted in arguments_of(name).items():
        yield from _wrapped(accepted, f"  rewards.0.arguments.{argument}: ")


def _presets(key: Key) -> str:
    """List the value that each preset fills in for an algorithm key left at null."""
    if key.parent != "algorithm" or key.default != "null":
        return ""
    from ..algorithms.presets import OURS, PRESETS

    if not hasattr(OURS, key.name):
        return ""
    values = {name: getattr(preset, key.name) for name, preset in [("(none)", OURS), *PRESETS.items()]}
    return "; ".join(f"{name} {'as clip_low' if value is None else value}" for name, value in values.items())


def _example(key: Key) -> str:
    path = key.path.replace(".N.", ".0.")
    value = key.default if key.default not in (None, "null") else (key.choices or ("...",))[0]
    return f"{path}={value}" if " " not in str(value) else f"'{path}={value}'"


def _wrapped(text: str, first: str) -> list[str]:
    width = max(60, min(120, shutil.get_terminal_size((120, 24)).columns))
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=" " * len(first)) or [first.rstrip()]
