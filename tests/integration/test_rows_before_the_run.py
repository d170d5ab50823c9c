"""A bad row is found before the first step, and every remedy that its error names works, also on a resumed run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mindrlhf_grpo.data.stream import PromptStream
from mindrlhf_grpo.errors import ConfigError, DataError
from mindrlhf_grpo.model_files.checkpoint_folders import steps
from tests.support import tiny
from tests.support.runs.commands import command
from tests.support.runs.resumed import assert_same

pytestmark = pytest.mark.trains

ROWS = 160
BAD = {"null": None, "long": "1+" * 60}  # of row 120
REMEDIES = {
    "null": ["data.bad_rows=skip"],
    "long": ["data.overlong=drop"],
    "long and a larger limit": ["data.max_prompt_tokens=119"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.prepare(tmp_path_factory.mktemp("rows")).parent


def write_rows(folder: Path, kind: str) -> Path:
    """Rows of additions, of which row 120 is bad, and a configuration that meets it in its twelfth step."""
    rows: list[dict[str, Any]] = [{"prompt": f"{n % 10}+{n // 10 % 10}=", "answer": "1"} for n in range(ROWS)]
    rows[119]["prompt"] = BAD[kind.split()[0]]
    if "limit" in kind:
        rows[119]["prompt"] = "1+" * 55
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = tiny.settings(
        folder, data={"max_prompt_tokens": 100, "shuffle": False}, train={"steps": 13, "prompts_per_step": 10},
        rollout={"group_size": 2, "max_tokens": 8, "slots": 20}, checkpoint={"every": 5},
    )  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder / "config.yaml"


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_row_is_found_before_the_first_step(folder: Path, tmp_path: Path, kind: str) -> None:
    """Newcomer's first P1, with its own rows: a bad row late among the others."""
    config = write_rows(folder, kind)
    for verb in ("doctor", "train"):
        done = command(verb, config, f"run_dir={tmp_path / 'run'}")
        said = done.out + done.err
        assert done.code == {"doctor": 1, "train": 2}[verb]
        assert "1 of 160 rows of" in said
        assert "rows.jsonl:120: the prompt" in said
        assert REMEDIES[kind][0].partition("=")[0] in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", REMEDIES)
def test_the_remedy_that_an_error_names_works_on_a_run_that_met_the_row(
    folder: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of an earlier version, or of very many rows, may still meet a bad row: it goes on as if it had known."""
    config = write_rows(folder, kind)
    run, known = f"run_dir={tmp_path / 'run'}", f"run_dir={tmp_path / 'known'}"
    with monkeypatch.context() as unchecked:
        unchecked.setattr(PromptStream, "checked", 40)
        with pytest.raises(DataError, match=r"rows\.jsonl:120: the prompt"):
            tiny.train(config, run)
    assert steps(tmp_path / "run" / "checkpoints")[-1] == 10
    tiny.train(config, run, *REMEDIES[kind])
    tiny.train(config, known, *REMEDIES[kind])
    assert_same(tmp_path / "run", tmp_path / "known", 13)
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    key, _, value = REMEDIES[kind][0].removeprefix("data.").partition("=")
    assert str(saved["data"][key]) == value


def test_lengths_that_cannot_fit_are_an_error_of_the_configuration(folder: Path, tmp_path: Path) -> None:
    config = tiny.prepare(folder)
    for overrides, message in (
        (
            ["data.max_prompt_tokens=125"],
            r"data.max_prompt_tokens 125 and rollout.max_tokens 8 are 133 tokens, .* is 128",
        ),
        (["rollout.max_tokens=128"], r"rollout.max_tokens 128 leaves no room for a prompt"),
    ):
        with pytest.raises(ConfigError, match=message):
            tiny.train(config, f"run_dir={tmp_path / 'run'}", *overrides)


def test_a_mixture_is_reported_by_source_and_more_rows_than_there_are_are_said(folder: Path, tmp_path: Path) -> None:
    """Newcomer's P3.13: 500 prompts of 60 rows were drawn without a word."""
    for name, count in (("easy", 3), ("hard", 2)):
        tiny.write_rows(folder / f"{name}.jsonl", count)
    sources = [
        {"source": str(folder / "easy.jsonl"), "weight": 3}, {"source": str(folder / "hard.jsonl"), "weight": 1},
    ]  # fmt: skip
    config = tiny.prepare(folder, data={"source": sources}, train={"steps": 4, "prompts_per_step": 8})
    tiny.train(config, f"run_dir={tmp_path / 'run'}")
    lines = tiny.metrics(tmp_path / "run")
    for line in lines:
        prompts = {name: line.get(f"source/{name}/prompts", 0.0) for name in ("easy", "hard")}
        assert sum(prompts.values()) == 8
        rewards = sum(prompts[name] * line.get(f"source/{name}/reward", 0.0) for name in prompts)
        assert rewards / 8 == pytest.approx(line["reward/mean"], rel=1e-6)
    total = sum(line.get("source/easy/prompts", 0.0) for line in lines)
    assert abs(total - 24) <= 3
    warnings = json.loads((tmp_path / "run" / "summary.json").read_text())["warnings"]
    assert any("a step draws 8 rows and there are 5: rows repeat within a step" in text for text in warnings)
