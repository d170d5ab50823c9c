"""Rules between MindFormers' names of weights ("there") and Hugging Face's ("here"), applied in either direction.

A rule pairs names there with names here; ``{n}`` stands for a layer, ``{e}`` for an expert, ``{p}`` for ``weight`` or
``bias``. Where several weights here are one there, ``join`` tells how they lie in it: ``rows`` (one after the other within
each head) or ``stack`` (experts along a new first axis). One weight here may also be several there, cut by ``sizes``.
Shapes are those of ``[out, in]`` matrices.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import CheckpointError, ConfigError
from .keys import package_yaml

Array = NDArray[Any]
Read = Callable[[str], Array]
Shape = tuple[int, ...]
NAMED = 3  # names that an error lists


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One row of a table.

    Attributes:
        there, here: patterns of names; only one of them may have several.
        join: how several weights here lie in one there: ``rows`` or ``stack``.
        sizes: rows of each part of a head, by expressions over the sizes of the model (``nope``, ``rope``, ...).
        heads: the count that rows are grouped by before they are cut; 1: not grouped.
        halves: names there whose rows of a head lie as (first halves, second halves) of what are pairs here.
    """

    there: tuple[str, ...]
    here: tuple[str, ...]
    join: str = "rows"
    sizes: tuple[str, ...] = ()
    heads: str = "one"
    halves: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NameMap:
    """The rules of one family.

    Attributes:
        ignored: patterns of names there that are no weights (optimizer states, counters).
    """

    rules: tuple[Rule, ...]
    ignored: tuple[str, ...] = ()

    @staticmethod
    def of(table: Mapping[str, Any]) -> NameMap:
        """Build the rules of a family from plain values: ``rules`` as ``[there, here]`` or mappings, and ``ignored``."""
        return NameMap(rules=tuple(_rule(row) for row in table["rules"]), ignored=tuple(table.get("ignored", ())))


@dataclass(slots=True)
class Plan:
    """The output of a conversion: name -> function that computes the tensor, in order; and the names left out."""

    tensors: dict[str, Callable[[Read], Array]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def to_here(names: NameMap, there: Sequence[str], sizes: Mapping[str, int]) -> Plan:
    """Plan how to compute the weights here from those there.

    Names there may have a prefix (``policy_model.model.layers...``): it is cut until a rule fits.

    Args:
        sizes: of the model, for rules that cut or join rows.

    Raises:
        CheckpointError: names that no rule knows, or parts of a rule that are missing.
    """
    known: dict[str, str] = {}  # plain name -> as it stands in the file
    plan, unknown = Plan(), []
    for name in there:
        if any(re.search(pattern, name) for pattern in names.ignored):
            plan.left_out.append(name)
            continue
        plain = next((cut for cut in _suffixes(name) if _fitting(names, cut, "there")), None)
        if plain is None:
            unknown.append(name)
        else:
            known[plain] = name
    _refuse(unknown, "names that are not known")
    for plain in known:
        rule, marks = _first(names, plain, "there")
        for made, part in _made_here(rule, marks, sizes):
            if made not in plan.tensors:
                sources = [known.get(_filled(pattern, marks)) for pattern in rule.there]
                _refuse([p for p, s in zip(rule.there, sources, strict=True) if s is None], "parts that are missing")
                plan.tensors[made] = _reader(rule, part, [str(source) for source in sources], sizes)
    return plan


def to_there(names: NameMap, here: Sequence[str], sizes: Mapping[str, int]) -> Plan:
    """Plan how to compute the weights there from those here, by the first rule that knows each name.

    Raises:
        CheckpointError: names that no rule knows, or parts of a rule that are missing.
    """
    plan, present = Plan(), set(here)
    _refuse([name for name in here if not _fitting(names, name, "here")], "names that are not known")
    for name in here:
        rule, marks = _first(names, name, "here")
        sources = [made for made, _ in _made_here(rule, marks, sizes)]
        _refuse([source for source in sources if source not in present], "parts that are missing")
        for place, pattern in enumerate(rule.there):
            plan.tensors.setdefault(_filled(pattern, marks), _writer(rule, place, sources, sizes))
    return plan


def _rule(row: Any) -> Rule:
    if isinstance(row, list):
        return Rule(there=(row[0],), here=(row[1],))
    several = {key: tuple(value) if isinstance(value, list) else (value,) for key, value in row.items()}
    return Rule(
        there=several["there"],
        here=several["here"],
        join=row.get("join", "rows"),
        sizes=several.get("sizes", ()),
        heads=row.get("heads", "one"),
        halves=several.get("halves", ()),
    )


def _suffixes(name: str) -> Iterator[str]:
    parts = name.split(".")
    yield from (".".join(parts[start:]) for start in range(len(parts)))


@cache
def _pattern(text: str) -> re.Pattern[str]:
    pattern = re.escape(text)
    for mark, what in (("n", r"\d+"), ("e", r"\d+"), ("p", "weight|bias")):
        pattern = pattern.replace(rf"\{{{mark}\}}", f"(?P<{mark}>{what})")
    return re.compile(pattern)


def _fitting(names: NameMap, name: str, side: str) -> list[tuple[Rule, dict[str, str]]]:
    return [
        (rule, match.groupdict())
        for rule in names.rules
        for text in getattr(rule, side)
        if (match := _pattern(text).fullmatch(name))
    ]


def _first(names: NameMap, name: str, side: str) -> tuple[Rule, dict[str, str]]:
    return _fitting(names, name, side)[0]


def _filled(pattern: str, marks: Mapping[str, str]) -> str:
    for mark, value in marks.items():
        pattern = pattern.replace(f"{{{mark}}}", value)
    return pattern


def _made_here(rule: Rule, marks: Mapping[str, str], sizes: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return the names here that a rule makes, with the place of each; a stack has one per expert."""
    others = {mark: value for mark, value in marks.items() if mark != "e"}
    if rule.join == "stack":
        count = sizes["experts"]
        return [(_filled(rule.here[0], {**others, "e": str(number)}), number) for number in range(count)]
    return [(_filled(pattern, others), place) for place, pattern in enumerate(rule.here)]


def _reader(rule: Rule, part: int, sources: Sequence[str], sizes: Mapping[str, int]) -> Callable[[Read], Array]:
    if rule.join == "stack":
        return lambda read: _experts_matrix(read(sources[0]), sizes, rule.here[0])[part]
    if len(rule.there) > 1 or rule.halves:
        return lambda read: _joined(rule, [read(source) for source in sources], sizes)
    if len(rule.here) > 1:
        return lambda read: _cut(rule, read(sources[0]), sizes)[part]
    return lambda read: read(sources[0])


def _writer(rule: Rule, place: int, sources: Sequence[str], sizes: Mapping[str, int]) -> Callable[[Read], Array]:
    if rule.join == "stack":
        return lambda read: np.stack([read(source) for source in sources])
    if len(rule.there) > 1 or rule.halves:
        return lambda read: _cut(rule, read(sources[0]), sizes)[place]
    if len(rule.here) > 1:
        return lambda read: _joined(rule, [read(source) for source in sources], sizes)
    return lambda read: read(sources[0])


def _rows(rule: Rule, sizes: Mapping[str, int]) -> list[int]:
    """Return the number of rows of each part within one head."""
    return [int(np.prod([sizes[factor.strip()] for factor in text.split("*")])) for text in rule.sizes]


def _cut(rule: Rule, matrix: Array, sizes: Mapping[str, int]) -> list[Array]:
    """Cut a matrix whose rows lie head by head into its parts; ``halves`` are unpaired."""
    heads = sizes[rule.heads]
    rows = _rows(rule, sizes) or [len(matrix) // len(rule.here)] * len(rule.here)
    if sum(rows) * heads != len(matrix):
        raise CheckpointError(f"{rule.there[0]} has {len(matrix)} rows, the model {heads} times {sum(rows)}")
    by_head = matrix.reshape(heads, sum(rows), *matrix.shape[1:])
    parts = np.split(by_head, np.cumsum(rows)[:-1], axis=1)
    names = rule.there if len(rule.there) > 1 else rule.here
    parts = [_unpaired(p) if n in rule.halves else p for n, p in zip(names, parts, strict=True)]
    return [part.reshape(-1, *matrix.shape[1:]) for part in parts]


def _joined(rule: Rule, parts: Sequence[Array], sizes: Mapping[str, int]) -> Array:
    """Join the parts again: the inverse of ``_cut``."""
    heads = sizes[rule.heads]
    by_head = [part.reshape(heads, len(part) // heads, *part.shape[1:]) for part in parts]
    names = rule.there if len(rule.there) > 1 else rule.here
    by_head = [_paired(p) if n in rule.halves else p for n, p in zip(names, by_head, strict=True)]
    joined: Array = np.concatenate(by_head, axis=1).reshape(-1, *parts[0].shape[1:])
    return joined


def _unpaired(rows: Array) -> Array:
    """Order rows ``[H, R, ...]`` of each head as 0, 2, 4, ..., 1, 3, 5, ..."""
    return np.concatenate([rows[:, 0::2], rows[:, 1::2]], axis=1)


def _paired(rows: Array) -> Array:
    half = rows.shape[1] // 2
    paired: Array = np.stack([rows[:, :half], rows[:, half:]], axis=2).reshape(rows.shape)
    return paired


def _experts_matrix(stacked: Array, sizes: Mapping[str, int], name: str) -> Array:
    """Return experts as ``[E, out, in]``; grouped matrix products store them transposed, so both orders are accepted."""
    inner, hidden = sizes["expert_inner"], sizes["hidden"]
    shape = (hidden, inner) if "down" in name else (inner, hidden)
    if stacked.ndim == 2:  # [E * out, in]
        stacked = stacked.reshape(sizes["experts"], -1, stacked.shape[-1])
    if stacked.shape[1:] == shape:
        return stacked
    if stacked.shape[1:] == shape[::-1]:
        return stacked.transpose(0, 2, 1)
    raise CheckpointError(f"experts of {name} are {list(stacked.shape)}, the model's are {[sizes['experts'], *shape]}")


def _refuse(names: Sequence[str], what: str) -> None:
    if names:
        more = ", ..." if len(names) > NAMED else ""
        raise CheckpointError(f"{len(names)} {what}: {', '.join(names[:NAMED])}{more}")


def family_rules(maps: Mapping[str, Any], family: str) -> NameMap:
    """Return the rules of a family.

    Raises:
        ConfigError: the family has none.
    """
    if family not in maps:
        raise ConfigError(f"there are no names for the family {family!r}; there are: {', '.join(maps)}")
    return NameMap.of(maps[family])


def weight_names() -> dict[str, Any]:
    """Return ``weight_names.yaml``: family (``model_type``) -> its rules."""
    return package_yaml("weight_names.yaml")
