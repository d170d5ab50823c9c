"""Every problem of an offline run is reported at once, before weights are loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mindrlhf_grpo.config.offline import OfflineConfig
from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.trainers.preflight import check
from tests.support import toy_backend
from tests.support.tiny_run import write_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("offline")
    write_model(folder / "model")
    row = {"prompt": "1+1=", "chosen": "2", "rejected": "3"}
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n")
    return folder


def config(folder: Path, **sections: Any) -> OfflineConfig:
    values: dict[str, Any] = {
        "run_dir": str(folder / "run"), "model": {"path": str(folder / "model"), "device": "cpu"},
        "data": {"source": str(folder / "rows.jsonl")}, "objective": {"name": "dpo"},
        "backend": "mindrlhf_grpo_torch",
    }  # fmt: skip
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    return OfflineConfig.model_validate(values)


def test_a_sound_configuration_passes(folder: Path) -> None:
    pytest.importorskip("torch")
    check(config(folder, backend="torch"))


def test_all_problems_are_listed_with_their_keys(folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        check(config(folder, backend="jax2", objective={"name": "dpo", "gamma": 1.0}, data={"source": "absent.jsonl"}))
    text = str(caught.value)
    assert text.startswith("3 problems:")
    assert "objective.gamma is not read by sigmoid; accepted with: simpo" in text
    assert "data.source: data source 'absent.jsonl' not found" in text
    assert "backend" in text


def test_rows_of_another_kind_are_refused_by_their_first_row(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.source: .*rows.jsonl:1: no column 'completion'"):
        check(config(folder, objective={"name": "sft"}))


GOOD = {
    "sft": {"prompt": "1+1=", "completion": "2"}, "dpo": {"prompt": "1+1=", "chosen": "2", "rejected": "3"},
    "bradley_terry": {"chosen": "1+1=2", "rejected": "1+1=3"}, "kto": {"prompt": "1+1=", "completion": "2", "label": "true"},
}  # fmt: skip
BAD = {
    "sft": ({"completion": ""}, "completion is empty"), "dpo": ({"rejected": "2"}, "chosen and rejected are the same tokens"),
    "bradley_terry": ({"chosen": None}, "chosen is NoneType"), "kto": ({"label": "good"}, "label is 'good'"),
}  # fmt: skip


@pytest.mark.parametrize("objective", GOOD)
@pytest.mark.parametrize("key", ["data", "eval"])
def test_bad_rows_of_every_objective_are_found_before_weights_are_loaded(
    folder: Path, tmp_path: Path, objective: str, key: str
) -> None:
    """Newcomer's first P1, offline: SFT died at its thirteenth step of a row that doctor had called ready."""
    wrong, message = BAD[objective]
    good = [GOOD[objective]] * 30
    for name, rows in (("good", good), ("bad", [*good[:19], {**good[0], **wrong}, *good[20:28], {**good[0], **wrong}])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources = {"data": str(tmp_path / "good.jsonl"), "eval": str(tmp_path / "good.jsonl")}
    sources[key] = str(tmp_path / "bad.jsonl")
    sections = {name: {"source": source} for name, source in sources.items()}
    with pytest.raises(ConfigError) as caught:
        check(config(folder, objective={"name": objective}, **sections))
    text = str(caught.value)
    assert f"{key}.source: 2 of 29 rows of" in text
    assert f"bad.jsonl:20: {message}" in text
    assert "data.bad_rows: skip" in text
    lenient = {**sections, "data": {**sections["data"], "bad_rows": "skip"}}
    with pytest.raises(ConfigError) as caught:  # the backend's name alone is still wrong
        check(config(folder, objective={"name": objective}, backend="none", **lenient))
    assert "rows" not in str(caught.value)


def test_tensor_parallel_needs_a_backend_that_cuts_matrices_and_a_model_that_can_be_cut(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = config(folder, backend="tests.support.toy_backend", parallel={"tensor": 7})
    with pytest.raises(ConfigError, match=r"^parallel\.tensor is 7, and backend 'tests.support.toy_backend' cuts no"):
        check(asked)
    monkeypatch.setattr(toy_backend, "UNSUPPORTED", {})
    with pytest.raises(ConfigError, match=r"^parallel\.tensor is 7, which does not divide num_attention_heads \(\d+\)"):
        check(asked)
