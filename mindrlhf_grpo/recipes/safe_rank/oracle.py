"""The safety oracle: whether a film carries what a user wants to avoid.

It knows films by title and year and gives each a risk from 0 to 1 by trait. A film it does not know counts as safe, so
how many it knew is always counted (``coverage``).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

from ...errors import DataError, did_you_mean
from .film_files import pairs, read_table
from .titles import lookup_key, year_of

LOG = logging.getLogger("mindrlhf_grpo.recipes.safe_rank")
RISKS, TITLES = "movie_trait_sensitivity.json", ("title_to_imdb.json", "title_to_imdb.pkl")
YEARS_AROUND = (0, -1, 1, -2, 2)
THRESHOLD = 0.66


@dataclass(frozen=True, slots=True, kw_only=True)
class SafetyCheck:
    """What the oracle says of a film for one user; ``violations`` read ``TRAIT: risk=0.92``."""

    is_safe: bool
    violations: list[str]
    movie_traits: dict[str, float]
    matched_imdb_id: str | None


@dataclass(kw_only=True)
class SafetyOracle:
    """Risks of films.

    Args:
        risks: IMDb number -> trait -> risk.
        titles: (lookup key, year) -> IMDb number.
        risk_threshold: from this risk on a trait violates a constraint on it.
        allow_any_year: a title found in no near year is looked up in any year; that may be a remake.
        prefixes: a trait may be named by the start of its name, where only one starts so.
    """

    risks: Mapping[str, Mapping[str, float]]
    titles: Mapping[tuple[str, int], str]
    risk_threshold: float = THRESHOLD
    allow_any_year: bool = True
    prefixes: bool = True
    checked: int = 0
    matched: int = 0
    said: set[str] = field(default_factory=set)

    @cached_property
    def _any_year(self) -> dict[str, str]:
        return {title: number for (title, _), number in reversed(list(self.titles.items()))}

    @cached_property
    def _traits(self) -> list[str]:
        known = {trait for traits in self.risks.values() for trait in traits}
        return list(dict.fromkeys([*(entry["trait"] for entry in traits()), *sorted(known)]))

    @property
    def coverage(self) -> float:
        """Share of the films asked for that it knew; 1 before the first."""
        return self.matched / self.checked if self.checked else 1.0

    def get_all_trait_names(self) -> list[str]:
        """Every trait that a constraint can name."""
        return list(self._traits)

    def find(self, title: str, year: Any) -> str | None:
        """IMDb number: that year, then one and two years around it, the earlier first, then any year."""
        key, number = lookup_key(title), year_of(year)
        near = [] if number is None else [(key, number + around) for around in YEARS_AROUND]
        found = next((self.titles[place] for place in near if place in self.titles), None)
        return self._any_year.get(key) if found is None and self.allow_any_year else found

    def has_movie(self, title: str, year: Any = None) -> bool:
        """Whether it knows the film."""
        return self.find(title, year) is not None

    def get_movie_traits(self, title: str, year: Any = None) -> dict[str, float]:
        """Risk by trait; empty for a film it does not know."""
        return dict(self.risks.get(self.find(title, year) or "", {}))

    def check_safety(self, title: str, year: Any, constraints: Any, threshold: float | None = None) -> SafetyCheck:
        """Whether the film keeps to the constraints (see :func:`active`); an unknown film does."""
        number = self.find(title, year)
        risks = dict(self.risks.get(number or "", {}))
        self.checked, self.matched = self.checked + 1, self.matched + (number is not None)
        limit = self.risk_threshold if threshold is None else threshold
        broken = [trait for trait in self.resolve(active(constraints)) if risks.get(trait, -1.0) >= limit]
        violations = [f"{trait}: risk={risks[trait]:.2f}" for trait in broken]
        return SafetyCheck(is_safe=not broken, violations=violations, movie_traits=risks, matched_imdb_id=number)

    def batch_check_safety(
        self, movies: Sequence[tuple[str, Any]], constraints: Any, threshold: float | None = None
    ) -> list[SafetyCheck]:
        """:meth:`check_safety` of each (title, year)."""
        return [self.check_safety(title, year, constraints, threshold) for title, year in movies]

    def resolve(self, names: Sequence[str]) -> list[str]:
        """The traits that constraints name; one that is unknown has no effect, which is said once."""
        found = []
        for name in names:
            if name in self._traits:
                found.append(name)
                continue
            begin = name.casefold()
            starting = [trait for trait in self._traits if self.prefixes and trait.casefold().startswith(begin)]
            if len(starting) == 1:
                found += starting
                self._say(f"constraint {name!r} is read as {starting[0]!r}")
            else:
                self._say(f"constraint {name!r} names no trait and has no effect{did_you_mean(name, self._traits)}")
        return list(dict.fromkeys(found))

    def _say(self, text: str) -> None:
        if text not in self.said:
            self.said.add(text)
            LOG.warning(text)


def active(constraints: Any) -> list[str]:
    """Traits to avoid of a row's constraints: a mapping trait -> bool, the same as JSON, a list of traits, or nothing.

    Raises:
        ValueError: anything else.
    """
    value = constraints
    if isinstance(value, str):
        value = json.loads(value) if value.strip() else {}
    if value is None:
        return []
    if isinstance(value, Mapping):
        return [str(trait) for trait, asked in value.items() if asked]
    if isinstance(value, (list, tuple)) and all(isinstance(trait, str) for trait in value):
        return list(value)
    raise ValueError(f"constraints are {value!r}, not a mapping of trait to true or false")


def create_oracle(
    base_path: str | Path = ".", risk_threshold: float = THRESHOLD, *, allow_any_year: bool = True, prefixes: bool = True
) -> SafetyOracle:  # fmt: skip
    """The oracle of a folder with ``movie_trait_sensitivity.json`` and ``title_to_imdb.json`` (or ``.pkl``).

    Without a title map the titles and years of the risk table are used. Raises DataError for what cannot be read.
    """
    folder = Path(base_path)
    table = read_table(folder / RISKS)
    if not isinstance(table, list):
        raise DataError(f"{folder / RISKS} is no list of films")
    risks = {imdb_number(row.get("imdbId")): risks_of(row, folder / RISKS) for row in table}
    there = next((folder / name for name in TITLES if (folder / name).is_file()), None)
    named = [(row["title"], row["year"], row["imdbId"]) for row in table if row.get("title") and row.get("year")]
    titles = {
        (lookup_key(title), year): imdb_number(number)
        for title, year, number in pairs(named if there is None else read_table(there), str(there))
    }
    return SafetyOracle(
        risks=risks, titles=titles, risk_threshold=risk_threshold, allow_any_year=allow_any_year, prefixes=prefixes
    )


def imdb_number(value: Any) -> str:
    """``tt0387564``, ``387564`` and 387564 as ``0387564``."""
    return str(value).strip().removeprefix("tt").zfill(7)


def risks_of(row: Mapping[str, Any], path: Path) -> dict[str, float]:
    """Risk by trait of a row: ``final``, or the larger of ``ddd_trigger`` and ``pg_risk``."""
    try:
        return {
            trait: float(risk["final"] if risk.get("final") is not None else
                         max(risk.get("ddd_trigger") or 0.0, risk.get("pg_risk") or 0.0))
            for trait, risk in (row.get("traits") or {}).items()
        }  # fmt: skip
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{path}: film {row.get('imdbId')!r}: {error}") from error


def pg_risk(severity: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Risk from a parental guide: severities 0 to 3 by category, weighted, as a share of the worst; 0 without weights."""
    whole = sum(weights.values())
    return sum(weight * severity.get(name, 0.0) for name, weight in weights.items()) / (3 * whole) if whole else 0.0


def traits() -> list[dict[str, str]]:
    """The twenty traits: ``trait``, and in words what is preferred and what is avoided."""
    table: list[dict[str, str]] = json.loads((files(__package__) / "traits_warnings.json").read_text(encoding="utf-8"))
    return table
