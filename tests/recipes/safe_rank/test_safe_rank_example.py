"""The example on MovieLens, with a wheel of a few films in place of the real one."""

from __future__ import annotations

import importlib.util
import json
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from mindrlhf_grpo.config.file import load_config
from mindrlhf_grpo.config.run import RunConfig
from mindrlhf_grpo.recipes.safe_rank.film_files import load_catalog
from mindrlhf_grpo.recipes.safe_rank.oracle import create_oracle, traits
from tests.support.repository import ROOT

FOLDER = ROOT / "examples/safe_rank"
RULES: dict[str, Any] = yaml.safe_load((FOLDER / "risks.yaml").read_text())


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_safe_rank_{name}", FOLDER / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


movielens = example("movielens")
FILMS = ["Shining, The\t1980\tHorror", "Toy Story\t1995\tAnimation Children's Comedy", "Postino, Il (The Postman)\t1994\tDrama",
         "unknown\t\tunknown", "Dead Man Walking\t1995\tDrama", *(f"Film {n}\t1990\tComedy" for n in range(20))]  # fmt: skip


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """As the real one: tabs, a header, films by number; every user likes all films, in the order of their numbers."""
    items = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n" + "".join(
        f"{number}\t{film}\n" for number, film in enumerate(FILMS, 1)
    )
    ratings = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + "".join(
        f"{user}\t{number}\t{5 if number != 6 else 1}\t{number}\n" for user in range(70) for number in range(1, 26)
    )
    path = tmp_path / "recbole-1.2.1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{movielens.INSIDE}.item", items)
        archive.writestr(f"{movielens.INSIDE}.inter", ratings)
    return path


def test_titles_are_put_in_order() -> None:
    titles = ["Shining, The", "Postino, Il (The Postman)", "Good, The Bad and The Ugly, The", "Toy Story"]
    assert [movielens.in_order(title) for title in titles] == [
        "The Shining", "Il Postino", "The Good, The Bad and The Ugly", "Toy Story",
    ]  # fmt: skip


def test_hints_of_risk_add_up() -> None:
    hints = {"genres": {"War": 0.5, "Action": 0.5}, "words": {"dead": 0.2}}
    assert movielens.risk_of({"title": "Up", "genres": ["Drama"]}, hints) == 0.0
    assert movielens.risk_of({"title": "Dead, dead", "genres": ["War", "Action"]}, hints) == 1 - 0.25 * 0.64
    assert set(RULES) <= {entry["trait"] for entry in traits()}


def test_what_is_written_is_what_the_recipe_reads(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(movielens, "fetch", lambda into: wheel)
    monkeypatch.setattr(movielens, "MEASURED", 5)
    monkeypatch.setattr(movielens, "POPULAR", 60)
    counts = movielens.write(tmp_path / "data", RULES)
    assert counts["films"] == 24  # one has no year
    assert counts["catalog"] == 23  # and one nobody likes
    catalog = load_catalog(tmp_path / "data/catalog.json")
    oracle = create_oracle(tmp_path / "data")
    assert all(oracle.has_movie(title, year) for title, year in catalog)
    assert not oracle.check_safety("The Shining", 1980, {"Horror avoider (avoids scares & supernatural)": True}).is_safe
    rows = [json.loads(line) for line in (tmp_path / "data/train.jsonl").read_text().splitlines()]
    assert len(rows) == counts["train"]
    for row in rows:
        ((trait, asked),) = row["constraints"].items()
        assert asked
        assert f"Avoid: {trait}" in row["prompt"]
        assert all(
            oracle.check_safety(title, year, [trait]).is_safe for title, year in row["groundtruth_with_release_year"]
        )
        assert not {title for title, _ in row["groundtruth_with_release_year"]} & set(row["seen_titles"])


def test_another_package_than_the_known_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake_pip(command: list[str], **_: Any) -> None:
        (tmp_path / "recbole-1.2.1-py3-none-any.whl").write_bytes(b"something else")

    monkeypatch.setattr(movielens.subprocess, "run", fake_pip)
    with pytest.raises(SystemExit, match="not the package this was written for"):
        movielens.fetch(tmp_path)


@pytest.mark.parametrize("mode", ["grpo", "gdpo"])
def test_the_configurations_are_valid(mode: str) -> None:
    config = load_config(FOLDER / f"{mode}.yaml", [])
    assert isinstance(config, RunConfig)
    assert config.algorithm.name == mode
    assert len(config.rewards) == {"grpo": 2, "gdpo": 3}[mode]
    load_config(FOLDER / "sft.yaml", [])


def test_every_film_is_one_token(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(movielens, "fetch", lambda into: wheel)
    monkeypatch.setattr(movielens, "MEASURED", 5)
    monkeypatch.setattr(movielens, "POPULAR", 60)
    movielens.write(tmp_path / "data", RULES)
    monkeypatch.setattr(
        sys, "argv", ["model.py", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "m"), "--hidden", "8"]
    )
    example("model").main()
    from mindrlhf_grpo.tokenizers.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(str(tmp_path / "m"))
    text = "Liked:\nThe Shining (1980)\nFilm 12 (1990)\nNext:\n"
    assert len(tokenizer.encode(text)) == 10
    assert tokenizer.decode(tokenizer.encode(text)) == text
