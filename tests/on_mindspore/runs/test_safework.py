"""SafeWork-R1 on MindSpore: the format is learned, a run resumes, and judges answer as on torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import tiny
from tests.support.recipes.safework_judges import group
from tests.support.recipes.safework_runs import prepared, run, words

pytest.importorskip("mindspore")
pytest.importorskip("torch")

from mindrlhf_grpo.backend import backend_module
from mindrlhf_grpo.cli.main import main
from mindrlhf_grpo.config.run import RunConfig
from mindrlhf_grpo.recipes.safework.rewards import RoutedReward

pytestmark = pytest.mark.trains

STEPS = 12


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("safework") / "tiny")


@pytest.mark.slow  # the loop is test_online's and test_resume's; torch runs it all
@pytest.mark.row("safework", "End-to-end")
@pytest.mark.row("safework", "Resume/W&B")
@pytest.mark.row("safework", "DAPO")
def test_thinking_in_tags_is_learned_and_a_run_goes_on(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = words(
        made, folder, "--backend", "mindspore", "--dynamic_sampling", "--overlong_buffer", "--overlong_buffer_len", "2",
        "--overlong_buffer_penalty_factor", "0.1", "--wandb_mode", "offline",
    )  # fmt: skip
    run([*command, "train.steps=2"])
    run([*command, f"train.steps={STEPS}", "--load_checkpoint"])
    figures = tiny.metrics(folder)
    assert [line["step"] for line in figures] == list(range(1, STEPS + 1))
    rewards = [line["format_reward"] for line in figures]
    assert rewards[0] < 0.2
    assert max(rewards) > 0.8  # 0.95 to 1.00 on six tiny models; a step may fall back (0.55 has been seen)
    assert np.mean(rewards[-3:]) > 0.5  # 0.81 to 1.00
    assert figures[0]["reward/overlong/mean"] < 0
    kept = [line["dynamic_sampling/kept_ratio"] for line in figures]
    assert min(kept) < 1  # at first hardly any completion has the form, at last every one: 0.00 to 0.12 on six models
    assert kept == [1.0 - line["dead_group_frac"] for line in figures]
    assert list(folder.glob("wandb/offline-run-*/*.wandb"))


@pytest.mark.slow  # generation/test_language_model compares with torch; below they are asked
@pytest.mark.row("safework", "Co-location")
@pytest.mark.row("safework", "Custom RM")
@pytest.mark.row("safework", "Routing")
@pytest.mark.row("safework", "Judge parsing")
@pytest.mark.row("safework", "Recipe parse")
def test_judges_say_what_they_say_on_torch_and_take_turns(made: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "class Length:\n    def __call__(self, input_ids, attention_mask):\n        return {'score': attention_mask.sum(1)}\n"
    )
    shared: dict[str, Any] = {name: str(made / "base") for name in ("knowledge", "normal")}
    custom = {"path": str(made / "value"), "class": f"{tmp_path / 'mine.py'}:Length"}
    models = json.dumps({**shared, "value": str(made / "value"), "general": custom})
    completions = [r"<think>3</think>\boxed{9}", "5", "<think>1</think>8"]
    groups = [
        group(completions, prompt="4+5=?", label=label, reference="9")
        for label in ("knowledge", "value", "general", "knowledge_rule")
    ]
    found = {}
    for name in ("torch", "mindspore"):
        backend = backend_module(name).build(
            RunConfig.model_validate(tiny.settings(made, model={"path": str(made / "policy")}))
        )
        reward = RoutedReward(backend, made / "policy", models=models)
        found[name] = reward.score(groups)
        assert reward.models.loads == {str(made / "base"): 1, str(made / "value"): 1}
        inside = [getattr(model, "model", None) for model in reward.models.models.values()]
        assert [getattr(model, "model", None) for model in inside] == [None, None]  # both are freed
    assert found["mindspore"].keys() == found["torch"].keys()
    for name, values in found["torch"].items():
        np.testing.assert_allclose(found["mindspore"][name], values, rtol=0, atol=1e-5, err_msg=name)
    assert np.nansum(found["torch"]["general"]) > 0


def test_judges_are_loaded_and_asked_before_a_run(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Finding F20, on this backend."""
    words = [
        "--reward_pretrain",
        f"value:{made / 'value'}",
        "--backend",
        "mindspore",
        "--question",
        "4+5=?",
        "--response",
        "9",
    ]
    with pytest.raises(SystemExit) as ended:
        main(["recipe", "safework", "check-judges", *words])
    assert not ended.value.code
    (result,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert 0 <= result["score"] <= 1
