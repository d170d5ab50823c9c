"""Every problem of an offline run is reported at once, before weights are loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mindrlhf_grpo.config.offline import OfflineConfig
from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.trainers.preflight import check
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
