"""Rewards by rank, against numbers worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.config.run import RewardConfig
from mindrlhf_grpo.errors import ConfigError, DataError
from mindrlhf_grpo.recipes.safe_rank import rewards
from mindrlhf_grpo.recipes.safe_rank.film_files import load_catalog
from mindrlhf_grpo.recipes.safe_rank.oracle import SafetyOracle
from mindrlhf_grpo.recipes.safe_rank.parsing import parse
from mindrlhf_grpo.recipes.safe_rank.titles import lookup_key
from mindrlhf_grpo.rewards import Rewards
from mindrlhf_grpo.types import FinishReason, Prompt, Rollout, RolloutGroup

GORE = "Anti-gore / squeamish"
FILMS = {("Toy Story", 1995), ("Finding Nemo", 2003), ("Saw", 2004), ("The Shining", 1980), ("Amélie", 2001)}


def oracle(**settings: Any) -> SafetyOracle:
    titles = {(lookup_key(title), year): f"{index:07}" for index, (title, year) in enumerate(sorted(FILMS))}
    risks = {titles[lookup_key("Saw"), 2004]: {GORE: 0.92}, titles[lookup_key("The Shining"), 1980]: {GORE: 0.66}}
    return SafetyOracle(risks=risks, titles=titles, **settings)


def score(
    completion: str, truth: list[Any], *, seen: list[str] | None = None, avoid: Any = None, rec_num: int = 4, **settings: Any
) -> list[float]:  # fmt: skip
    """Return the summed reward of one completion for a ground truth."""
    function = rewards.make_safe_reward_func(rec_num, FILMS, oracle(), **settings)
    return function([completion], [truth], [seen], [avoid])[0]


@pytest.mark.row("safe_rank", "Seed example", backend="none")
def test_the_table_of_three_films_for_default_settings() -> None:
    text = "Toy Story (1995)\nFinding Nemo (2003)\nSaw (2004)\n"
    function = rewards.make_safe_reward_func(
        rec_num=20, gt_catalog=FILMS, safety_oracle=oracle(), lambda_safe=1.0, penalty_safe=1.0
    )
    (row,) = function([text], [[["Toy Story", 1995]]], [[]], [{"Anti-gore": True}])
    assert row == [1.0, 0.0, -1.0, *[0.0] * 17]
    core = rewards.safe_reward_func_log_decay(
        [text], [[["Toy Story", 1995]]], [[]], [{"Anti-gore": True}], 20, FILMS, oracle(), 1.0, 1.0, imdb="ignored"
    )
    assert core == [row]


@pytest.mark.row("safe_rank", "Rewards", backend="none")
@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("log_decay", [1.430676558, 0.430676558, 0.430676558, 0.430676558]),
        ("gain", [1.0, 0.0, 0.0, 0.430676558]),
        ("exp_inf", [1.0, 0.0, 0.0, 1.0]),
    ],
)
def test_forms_of_relevance(form: Any, expected: list[float]) -> None:
    assert rewards.relevance_row([1, 0, 0, 1], 4, form) == pytest.approx(expected, abs=1e-9)
    text = "Toy Story (1995)\nUp (2009)\nDumbo (1941)\nFinding Nemo (2003)"
    assert score(text, [["Toy Story", 1995], ["Finding Nemo", 2003]], form=form) == pytest.approx(expected, abs=1e-9)


@pytest.mark.row("safe_rank", "Rewards", backend="none")
def test_a_violation_costs_lambda_times_penalty_and_its_discount_is_an_option() -> None:
    text = "Finding Nemo (2003)\nDumbo (1941)\nSaw (2004)"
    avoid = {GORE: True, "Horror avoider (avoids scares & supernatural)": None}
    truth = [["Saw", 2004]]  # a hit that violates gets both
    assert score(text, truth, avoid=avoid, form="gain") == [0.0, 0.0, 0.5 - 1.0, 0.0]
    halves = {"lambda_safe": 0.5, "penalty_safe": 0.5}
    assert score(text, [], avoid=avoid, **halves) == [0.0, 0.0, -0.25, 0.0]
    assert score(text, [], avoid=avoid, safety_discount="log", **halves) == [0.0, 0.0, -0.125, 0.0]
    individual = rewards.make_safe_reward_func_individual(4, FILMS, oracle())
    assert individual([text], [truth], [[]], [avoid]) == [[0.0, 0.0, 0.0, 0.0]]
    apart = rewards.make_safety_func(4, oracle(), 2.0, 2.0), rewards.make_relevance_func_individual(4, FILMS)
    assert [function([text], [truth], constraints=[avoid]) for function in apart] == [
        [[0.0, 0.0, -4.0, 0.0]], [[0.0, 0.0, 1.0, 0.0]],
    ]  # fmt: skip


@pytest.mark.row("safe_rank", "Rewards", backend="none")
@pytest.mark.parametrize(
    ("text", "truth", "seen", "expected"),
    [
        ("Toy Story (1995)", [["toy  STORY", "1997"]], None, [1, 0]),  # two years off, other case and spaces
        ("Toy Story (1995)", [["Toy Story", 1998]], None, [0, 0]),
        ("Toy Story (1996)", [["Toy Story", 1996]], None, [0, 0]),  # that year is not in the catalog
        ("Toy Story (1995)\nToy Story (1995)", [["Toy Story", 1995]], None, [1, 0]),  # each truth counts once
        ("Toy Story (1995)\nSaw (2004)", [["Toy Story", 1995], ["Saw", 2004]], ["TOY STORY"], [0, 1]),
        ("Up (2009)\nSaw (2004)", [["Up", 2009], ["Saw", 2004]], None, [0, 1]),  # not in the catalog: its place stays
        ("nothing here", [["Saw", 2004]], None, [0, 0]),
        ("1. **Amélie** (2001)\n- \"Saw\" [2004]", [["Amélie", 2001], ["Saw", 2004]], None, [1, 1]),
    ],
)  # fmt: skip
def test_what_is_a_hit(text: str, truth: list[Any], seen: list[str] | None, expected: list[float]) -> None:
    assert score(text, truth, seen=seen, rec_num=2, form="exp_inf") == expected


@pytest.mark.row("safe_rank", "Rewards", backend="none")
def test_a_list_without_items_may_cost_something() -> None:
    assert score("no list", [["Saw", 2004]]) == [0.0] * 4
    assert score("no list", [["Saw", 2004]], parse_fail_penalty=0.5) == [-0.5] * 4


@pytest.mark.row("safe_rank", "Rewards", backend="none")
def test_the_count_reward() -> None:
    function = rewards.make_count_func(2, target_count=4, lambda_count=0.5)
    lists = ["\n".join(f"Film {n} (1990)" for n in range(count)) for count in (4, 3, 8, 0)]
    assert function(lists) == [[0.5, 0.5], [-0.125, -0.125], [-0.5, -0.5], [-0.5, -0.5]]


@pytest.mark.row("safe_rank", "Rewards", backend="none")
def test_without_constraints_it_is_rank_grpo_bit_for_bit() -> None:
    draw = np.random.default_rng(0)
    films = sorted(FILMS)
    texts = ["\n".join("{} ({})".format(*films[n]) for n in draw.integers(0, 5, size=4)) for _ in range(30)]
    truth = [[list(films[n]) for n in draw.integers(0, 5, size=2)] for _ in texts]
    plain = rewards.make_relevance_func(4, FILMS)(texts, truth)
    safe = rewards.make_safe_reward_func(4, FILMS, oracle())
    for nothing in (None, {}, "", "{}", {GORE: False}, {GORE: None}, []):
        assert np.asarray(safe(texts, truth, None, [nothing] * 30)).tobytes() == np.asarray(plain).tobytes()
    assert np.asarray(safe(texts, truth)).tobytes() == np.asarray(plain).tobytes()
    assert np.asarray(safe(texts, truth, None, [{GORE: True}] * 30)).tobytes() != np.asarray(plain).tobytes()


@pytest.mark.row("safe_rank", "Rewards", backend="none")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1. Toy Story (1995)\n2) Saw (2004)", [("Toy Story", 1995), ("Saw", 2004)]),
        ("* *Saw* (2004) - bloody\r\n\r\n# “Amélie” [2001]\r\n", [("Saw", 2004), ("Amélie", 2001)]),
        ("12 Angry Men (1957)\n1. 12 Angry Men (1957)\n3.10 to Yuma (1957)\n300: Rise of an Empire (2014)",
         [("12 Angry Men", 1957), ("12 Angry Men", 1957), ("3.10 to Yuma", 1957), ("300: Rise of an Empire", 2014)]),
        ("2001: A Space Odyssey (1968)\n(Toy Story) (1995)", [("2001: A Space Odyssey", 1968), ("Toy Story", 1995)]),
        ("Saw (1)\n<solution>\nToy Story (1995)\n</solution>\nSaw (2004)", [("Toy Story", 1995)]),
        ("<solution>Saw (2004)", [("Saw", 2004)]),
        ("Saw, 2004\n(2004)\nno year", []),
    ],
)  # fmt: skip
def test_parsed_lists(text: str, expected: list[tuple[str, int]]) -> None:
    assert [(item.title, item.year) for item in parse(text)] == expected


def group(text: str, **columns: Any) -> RolloutGroup:
    ids = np.zeros(1, np.int32)
    rollout = Rollout(sample=0, ids=ids, logps=np.zeros(1, np.float32), finish=FinishReason.STOP, text=text)
    return RolloutGroup(prompt=Prompt(uid=0, ids=ids, text="?", columns=columns), rollouts=(rollout,))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "catalog.json").write_text(json.dumps(sorted(FILMS)))
    table = [{"imdbId": "tt1", "title": "Saw", "year": 2004, "traits": {GORE: {"ddd_trigger": 0.2, "pg_risk": 0.92}}}]
    (tmp_path / "movie_trait_sensitivity.json").write_text(json.dumps(table))
    return tmp_path


def test_functions_for_a_configuration_read_their_files_once(files: Path) -> None:
    catalog, risks = (
        {"catalog_path": str(files / "catalog.json"), "rec_num": 2},
        {"oracle_path": str(files), "rec_num": 2},
    )
    parts = {"total": {**catalog, **risks}, "relevance": catalog, "safety": risks, "count": {"rec_num": 2}}
    module = "mindrlhf_grpo.recipes.safe_rank.rewards"
    configs = [RewardConfig(function=f"{module}:{name}", arguments=part) for name, part in parts.items()]
    row = {"groundtruth_with_release_year": [["Saw", 2004]], "constraints": {GORE: True}}
    with Rewards(configs) as scorer:
        scorer.check(row)
        table = scorer.score([group("Saw (2004)\nUp (2009)", **row)])
        (files / "catalog.json").unlink()
        assert scorer.score([group("Saw (2004)", **row)]).values[0, 1].tolist() == [1.0, 0.0]
    assert table.names == ("total", "relevance", "safety", "count")
    assert table.values[0, :3].tolist() == [[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]
    with pytest.raises(ConfigError, match="needs 'groundtruth_with_release_year', which is no column"):
        scorer.check(["constraints"])


def test_a_row_with_broken_constraints_fails_alone(files: Path) -> None:
    config = RewardConfig(
        function="mindrlhf_grpo.recipes.safe_rank.rewards:safety", arguments={"oracle_path": str(files), "rec_num": 1}
    )
    rows = [{"groundtruth_with_release_year": [], "constraints": value} for value in ({GORE: True}, "{", 3)]
    with Rewards([config]) as scorer:
        table = scorer.score([group("Saw (2004)", **row) for row in rows])
    assert table.values[:, 0, 0].tolist() == [-1.0, 0.0, 0.0]
    assert table.failures == {"safety": 2}


def test_catalogs_are_plain_values_only(tmp_path: Path) -> None:
    import pickle

    (tmp_path / "good.pkl").write_bytes(pickle.dumps({("The Saw", "2004"), ("Up", 2009)}))
    assert load_catalog(tmp_path / "good.pkl") == {("the saw", 2004), ("up", 2009)}
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps(Path("x")))
    with pytest.raises(DataError, match=r"it holds pathlib.*accepted: plain values only"):
        load_catalog(tmp_path / "bad.pkl")
    (tmp_path / "bad.json").write_text('[["Saw", "in 2004"]]')
    with pytest.raises(DataError, match="is no title with a year"):
        load_catalog(tmp_path / "bad.json")
    with pytest.raises(DataError, match="there is no file"):
        load_catalog(tmp_path / "none.json")
