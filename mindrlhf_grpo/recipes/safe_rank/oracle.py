"""The safety oracle: tells whether a film has a trait that a user wants to avoid.

It knows films by title and year and gives each a risk from 0 to 1 per trait. An unknown film counts as safe, so the share
of known films is always reported (``coverage``).
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
# Files in the folder of the oracle: here, and where the original repository keeps them
RISKS = ("movie_trait_sensitivity.json", "downloaded_datasets/movie_trait_sensitivity.json")
TITLES = ("title_to_imdb.json", "title_to_imdb.pkl", "data/phase1_mapping/title_to_imdb.pkl")
YEARS_AROUND = (0, -1, 1, -2, 2)
THRESHOLD = 0.66


@dataclass(frozen=True, slots=True, kw_only=True)
class SafetyCheck:
    """The verdict on a film for one user; ``violations`` read ``TRAIT: risk=0.92``."""

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
        risk_threshold: a trait with at least this risk violates a constraint on it.
        allow_any_year: look a title up in any year if no near year has it; that may be a remake.
        prefixes: accept the beginning of a trait's name if only one trait begins so.
    """

    risks: Mapping[str, Mapping[str, float]]
    titles: Mapping[tuple[str, int], str]
    risk_threshold: float = THRESHOLD
    allow_any_year: bool = True
    prefixes: bool = True
    checked: int = 0
    matched: int = 0
    warned: set[str] = field(default_factory=set)

    @cached_property
    def _any_year(self) -> dict[str, str]:
        return {title: number for (title, _), number in reversed(list(self.titles.items()))}

    @cached_property
    def _traits(self) -> list[str]:
        known = {trait for traits in self.risks.values() for trait in traits}
        return list(dict.fromkeys([*(entry["trait"] for entry in traits()), *sorted(known)]))

    @property
    def coverage(self) -> float:
        """Share of the looked-up films that the oracle knew; 1 before the first."""
        return self.matched / self.checked if self.checked else 1.0

    def get_all_trait_names(self) -> list[str]:
        """Return every trait that a constraint can name."""
        return list(self._traits)

    def find(self, title: str, year: Any) -> str | None:
        """Return the IMDb number for that year, else one or two years off (the earlier first), else any year."""
        key, number = lookup_key(title), year_of(year)
        near = [] if number is None else [(key, number + around) for around in YEARS_AROUND]
        match = next((self.titles[place] for place in near if place in self.titles), None)
        return self._any_year.get(key) if match is None and self.allow_any_year else match

    def has_movie(self, title: str, year: Any = None) -> bool:
        """Return whether the oracle knows the film."""
        return self.find(title, year) is not None

    def get_movie_traits(self, title: str, year: Any = None) -> dict[str, float]:
        """Return trait -> risk; empty for an unknown film."""
        return dict(self.risks.get(self.find(title, year) or "", {}))

    def check_safety(self, title: str, year: Any, constraints: Any, threshold: float | None = None) -> SafetyCheck:
        """Check a film against constraints (see :func:`active`); an unknown film is safe."""
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
        """Call :meth:`check_safety` for each (title, year)."""
        return [self.check_safety(title, year, constraints, threshold) for title, year in movies]

    def resolve(self, names: Sequence[str]) -> list[str]:
        """Return the traits that constraints name; an unknown one has no effect and is logged once."""
        traits = []
        for name in names:
            if name in self._traits:
                traits.append(name)
                continue
            begin = name.casefold()
            starting = [trait for trait in self._traits if self.prefixes and trait.casefold().startswith(begin)]
            if len(starting) == 1:
                traits += starting
                self._warn_once(f"constraint {name!r} is read as {starting[0]!r}")
            else:
                self._warn_once(
                    f"constraint {name!r} names no trait and has no effect{did_you_mean(name, self._traits)}"
                )
        return list(dict.fromkeys(traits))

    def _warn_once(self, text: str) -> None:
        if text not in self.warned:
            self.warned.add(text)
            LOG.warning(text)


def active(constraints: Any) -> list[str]:
    """Return the traits to avoid from a row's constraints: a mapping trait -> bool, the same as JSON, a list, or nothing.

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
    base_path: str | Path = ".",
    risk_threshold: float = THRESHOLD,
    *,
    allow_any_year: bool = True,
    prefixes: bool = True,
) -> SafetyOracle:
    """Read the oracle of a folder with ``movie_trait_sensitivity.json`` and ``title_to_imdb.json`` (or ``.pkl``).

    Both may also lie in the folders of the original repository. Without a title map, the titles and years of the risk
    table are used.

    Raises:
        DataError: there is no risk table, or a file cannot be read.
    """
    folder = Path(base_path)
    path = first_file(folder, RISKS)
    if path is None:
        raise DataError(f"{folder} has neither {' nor '.join(RISKS)}; --oracle_path names the folder that has one")
    table = read_table(path)
    if not isinstance(table, list):
        raise DataError(f"{path} is no list of films")
    risks = {imdb_number(row.get("imdbId")): risks_of(row, path) for row in table}
    there = first_file(folder, TITLES)
    named = [(row["title"], row["year"], row["imdbId"]) for row in table if row.get("title") and row.get("year")]
    titles = {
        (lookup_key(title), year): imdb_number(number)
        for title, year, number in pairs(named if there is None else read_table(there), str(there))
    }
    return SafetyOracle(
        risks=risks, titles=titles, risk_threshold=risk_threshold, allow_any_year=allow_any_year, prefixes=prefixes
    )


def first_file(folder: Path, names: Sequence[str]) -> Path | None:
    """Return the first of the files that is there; None without any."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def imdb_number(value: Any) -> str:
    """Return ``tt0387564``, ``387564`` or 387564 as ``0387564``."""
    return str(value).strip().removeprefix("tt").zfill(7)


def risks_of(row: Mapping[str, Any], path: Path) -> dict[str, float]:
    """Return trait -> risk of a row: ``final``, or the larger of ``ddd_trigger`` and ``pg_risk``."""
    try:
        return {
            trait: float(
                risk["final"]
                if risk.get("final") is not None
                else max(risk.get("ddd_trigger") or 0.0, risk.get("pg_risk") or 0.0)
            )
            for trait, risk in (row.get("traits") or {}).items()
        }
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{path}: film {row.get('imdbId')!r}: {error}") from error


def pg_risk(severity: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Return the risk from a parental guide: weighted severities (0 to 3) as a share of the worst; 0 without weights."""
    total = sum(weights.values())
    return sum(weight * severity.get(name, 0.0) for name, weight in weights.items()) / (3 * total) if total else 0.0


def traits() -> list[dict[str, str]]:
    """Return the twenty traits: ``trait``, with the preference and the aversion in words."""
    table: list[dict[str, str]] = json.loads((files(__package__) / "traits_warnings.json").read_text(encoding="utf-8"))
    return table
