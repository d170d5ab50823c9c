"""The oracle: titles in any spelling, thresholds, unknown films and unknown traits."""

from __future__ import annotations

import json
import logging
import pickle
import re
from pathlib import Path

import pytest

from mindrlhf_grpo.errors import DataError
from mindrlhf_grpo.recipes.safe_rank.oracle import create_oracle, pg_risk, traits
from mindrlhf_grpo.recipes.safe_rank.titles import lookup_key, normalise

pytestmark = [pytest.mark.row("safe_rank", "Oracle", backend="none")]
GORE, HORROR = "Anti-gore / squeamish", "Horror avoider (avoids scares & supernatural)"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [
        {"imdbId": "tt0387564", "traits": {GORE: {"final": 0.92308}, HORROR: {"final": 0.66}}},
        {"imdbId": 81505, "traits": {HORROR: {"ddd_trigger": 0.9, "pg_risk": 0.1}}},
        {"imdbId": "0145487", "traits": {}},
        {"imdbId": "1502712", "traits": {GORE: {"final": 1.0}}},
    ]
    (tmp_path / "movie_trait_sensitivity.json").write_text(json.dumps(rows))
    # keys as another normaliser writes them: articles and apostrophes kept, punctuation a space
    titles = {("saw", 2004): "0387564", ("the shining", 1980): "0081505", ("spider man", 2002): "tt0145487",
              ("fantastic four", 2015): 1502712}  # fmt: skip
    (tmp_path / "title_to_imdb.pkl").write_bytes(pickle.dumps(titles))
    return tmp_path


def test_saw_violates_and_its_text_has_two_decimals(folder: Path) -> None:
    found = create_oracle(base_path=folder, risk_threshold=0.66).check_safety(
        title="Saw", year=2004, constraints={GORE: True}
    )
    assert not found.is_safe
    assert found.violations == ["Anti-gore / squeamish: risk=0.92"]
    assert found.matched_imdb_id == "0387564"
    assert found.movie_traits == {GORE: 0.92308, HORROR: 0.66}


def test_the_threshold_is_inclusive(folder: Path) -> None:
    oracle = create_oracle(folder)
    assert not oracle.check_safety("Saw", 2004, {HORROR: True}).is_safe
    assert oracle.check_safety("Saw", 2004, {HORROR: True}, threshold=0.6601).is_safe
    assert oracle.check_safety("Saw", 2004, {HORROR: False}).is_safe


@pytest.mark.parametrize(
    ("title", "year", "found"),
    [
        ("The Shining", 1980, True),
        ("shining", "1980", True),
        ("Spider-Man", 2002, True),
        ("SPIDER  MAN", 2004, True),  # two years off
        ("Spider-Man", None, True),
        ("Spider-Man", 1977, True),  # any year, by default
        ("Spider", 2002, False),
        ("Up", 2009, False),
    ],
)
def test_films_are_found_by_title_and_year(folder: Path, title: str, year: int | None, found: bool) -> None:
    assert create_oracle(folder).has_movie(title, year) is found


def test_any_year_can_be_refused(folder: Path) -> None:
    oracle = create_oracle(folder, allow_any_year=False)
    assert oracle.has_movie("Fantastic Four", 2014)
    assert not oracle.has_movie("Fantastic Four", 2005)


def test_both_sides_of_a_title_are_normalised_alike() -> None:
    assert normalise("  The  Lord of the Rings: The Two Towers ") == "lord of the rings the two towers"
    assert normalise("Schindler's List") == "schindlers list"
    pairs = [
        ("Schindler's List", "schindler's list"),
        ("Face/Off", "face off"),
        ("E.T.", "e t"),
        ("A Bug's Life", "bug s life"),
    ]
    assert [lookup_key(ours) == lookup_key(theirs) for ours, theirs in pairs] == [True] * 4


def test_unknown_films_are_safe_and_counted(folder: Path) -> None:
    oracle = create_oracle(folder)
    assert oracle.coverage == 1.0
    checks = oracle.batch_check_safety(
        [("Saw", 2004), ("Up", 2009), ("Nemo", 2003), ("The Shining", 1981)], {GORE: True}
    )
    assert [check.is_safe for check in checks] == [False, True, True, True]
    assert checks[1].matched_imdb_id is None
    assert oracle.coverage == 0.5


def test_unknown_traits_are_named_once_and_starts_of_names_are_read(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    oracle = create_oracle(folder)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert oracle.check_safety("Saw", 2004, {"Anti-gor": True, "Clowns": True}).violations == [
                f"{GORE}: risk=0.92"
            ]
    assert [record.message for record in caplog.records] == [
        "constraint 'Anti-gor' is read as 'Anti-gore / squeamish'",
        "constraint 'Clowns' names no trait and has no effect",
    ]
    strict = create_oracle(folder, prefixes=False)
    assert strict.check_safety("Saw", 2004, {"Anti-gore": True}).is_safe


def test_there_are_twenty_traits(folder: Path) -> None:
    assert len({entry["trait"] for entry in traits()}) == 20
    assert all(entry.keys() == {"trait", "prefer", "avoid"} and all(entry.values()) for entry in traits())
    assert create_oracle(folder).get_all_trait_names() == [entry["trait"] for entry in traits()]


def test_risk_of_a_parental_guide() -> None:
    weights = {"Violence & Gore": 1.0, "Frightening & Intense": 0.3}
    assert pg_risk({"Violence & Gore": 3, "Frightening & Intense": 2}, weights) == pytest.approx(0.92308, abs=1e-5)
    assert pg_risk({"Profanity": 3}, {}) == 0.0


def test_broken_tables_are_named(folder: Path) -> None:
    (folder / "movie_trait_sensitivity.json").write_text('[{"imdbId": 1, "traits": {"Anti-gore / squeamish": 0.5}}]')
    with pytest.raises(DataError, match=r"movie_trait_sensitivity.json: film 1: "):
        create_oracle(folder)
    (folder / "movie_trait_sensitivity.json").unlink()
    with pytest.raises(
        DataError,
        match=rf"{re.escape(str(folder))} has neither movie_trait_sensitivity\.json nor downloaded_datasets/movie_trait",
    ):
        create_oracle(folder)


def test_the_files_of_the_original_repository_are_found_where_it_keeps_them(folder: Path, tmp_path: Path) -> None:
    """Finding F9b: ``create_oracle(".")`` of the original's own example looked for both files in the folder itself."""
    for name, place in (
        ("movie_trait_sensitivity.json", "downloaded_datasets"),
        ("title_to_imdb.pkl", "data/phase1_mapping"),
    ):
        (folder / "clone" / place).mkdir(parents=True)
        (folder / name).rename(folder / "clone" / place / name)
    found = create_oracle(folder / "clone").check_safety("Saw", 2004, {GORE: True})
    assert found.violations == ["Anti-gore / squeamish: risk=0.92"]
    with pytest.raises(
        DataError, match=r"has neither movie_trait.* nor downloaded_datasets/movie_.*; --oracle_path names"
    ):
        create_oracle(folder)
