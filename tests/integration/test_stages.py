"""A chain of runs: each stage starts from the one before, and what is done is not done again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mindrlhf_grpo import trainers
from mindrlhf_grpo.config.file import AnyConfig
from mindrlhf_grpo.errors import CheckpointError, ConfigError
from mindrlhf_grpo.trainers.stages import read_stages, run_stages
from tests.support import tiny

pytest.importorskip("torch")

trainers_train = trainers.train


def prepare(folder: Path) -> Path:
    """Supervised training of one step, then two of GRPO, then one more."""
    tiny.prepare(folder)
    shown = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    rows = [{"prompt": row["prompt"], "completion": row["answer"]} for row in shown]
    (folder / "sft.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    small = {"steps": 2, "prompts_per_step": 4, "learning_rate": 0.01}
    online = tiny.settings(folder, train=small)
    kept = {name: online[name] for name in ("backend", "model")}
    data = {"source": str(folder / "sft.jsonl"), "chat_template": "none"}
    (folder / "sft.yaml").write_text(
        yaml.safe_dump({**kept, "data": data, "objective": {"name": "sft"}, "train": small})
    )
    (folder / "rl.yaml").write_text(yaml.safe_dump(online))
    stages = [{"name": name, "config": f"{name.partition('_')[0]}.yaml"} for name in ("sft", "rl_one", "rl_two")]
    path = folder / "chain.yaml"
    path.write_text(yaml.safe_dump({"run_dir": str(folder / "chain"), "stages": stages}))
    return path


def test_stages_follow_each_other_and_go_on_after_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, told, chain = prepare(tmp_path), list[str](), tmp_path / "chain"
    with pytest.raises(ConfigError, match=r"stage rl_two: .*learning_rate"):
        run_stages(path, ["rl_two.train.learning_rate=-1"], told.append)
    assert not chain.exists()

    def stopped(config: AnyConfig) -> dict[str, Any]:
        if config.run_dir.name == "rl_two":
            raise KeyboardInterrupt
        return trainers_train(config)

    monkeypatch.setattr(trainers, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_stages(path, [], told.append)
    monkeypatch.undo()
    first = chain / "sft" / "checkpoints" / "step_2" / "policy"
    assert told[1] == f"stage rl_one: {chain / 'rl_one'}, from {first}"
    assert not (chain / "rl_two").exists()
    told.clear()
    summaries = run_stages(path, ["rl_two.train.steps=1"], told.append)
    assert [text.split(":")[0] for text in told] == [
        "stage sft is finished",
        "stage rl_one is finished",
        "stage rl_two",
    ]
    assert list(summaries) == ["sft", "rl_one", "rl_two"]
    saved = yaml.safe_load((chain / "rl_two" / "config.yaml").read_text())
    assert saved["model"]["path"] == str(chain / "rl_one" / "checkpoints" / "step_2" / "policy")
    assert (saved["train"]["steps"], len(tiny.metrics(chain / "rl_two"))) == (1, 1)
    with pytest.raises(
        CheckpointError, match=r"sft holds a run with other settings: backend was 'torch', is 'mindspore'"
    ):
        run_stages(path, ["backend=mindspore"], told.append)


def test_several_processes_make_one_stage_in_a_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, told, made = prepare(tmp_path), list[str](), list[str]()

    def trained(config: AnyConfig) -> dict[str, Any]:
        made.append(config.run_dir.name)
        return {}

    monkeypatch.setattr(trainers, "train", trained)
    monkeypatch.setenv("WORLD_SIZE", "2")
    run_stages(path, [], told.append)
    assert made == ["sft"]
    assert told[-1] == "stage sft is finished; the same command makes the next one"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("stages: []", "a chain has run_dir and a list stages"),
        ("run_dir: r\nstages: [{name: a}]", r"stages.0 is \{'name': 'a'\}; a stage has a name and a config"),
        ("run_dir: r\nstages: [{name: a, config: c}, {name: a, config: d}]", "must be different identifiers"),
        ("run_dir: r\nsteps: 3\nstages: [{name: a, config: c}]", "and nothing else"),
        ("run_dir: [", r"chain.yaml:1: invalid YAML"),
    ],
)
def test_what_is_no_chain_is_said(tmp_path: Path, text: str, problem: str):
    (tmp_path / "chain.yaml").write_text(text)
    with pytest.raises(ConfigError, match=problem):
        read_stages(tmp_path / "chain.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_stages(tmp_path / "none.yaml")
