"""Every stage on every family of MindRLHF's support matrix, including its empty cells: the examples, cut to one step."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.repository import ROOT

pytest.importorskip("torch")

from mindrlhf_grpo.recipes.mindrlhf.settings import read_settings
from mindrlhf_grpo.trainers import train

pytestmark = pytest.mark.trains

EXAMPLES = ROOT / "examples/mindrlhf"
MODELS = "models/mindrlhf"
WORDS = {
    "grpo": ("actor_config.load={model}", "ref_config.load={model}", "rl_config.num_rollouts=2",
             "rl_config.num_generations=2", "reward_config.verifier_function=[reward.py:variety, format_reward]", "actor_config.save={run}", "train.steps=1"),
    "ppo": ("sft_model_path={model}.yaml", "critic_model_path={model}.yaml", "reward_model_path={model}_reward.yaml",
            "num_rollouts=4", "epochs=1", "save_ckpt_dir={run}"),
    "dpo": ("load_checkpoint={model}", "runner_config.batch_size=4", "train.steps=1", "eval.source=null", "output_dir={run}"),
    "reward_model": ("load_checkpoint={model}", "runner_config.batch_size=4", "train.steps=1", "eval.source=null",
                     "output_dir={run}"),
}  # fmt: skip
FILES = {"grpo": "grpo_qwen2_5", "ppo": "ppo_qwen2_5", "dpo": "dpo_qwen2_5", "reward_model": "reward_model_glm4"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples' models and rows."""
    folder = tmp_path_factory.mktemp("matrix")
    spec = importlib.util.spec_from_file_location("mindrlhf_prepare", EXAMPLES / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    prepare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prepare)
    (folder / MODELS).mkdir(parents=True)
    with pytest.MonkeyPatch.context() as here:
        here.chdir(folder)
        for family in prepare.FAMILIES:
            prepare.write_family(Path(MODELS), family)
        prepare.write_rows(Path(MODELS))
        Path("reward.py").write_text("def variety(completions):\n    return [len(set(text)) for text in completions]\n")
    return folder


@pytest.mark.parametrize("family", ["qwen2_5", "deepseek_v3", "glm4"])
@pytest.mark.parametrize("stage", WORDS)
@pytest.mark.row("mindrlhf", "Matrix")
def test_a_stage_takes_a_step_on_a_family(
    folder: Path, monkeypatch: pytest.MonkeyPatch, stage: str, family: str
) -> None:
    monkeypatch.chdir(folder)
    words = [word.format(model=f"{MODELS}/{family}", run=f"runs/{stage}_{family}") for word in WORDS[stage]]
    settings = read_settings(EXAMPLES / f"{FILES[stage]}.yml", words, backend="torch")
    train(settings.config)
    (line,) = metrics(folder / f"runs/{stage}_{family}")
    assert line["grad_norm"] > 0
    assert abs(line["loss"]) < 100


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("file", sorted(path.name for path in EXAMPLES.glob("*.yml")))
def test_every_example_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    monkeypatch.chdir(folder)
    config = read_settings(EXAMPLES / file, backend="torch").config
    assert str(config.run_dir) == f"runs/mindrlhf/{file.removesuffix('.yml')}"
