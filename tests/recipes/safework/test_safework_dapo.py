"""DAPO in a run: the overlong penalty, dead groups that it must not hide, masked or resampled; CPGD, GSPO, clip-higher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mindrlhf_grpo.config.run import RunConfig
from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.rewards.builtin.length import overlong
from mindrlhf_grpo.trainers import train
from tests.support import tiny

pytest.importorskip("torch")

OVERLONG = {"function": "overlong", "arguments": {"max_tokens": 8, "buffer": 8}}
SOURCE = """
def constant(completions):
    return [0.7] * len(completions)

def known(completions, answer):
    '''Rows with an even answer are always solved; the others tell completions apart.'''
    return [1.0 if int(a) % 2 == 0 else sum(map(ord, text)) / 1000 for text, a in zip(completions, answer)]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("dapo")
    tiny.prepare(made)
    (made / "mine.py").write_text(SOURCE)
    return made


def figures(folder: Path, run: str, function: str = "constant", **algorithm: Any) -> dict[str, float]:
    """Return the metrics of the first step."""
    sections: dict[str, Any] = {
        "run_dir": str(folder / run),
        "rewards": [{"function": f"{folder / 'mine.py'}:{function}"}, OVERLONG],
        "rollout": {"group_size": 4, "max_tokens": 8, "slots": 8},
        "train": {"steps": 1, "prompts_per_step": 8, "learning_rate": 0.01},
        "algorithm": algorithm,
    }
    train(RunConfig.model_validate({**tiny.settings(folder), **sections}))
    return tiny.metrics(folder / run)[0]


@pytest.mark.row("safework", "DAPO", backend="none")
def test_the_overlong_penalty_begins_with_the_buffer():
    lengths = [80, 90, 100, 79, 120]
    found = overlong([""] * 5, [""] * 5, [[0] * n for n in lengths], max_tokens=100, buffer=20)
    assert found == [0.0, -0.5, -1.0, 0.0, -1.0]
    with pytest.raises(ConfigError, match=r"buffer \(101\) is above max_tokens"):
        overlong([""], [""], [[0]], max_tokens=100, buffer=101)


@pytest.mark.row("safework", "DAPO")
def test_a_group_that_only_its_lengths_tell_apart_is_dead_and_gives_no_gradient(folder: Path):
    hidden = figures(folder, "hidden", dead_groups="mask")
    assert hidden["dead_group_frac"] < 1
    assert hidden["grad_norm"] > 0
    found = figures(folder, "found", dead_groups="mask", dead_group_test={"without": ["overlong"]})
    assert found["dead_group_frac"] == 1
    assert found["tokens/trained"] == 0
    assert found["updates"] == 0
    assert found["reward/overlong/mean"] < 0


@pytest.mark.row("safework", "DAPO")
def test_masked_groups_leave_the_gradient_of_the_others(folder: Path):
    test = {"without": ["overlong"]}
    some = figures(folder, "some", "known", dead_groups="mask", dead_group_test=test)
    assert 0 < some["dead_group_frac"] < 1
    assert some["updates"] == 1
    share = some["tokens/trained"] / some["tokens/generated"]
    assert share == pytest.approx(1 - some["dead_group_frac"], abs=0.2)


@pytest.mark.row("safework", "DAPO")
def test_resampling_fills_the_batch_with_groups_that_differ(folder: Path):
    test = {"without": ["overlong"]}
    filled = figures(folder, "filled", "known", dead_groups="resample", dead_group_test=test, resample_budget=10)
    assert filled["prompts"] == 8
    assert 2 <= filled["generation_rounds"] <= 10
    assert 0.2 < filled["dead_group_frac"] < 0.8  # half of the answers are even
    assert filled["updates"] == 1
    spent = figures(folder, "spent", dead_groups="resample", dead_group_test=test, resample_budget=3)
    assert (spent["generation_rounds"], spent["prompts"], spent["updates"]) == (3, 0, 0)


@pytest.mark.row("safework", "DAPO")
@pytest.mark.parametrize(
    "algorithm",
    [{"name": "cpgd"}, {"name": "gspo"}, {"clip_low": 0.2, "clip_high": 0.28, "aggregation": "token_mean"}],
    ids=["cpgd", "gspo", "clip-higher"],
)
def test_the_losses_of_the_recipe_train(folder: Path, algorithm: dict[str, Any], request: pytest.FixtureRequest):
    assert figures(folder, request.node.callspec.id, "known", **algorithm)["grad_norm"] > 0


def test_a_component_that_is_not_there_cannot_be_left_out(folder: Path):
    with pytest.raises(ConfigError, match="no reward component is called 'overlang'; there are constant, overlong"):
        figures(folder, "absent", dead_groups="mask", dead_group_test={"without": ["overlang"]})
    with pytest.raises(ConfigError, match="no reward component would be left"):
        figures(folder, "nothing", dead_groups="mask", dead_group_test={"without": ["overlong", "constant"]})
