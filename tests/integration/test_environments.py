"""Runs with an environment: several turns from the first step to the report, on any algorithm that a turn may break."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.report import render
from mindrlhf_grpo.run.rollout_log import read_rollouts
from tests.support import tiny
from tests.support.environments import tiny_environment
from tests.support.runs.commands import command
from tests.support.runs.resumed import assert_same

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("environments")


def run(folder: Path, name: str, kind: str = "Echo", **sections: Any) -> list[dict[str, float]]:
    config = tiny_environment.prepare(folder, kind, **sections)
    tiny.train(config, f"run_dir={folder / name}")
    return tiny.metrics(folder / name)


def test_turns_are_sampled_answered_trained_and_logged(folder: Path) -> None:
    metrics = run(folder, "grpo", eval={"source": str(folder / "rows.jsonl"), "limit": 4, "temperature": 1.0})
    for line in metrics:
        assert line["ratio/max_dev"] < 1e-4, "sampled log-probs of later turns are the policy's"
        assert line["tokens/trained"] == line["tokens/generated"] <= 16 * 120
        assert line["tokens/environment"] > 0
        assert 1 < line["environment/turns"] <= 3
        assert line["environment/failed_frac"] == 0
    records = read_rollouts(folder / "grpo" / "rollouts" / "step_2.jsonl")
    assert len(records) == 16
    several = [record for record in records if record.episode is not None and record.episode.turns == 3]
    assert several
    for record in several:
        assert record.episode is not None
        for start, end in record.environment_spans:
            text = "".join(record.tokens[start:end])
            assert text.endswith("<s>assistant\n")
            assert "heard, go on<e>" in text
            assert record.logps[start:end] == record.advantages[start:end] == [0.0] * (end - start)
        steps = [message.get("reward", 0.0) for message in record.episode.messages if message["role"] == "assistant"]
        assert record.reward == pytest.approx(sum(steps)) == record.components["environment"]
    assert metrics[-1]["length/mean"] * 16 == pytest.approx(metrics[-1]["tokens/generated"])
    page = render(folder / "grpo").read_text()
    assert "heard, go on" in page


@pytest.mark.parametrize(
    "sections",
    [
        {"algorithm": {"name": "ppo", "kl_coef": 0.02, "kl_in": "reward", "kl_estimator": "k1"}, "critic": {}},
        {"algorithm": {"name": "grpo", "kl_coef": 0.02}},
        {"algorithm": {"name": "remax"}},
    ],
    ids=["ppo", "grpo with a reference", "remax"],
)
def test_other_algorithms_count_sampled_tokens_only(folder: Path, sections: dict[str, Any]) -> None:
    metrics = run(folder, sections["algorithm"]["name"] + str(len(sections)), **sections, train={"steps": 2})
    for line in metrics:
        assert line["ratio/max_dev"] < 1e-4
        assert line["tokens/trained"] == line["tokens/generated"]
    if "kl/mean" in metrics[0]:
        assert metrics[0]["kl/mean"] < 1e-6, "the first policy is its reference"


def test_the_same_tokens_as_a_plain_run_where_nothing_is_answered(folder: Path, tmp_path: Path) -> None:
    """An environment that says nothing changes no bit of a run."""
    silent = folder / "silent.py"
    silent.write_text(
        "class Silent:\n    def reset(self): ...\n    def step(self, text):\n        return '', True, 1.0\n"
    )
    reward = {"rewards": [{"function": f"{folder / 'digits.py'}:digits"}]}
    (folder / "digits.py").write_text(tiny.REWARD)
    with_it = run(folder, "silent", environment={"function": f"{silent}:Silent"}, **reward)
    without = run(folder, "plain", environment=None, **reward)
    keys = ("loss", "grad_norm", "reward/mean", "entropy", "tokens/trained")
    assert [[line[key] for key in keys] for line in with_it] == [[line[key] for key in keys] for line in without]
    records = [read_rollouts(folder / name / "rollouts" / "step_3.jsonl") for name in ("silent", "plain")]
    assert [one.ids for one in records[0]] == [one.ids for one in records[1]]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"environment": {"function": "no_such_file.py:Search"}},
            "environment.function: there is no file no_such_file.py",
        ),
        ({"data": {"chat_template": "none"}}, "environment needs a chat template"),
        ({"rollout": {"repetition_penalty": 1.1}}, "rollout.repetition_penalty does not go with environment"),
        ({"environment": {"arguments": {"size": 3}}}, "environment.arguments: .* cannot be built: TypeError"),
        ({"environment": None}, "function: environment is the environment's own reward, and there is no environment"),
    ],
)
def test_what_does_not_fit_is_refused_before_weights_are_loaded(
    folder: Path, sections: dict[str, Any], message: str
) -> None:
    config = tiny_environment.prepare(folder, **sections)
    with pytest.raises(ConfigError, match=message):
        tiny.train(config, f"run_dir={folder / 'refused'}")


def test_tools_are_in_the_prompt_and_rows_keep_their_columns(folder: Path) -> None:
    metrics = run(folder, "tools", "Calculator", train={"steps": 1})
    assert metrics[0]["environment/turns"] == 1.0
    assert metrics[0]["environment/used_frac"] == 0.0
    config = json.loads((folder / "tools" / "rollouts" / "step_1.jsonl").read_text().splitlines()[0])
    assert config["columns"]["answer"]
    assert config["reward"] == 0.0


def test_a_resumed_run_is_the_undisturbed_one_bit_for_bit(folder: Path) -> None:
    checkpoints = {"every": 1, "keep_last": 0}
    run(folder, "whole", train={"steps": 4}, checkpoint=checkpoints)
    for steps in (1, 3, 4):
        run(folder, "resumed", train={"steps": steps}, checkpoint=checkpoints)
    assert_same(folder / "resumed", folder / "whole", 4)


def test_evaluate_answers_with_the_environment(folder: Path) -> None:
    """The command measures what training measures: one that left the environment out would say another reward."""
    config = tiny_environment.prepare(folder, "Echo")
    done = command("evaluate", config, "--source", folder / "rows.jsonl", "--limit", 4, "--temperature", 1)
    assert done.code == 0, done.err
    found = json.loads(done.out.splitlines()[-1])
    assert (found["problems"], found["unscored"]) == (4, 0)
    assert found["rewards"]["environment"] == pytest.approx(found["reward"])
