"""Options of some online algorithms in whole runs: critic, corrections, entropy, reference, pretraining mix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support import tiny
from tests.support.runs.commands import command
from tests.support.runs.online_runs import PPO, TRAIN, run
from tests.support.runs.resumed import assert_same

pytestmark = pytest.mark.trains


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("online")
    tiny.prepare(folder)
    rows = [f'{{"prompt": "{n}+1=", "completion": "{n + 1}"}}\n' for n in range(9)]
    (folder / "sums.jsonl").write_text("".join(rows))
    return folder


def test_ppo_resumed_is_the_undisturbed_run_with_its_critic(folder: Path) -> None:
    sections = {
        **PPO,
        "checkpoint": {"every": 3},
        "algorithm": {**PPO["algorithm"], "kl_control": {"target": 0.5, "horizon": 200}},
    }
    whole = run(folder, "ppo-whole", "train.steps=6", **sections)
    run(folder, "ppo-parts", "train.steps=3", **sections)
    parts = run(folder, "ppo-parts", "train.steps=6", **sections)
    assert_same(folder / "ppo-parts", folder / "ppo-whole", 6)
    keys = ("critic/loss", "critic/error", "kl/coef")
    assert [[line[key] for key in keys] for line in parts] == [[line[key] for key in keys] for line in whole]
    assert len({line["kl/coef"] for line in whole}) == 6  # the controller moves
    critic = folder / "ppo-parts" / "checkpoints" / "step_6" / "critic"
    assert {"config.json", "model.safetensors"} <= {path.name for path in critic.iterdir()}


def test_ppo_in_two_processes_is_the_run_in_one(folder: Path) -> None:
    sections = {**PPO, "train": {**TRAIN, "steps": 4, "prompts_per_step": 5, "learning_rate": 0.001}}
    one, two = (run(folder, f"ppo-{processes}", processes=processes, **sections) for processes in (1, 2))
    for line, other in zip(one, two, strict=True):
        assert other["reward/mean"] == line["reward/mean"]
        assert other["critic/loss"] == pytest.approx(line["critic/loss"], rel=1e-5)
    expected, found = tiny.weights(folder / "ppo-1", 4), tiny.weights(folder / "ppo-2", 4)
    for name, tensor in expected.items():
        assert np.linalg.norm(found[name] - tensor) <= 1e-5 * np.linalg.norm(tensor), name


def test_the_policy_stands_still_while_the_critic_warms_up(folder: Path) -> None:
    sections = {**PPO, "critic": {"learning_rate": 0.003, "warmup_steps": 3}}
    metrics = run(folder, "ppo-warm", "train.steps=5", **sections)
    assert [line["updates"] for line in metrics] == [0.0, 0.0, 0.0, 2.0, 2.0]
    assert all(line["critic/loss"] > 0 for line in metrics)
    assert metrics[2]["critic/error"] < metrics[0]["critic/error"]


@pytest.mark.slow
def test_an_entropy_bonus_keeps_the_policy_undecided(folder: Path) -> None:
    plain, bonus = (
        run(folder, f"entropy-{coef}", algorithm={"entropy": {"coef": coef}})[-1]["entropy"] for coef in (0.0, 0.5)
    )
    assert bonus > plain + 0.3


def test_the_entropy_filter_trains_the_uncertain_fifth(folder: Path) -> None:
    for count, share in (("all", 1.0), ("kept", 0.2)):
        line = run(
            folder, f"filter-{count}", "train.steps=1", algorithm={"entropy": {"top_fraction": 0.2, "count": count}}
        )[0]
        assert line["tokens/trained"] / line["tokens/generated"] == pytest.approx(share, abs=0.02)


def test_a_correction_is_logged_and_changes_nothing_where_engine_and_policy_agree(folder: Path) -> None:
    plain = run(folder, "uncorrected", "train.steps=3")
    line = run(folder, "corrected", "train.steps=3", algorithm={"correction": {"level": "token", "mode": "mask"}})
    assert [found["correction/changed_frac"] for found in line] == [0.0, 0.0, 0.0]
    assert [found["correction/mean"] for found in line] == pytest.approx([1.0, 1.0, 1.0], abs=1e-5)
    assert [found["reward/mean"] for found in line] == [found["reward/mean"] for found in plain]


@pytest.mark.slow
def test_a_reference_that_follows_keeps_the_kl_small(folder: Path) -> None:
    settings = {"kl_coef": 1e-6, "kl_estimator": "k3"}
    fixed = run(folder, "reference-fixed", algorithm=settings)
    moved = run(folder, "reference-moved", algorithm={**settings, "reference_sync": {"every": 1, "share": 1.0}})
    assert moved[-1]["kl/mean"] < 0.2 * fixed[-1]["kl/mean"]


def test_supervised_rows_are_mixed_in_and_learned(folder: Path) -> None:
    mix = {"source": str(folder / "sums.jsonl"), "coef": 1.0, "rows": 4}
    metrics = run(folder, "mixed", algorithm={"pretraining": mix})
    assert metrics[-1]["pretraining/nll"] < 0.7 * metrics[0]["pretraining/nll"]
    assert metrics[-1]["tokens/trained"] == metrics[-1]["tokens/generated"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("critic.value_clip=0.1",), "critic has no effect on algorithm.name: grpo; it belongs to ppo"),
        (("rollout.group_size=1",), "rollout.group_size is 1: algorithm.name 'grpo' compares the completions"),
        (("algorithm.name=ppo", "critic.path=nowhere/at/all"), "critic.path"),
        (("algorithm.kl_control.target=1",), "algorithm.kl_control adapts a KL in the reward"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(folder: Path, overrides: tuple[str, ...], message: str) -> None:
    config = tiny.prepare(folder, train=TRAIN)
    done = command("train", config, *overrides)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err
