"""UPS-RM on MindSpore: the reward model's scores equal torch's, and the policy learns from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.recipes import ups_rm_files

pytest.importorskip("mindspore")
pytest.importorskip("torch")

import mindrlhf_grpo_mindspore
import mindrlhf_grpo_torch

from mindrlhf_grpo.config.run import ModelConfig, TrainConfig
from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.recipes.ups_rm.reward_model import backend_config, scorer_settings
from mindrlhf_grpo.rewards.models.reward_model import Scorer
from mindrlhf_grpo.rewards.models.written_answers import written_group

pytestmark = pytest.mark.trains

ANSWERS = ("bad help", "good kind moon river stone", "train", "moon bad")
MODEL = {"device": "cpu", "dtype": "float32"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ups_rm_files.trained(tmp_path_factory.mktemp("ups_rm_mindspore"))


def scorer(module: Any, model: Path, **settings: Any) -> Scorer:
    config = backend_config(str(model), {**MODEL, "backend": "torch"})
    return Scorer(scorer_settings(str(model), {**MODEL, **settings}), module.build(config), headless=True)


@pytest.mark.row("ups_rm", "Backends")
@pytest.mark.row("ups_rm", "RM shapes")
def test_scores_and_embeddings_are_torchs(folder: Path) -> None:
    groups = [written_group(0, "how do you make a cake", ANSWERS), written_group(1, "how do you make", ANSWERS[:1])]
    ours, theirs = (
        scorer(module, folder / "rm", keep=True) for module in (mindrlhf_grpo_mindspore, mindrlhf_grpo_torch)
    )
    expected = theirs.score(groups)
    assert np.ptp(expected) > 1
    assert np.abs(ours.score(groups) - expected).max() < 1e-4
    assert np.abs(ours.embeddings(groups) - theirs.embeddings(groups)).max() < 1e-4
    own = scorer(mindrlhf_grpo_mindspore, folder / "rm", trust_remote_code=True)
    assert (
        own.remote_code(ModelConfig.model_validate({"path": str(folder / "rm"), **MODEL}), TrainConfig()) is None
    )  # read natively here


@pytest.mark.row("ups_rm", "Check scripts")
def test_a_reward_model_is_checked_and_a_body_is_none(folder: Path) -> None:
    ups_rm_files.run("check-rm", "--model_path", folder / "rm", "--backend", "mindspore", "--device", "cpu")
    with pytest.raises(ConfigError, match="is a model of type 'llama'"):
        ups_rm_files.run("check-rm", "--model_path", folder / "body", "--backend", "mindspore")


@pytest.mark.slow  # test_scores_and_embeddings... and test_online hold the parts; torch runs it all
@pytest.mark.row("ups_rm", "Training")
@pytest.mark.row("ups_rm", "Group log")
def test_the_policy_loses_the_word_and_its_score_rises(folder: Path) -> None:
    metrics = ups_rm_files.train(
        folder, "run", "--backend", "mindspore", "trainer.total_training_steps=20", "data.val_files=null",
    )  # fmt: skip
    # on six tiny models the score closes 0.55 to 0.90 of its gap, and the word keeps 0.04 to 0.35 of its share
    assert ups_rm_files.gap_closed(metrics, last=5) > 0.3
    before, after = (ups_rm_files.share_with(folder / "run", "bad", steps) for steps in (range(1, 4), range(16, 21)))
    assert before > 0.1
    assert after < 0.6 * before
    assert sorted(path.name for path in (folder / "groups").iterdir()) == ["step_10.json", "step_20.json"]
