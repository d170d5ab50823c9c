"""Offline training, whole runs with a tiny model: it learns, resume is exact, ranks agree, failures stop it, the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import tiny
from tests.support.runs import offline_runs as runs
from tests.support.runs.metrics_page import undocumented

pytest.importorskip("torch")

from mindrlhf_grpo.errors import CheckpointError, RunFailed
from mindrlhf_grpo.report.reading import read_run
from mindrlhf_grpo.report.words import facts, headline, sentences
from mindrlhf_grpo.trainers import offline
from mindrlhf_grpo.trainers.offline_evaluation import calibration_error, evaluate_offline

pytestmark = pytest.mark.trains

MODEL, TIMES = "model.safetensors", ("time/", "memory/")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    torch.set_num_threads(1)
    return runs.prepare(tmp_path_factory.mktemp("offline"))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twice the rows, so that one row that is wrong is no more than 2 % of those held out."""
    return runs.prepare(tmp_path_factory.mktemp("many"), count=96)


def figures(run: Path) -> list[dict[str, float]]:
    """The lines of ``metrics.jsonl`` without times."""
    return [{k: v for k, v in line.items() if not k.startswith(TIMES)} for line in tiny.metrics(run)]


def trained(folder: Path, run: Path, rows: str, objective: dict[str, Any], **sections: Any) -> dict[str, Any]:
    return offline.train(runs.config_of(folder, rows, objective, run_dir=str(run), **sections))


def test_supervised_fine_tuning_lowers_the_held_out_perplexity(folder: Path, tmp_path: Path) -> None:
    summary = trained(folder, tmp_path, "chats", {"name": "sft"})
    assert summary["after"]["perplexity"] < 0.2 * summary["before"]["perplexity"]
    lines = tiny.metrics(tmp_path)
    assert lines[-1]["loss"] < 0.6 * lines[0]["loss"]
    assert lines[0]["loss"] == pytest.approx(lines[0]["nll"], rel=1e-6), "the mean over tokens of the whole batch"
    shown = headline(read_run(tmp_path))
    assert shown is not None
    assert shown.what == "held-out perplexity"
    assert shown.trend == "better"


@pytest.mark.parametrize(
    "name", ["dpo", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ipo", "aot_unpaired", "simpo"))]
)
@pytest.mark.row("mindrlhf", "DPO/RM")
def test_preferences_are_learned(name: str, many: Path, tmp_path: Path) -> None:
    summary = trained(many, tmp_path, "pairs", {"name": name}, train={"steps": 30, "prompts_per_step": 16})
    before, after = summary["before"], summary["after"]
    assert after["accuracy"] > 0.9  # 1.00 on six tiny models
    assert after["accuracy_interval"][0] > 0.7
    assert after["margin"] > before["margin"] + 0.05
    assert after["loss"] < before["loss"]


def test_an_untrained_policy_prefers_nothing(folder: Path, tmp_path: Path) -> None:
    before = trained(folder, tmp_path, "pairs", {"name": "dpo"}, train={"steps": 1})["before"]
    assert before["loss"] == pytest.approx(np.log(2))
    assert before["accuracy"] == 0.5
    assert before["ece"] == 0.0
    assert tiny.metrics(tmp_path)[0]["loss"] == pytest.approx(np.log(2))


def test_single_labelled_rows_teach_a_policy(many: Path, tmp_path: Path) -> None:
    summary = trained(many, tmp_path, "labelled", {"name": "kto"}, train={"steps": 30, "prompts_per_step": 16})
    assert summary["after"]["accuracy"] > 0.9  # 0.98 to 1.00 on six tiny models
    assert summary["after"]["reward/desirable"] > summary["after"]["reward/undesirable"] + 0.5


@pytest.mark.parametrize(("rows", "name"), [("pairs", "bradley_terry"), ("labelled", "bce")])
@pytest.mark.row("mindrlhf", "DPO/RM")
def test_a_reward_model_ranks_separable_rows(rows: str, name: str, many: Path, tmp_path: Path) -> None:
    sections = {"train": {"steps": 40, "prompts_per_step": 16, "learning_rate": 0.01}}
    summary = trained(many, tmp_path, rows, {"name": name}, **sections)
    assert summary["after"]["accuracy"] > 0.9  # 0.98 to 1.00 on six tiny models
    assert 0 <= summary["after"]["ece"] < 0.2
    config = runs.config_of(many, rows, {"name": name}, run_dir=str(tmp_path), **sections)
    found = evaluate_offline(config, tmp_path / "checkpoints" / "step_40")
    assert found.pop("accuracy_interval") == pytest.approx(summary["after"].pop("accuracy_interval"))
    assert found == pytest.approx(summary["after"], abs=1e-6)


def test_resuming_gives_the_weights_and_figures_of_the_undisturbed_run_bit_for_bit(
    folder: Path, tmp_path: Path
) -> None:
    for rows, objective in (("pairs", {"name": "dpo"}), ("pairs", {"name": "bradley_terry"})):
        whole, parts = (tmp_path / f"{objective['name']}_{part}" for part in ("whole", "parts"))
        trained(folder, whole, rows, objective, train={"steps": 8})
        trained(folder, parts, rows, objective, train={"steps": 3})
        trained(folder, parts, rows, objective, train={"steps": 8})
        for name, tensor in tiny.weights(whole, 8).items():
            assert np.array_equal(tensor.view(np.uint8), tiny.weights(parts, 8)[name].view(np.uint8)), name
        resumed = {line["step"]: line for line in figures(parts)}
        for line in figures(whole):
            assert {k: v for k, v in resumed[line["step"]].items() if not k.startswith("eval/")} == {
                k: v for k, v in line.items() if not k.startswith("eval/")
            }
        summaries = [json.loads((run / "summary.json").read_text()) for run in (whole, parts)]
        assert summaries[0]["before"] == summaries[1]["before"]


def test_other_settings_in_the_same_folder_are_refused(folder: Path, tmp_path: Path) -> None:
    trained(folder, tmp_path, "pairs", {"name": "dpo"}, train={"steps": 1})
    with pytest.raises(CheckpointError, match=r"objective.beta was None, is 0.3"):
        trained(folder, tmp_path, "pairs", {"name": "dpo", "beta": 0.3}, train={"steps": 1})


def test_stored_reference_log_probs_change_nothing_and_are_those_of_one_checkpoint(
    folder: Path, tmp_path: Path
) -> None:
    other = tiny.write_model(tmp_path / "other", seed=1)
    stored = {"name": "dpo", "reference_logps": "stored"}
    trained(folder, tmp_path / "fly", "pairs", {"name": "dpo"}, train={"steps": 5})
    trained(folder, tmp_path / "stored", "pairs", stored, train={"steps": 5})
    for one, two in zip(figures(tmp_path / "fly"), figures(tmp_path / "stored"), strict=True):
        assert one == pytest.approx(two, abs=1e-5)
    assert (tmp_path / "stored" / "reference" / "train.safetensors").is_file()
    trained(folder, tmp_path / "stored", "pairs", stored, train={"steps": 6})
    assert tiny.metrics(tmp_path / "stored")[-1]["step"] == 6
    (tmp_path / "again").mkdir()
    (tmp_path / "stored" / "reference").rename(tmp_path / "again" / "reference")
    with pytest.raises(CheckpointError, match="the reference log-probs were made with fingerprint"):
        trained(folder, tmp_path / "again", "pairs", stored, model={"path": str(other)})


def test_stored_log_probs_of_rows_that_changed_are_refused(folder: Path, tmp_path: Path) -> None:
    stored = {"name": "dpo", "reference_logps": "stored"}
    trained(folder, tmp_path / "run", "pairs", stored, train={"steps": 1}, eval={"source": None})
    (tmp_path / "again").mkdir()
    (tmp_path / "run" / "reference").rename(tmp_path / "again" / "reference")
    swapped = {"columns": {"chosen": "rejected", "rejected": "chosen"}}
    with pytest.raises(CheckpointError, match="it has other tokens now; delete the folder reference/"):
        trained(folder, tmp_path / "again", "pairs", stored, data=swapped, eval={"source": None})


def test_two_processes_are_one(folder: Path, tmp_path: Path) -> None:
    kinds = [("pairs", "aot"), ("labelled", "kto"), ("chats", "sft"), ("pairs", "bradley_terry")]
    sections: dict[str, Any] = {"train": {"steps": 4, "prompts_per_step": 5}}
    for rows, name in kinds:
        trained(folder, tmp_path / f"{name}_one", rows, {"name": name}, **sections)
    together = [
        runs.settings(folder, rows, {"name": name}, run_dir=str(tmp_path / f"{name}_two"), **sections)
        for rows, name in kinds
    ]
    runs.run_apart(together, tmp_path, processes=2)
    for _, name in kinds:
        for one, two in zip(figures(tmp_path / f"{name}_one"), figures(tmp_path / f"{name}_two"), strict=True):
            assert one == pytest.approx(two, rel=1e-4, abs=1e-5)


def test_micro_batches_change_nothing(folder: Path, tmp_path: Path) -> None:
    for budget in (30, 10_000):
        trained(
            folder,
            tmp_path / str(budget),
            "pairs",
            {"name": "dpo"},
            train={"steps": 4, "tokens_per_micro_batch": budget},
        )
    for one, two in zip(figures(tmp_path / "30"), figures(tmp_path / "10000"), strict=True):
        assert one == pytest.approx(two, rel=1e-4, abs=1e-5)


def test_a_gradient_that_is_not_finite_stops_the_run_and_keeps_the_batch(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offline, "learning_rate", lambda train, step: 1e30)
    with pytest.raises(RunFailed, match=r"step 2: .*The batch is in .*step_2.npz"):
        trained(folder, tmp_path, "chats", {"name": "sft"}, eval={"source": None})
    assert (tmp_path / "failure" / "step_2.npz").is_file()


def test_stopping_at_a_target_and_keeping_the_best(folder: Path, tmp_path: Path) -> None:
    sections: dict[str, Any] = {"eval": {"every": 2, "stop_at": 3.0}, "checkpoint": {"keep_best": True}}
    trained(folder, tmp_path, "chats", {"name": "sft"}, **sections)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert "reached the target 3.0" in summary["stopped_because"]
    assert summary["best"] <= 3.0
    assert summary["steps"] < 20
    assert (tmp_path / "checkpoints" / f"step_{summary['best_step']}").is_dir()


def test_the_report_says_what_was_learned(folder: Path, tmp_path: Path) -> None:
    trained(folder, tmp_path, "pairs", {"name": "dpo"}, train={"steps": 6}, eval={"every": 2})
    page = (tmp_path / "report.html").read_text()
    for text in ("held-out accuracy", "Calibration error", "Margin", "eval/reward/chosen", "DPO"):
        assert text in page
    run = read_run(tmp_path)
    assert run.steps[0] == 0
    assert run.series["eval/accuracy"][0] == 0.5
    shown = headline(run)
    assert shown is not None
    assert (shown.what, shown.before) == ("held-out accuracy", "50.0%")
    assert "12 problems" in shown.small_print
    assert ("objective", "dpo") in facts(run)
    assert sentences(run)[0].startswith("DPO ran 6 steps")


def test_calibration_error_is_the_distance_of_confidence_from_being_right() -> None:
    assert calibration_error(np.array([0.8] * 10), np.array([1.0] * 8 + [0.0] * 2)) == pytest.approx(0.0)
    assert calibration_error(np.array([0.99] * 4), np.array([1.0, 1.0, 0.0, 0.0])) == pytest.approx(0.49)
    assert calibration_error(np.array([0.5, 1.0]), np.array([1.0, 1.0])) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("rows", "name"), [("chats", "sft"), ("pairs", "dpo"), ("labelled", "kto"), ("labelled", "bce")]
)
def test_every_metric_is_in_the_glossary(rows: str, name: str, folder: Path, tmp_path: Path) -> None:
    trained(folder, tmp_path, rows, {"name": name}, train={"steps": 1})
    assert undocumented(tmp_path) == set()
