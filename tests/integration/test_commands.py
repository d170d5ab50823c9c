"""The commands that use a model: generate, evaluate, train, export, report and doctor on one tiny run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from mindrlhf_grpo.cli.main import main
from tests.support import tiny

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained LoRA run of two steps, with its model, rows and configuration."""
    folder = tmp_path_factory.mktemp("commands")
    evaluation = {"source": str(folder / "rows.jsonl")}
    config = tiny.prepare(folder, model={"lora_rank": 2}, train={"steps": 2}, eval=evaluation)
    tiny.train(config)
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("MINDRLHF_DEBUG", "1")

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return call


def completions(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_generate_prints_completions(run: Run, folder: Path) -> None:
    code, out, err = run("generate", folder / "model", "1+2=", "3+4=", "--max-tokens", 5, "--plain", "--device", "cpu")
    assert code == 0
    assert [line for line in out.splitlines() if line.startswith("> ")] == ["> 1+2=", "> 3+4="]
    assert "[cut at 5 tokens]" in err


def test_generate_is_seeded_and_reads_files(run: Run, folder: Path) -> None:
    (folder / "prompts.txt").write_text("1+2=\n\n3+4=\n")
    arguments = ("generate", folder / "model", "--file", folder / "prompts.txt", "--max-tokens", 6, "--temperature", 1)
    first = completions(run(*arguments, "--samples", 3, "--seed", 1, "--json")[1])
    again = completions(run(*arguments, "--samples", 3, "--seed", 1, "--json")[1])
    other = completions(run(*arguments, "--samples", 3, "--seed", 2, "--json")[1])
    assert [row["prompt"] for row in first] == ["1+2=", "3+4="]
    assert [len(row["completions"]) for row in first] == [3, 3]
    assert first == again
    assert first != other
    assert all(c["finish"] in ("stop", "length") and 1 <= c["tokens"] <= 6 for row in first for c in row["completions"])


def test_generate_from_rows(run: Run, folder: Path) -> None:
    code, out, _ = run("generate", folder / "model", "--file", folder / "rows.jsonl", "--max-tokens", 2, "--json")
    assert code == 0
    assert len(completions(out)) == 40


def test_generate_refuses_more_tokens_than_the_model_has_positions(run: Run, folder: Path) -> None:
    code, _, err = run("generate", folder / "model", "1+2=", "--max-tokens", 500)
    assert code == 2
    assert "504 tokens" in err
    assert "knows 128 positions" in err


def test_a_lora_run_is_used_like_any_other(run: Run, folder: Path, tmp_path: Path) -> None:
    """Finding P2 (LoRA runs): generate, evaluate and a next stage refused the run of an adapter."""
    code, out, _ = run("generate", folder / "run", "1+2=", "--max-tokens", 3, "--checkpoint", "best")
    assert code == 0
    assert run("generate", folder / "run" / "checkpoints" / "latest", "1+2=", "--max-tokens", 3)[1] == out
    code, out, _ = run(
        "evaluate", folder / "config.yaml", "rollout.max_tokens=4", "--limit", 3, "--model", folder / "run"
    )
    assert (code, json.loads(out)["problems"]) == (0, 3)
    overrides = [f"model.path={folder / 'run'}", f"run_dir={tmp_path / 'next'}", "train.steps=1", "model.lora_rank=0"]
    assert run("train", folder / "config.yaml", *overrides)[0] == 0
    saved = (tmp_path / "next" / "config.yaml").read_text()
    assert "run/checkpoints/step_2/policy.merged" in saved  # not `run`, which may get newer checkpoints
    assert run("train", folder / "config.yaml", *overrides)[0] == 0  # resumed, not refused as another model


def test_an_adapter_is_merged_on_request(run: Run, folder: Path, tmp_path: Path) -> None:
    code, out, _ = run("export", folder / "run", tmp_path / "merged", "--merge")
    assert code == 0
    assert json.loads(out)["merged"] is True
    merged, base = (load_file(path / "model.safetensors") for path in (tmp_path / "merged", folder / "model"))
    assert merged.keys() == base.keys()
    changed = {name for name, weight in base.items() if not np.array_equal(weight, merged[name])}
    assert changed
    assert all("_proj" in name for name in changed)
    assert run("generate", tmp_path / "merged", "1+2=", "--max-tokens", 3)[0] == 0


def test_evaluate_with_a_configuration(run: Run, folder: Path) -> None:
    right_or_wrong = "rewards.0.function=numeric_match"
    code, out, err = run("evaluate", folder / "config.yaml", right_or_wrong, "rollout.max_tokens=4", "--limit", 10)
    result = json.loads(out)
    assert code == 0
    assert (result["problems"], result["samples"], result["confidence"]) == (10, 1, 0.95)
    assert result["low"] <= result["accuracy"] == result["pass@1"] <= result["high"]
    assert set(result["rewards"]) == {"numeric_match", "length"}
    assert result["length/mean"] <= 4
    assert "of 10 problems" in err


def test_evaluate_takes_samples_and_rows_from_the_configuration(run: Run, folder: Path) -> None:
    """Newcomer P2: training and evaluate had two meanings of accuracy; they read the same keys, too."""
    sampled = ("eval.samples=3", "eval.temperature=1.0", "eval.limit=5", f"eval.source={folder / 'rows.jsonl'}")
    code, out, err = run("evaluate", folder / "config.yaml", *sampled, "rollout.max_tokens=4")
    result = json.loads(out)
    assert (code, result["problems"], result["samples"]) == (0, 5, 3)
    assert "accuracy" not in result  # the share of digits in a text is a reward
    assert err.splitlines()[-1].startswith(f"mean reward {result['reward']:.4g} over 5 problems (digits ")


def test_evaluate_with_options_alone(run: Run, folder: Path) -> None:
    code, out, _ = run(
        "evaluate", "--model", folder / "model", "--source", folder / "rows.jsonl", "--reward", "numeric_match",
        "--samples", 3, "--temperature", 1, "--max-tokens", 4, "--limit", 4, "data.chat_template=none", "model.device=cpu",
    )  # fmt: skip
    result = json.loads(out)
    assert code == 0
    assert (result["problems"], result["samples"]) == (4, 3)
    assert result["pass@1"] <= result["pass@3"]
    assert result["model"] == str(folder / "model")


def test_report_is_written_again(run: Run, folder: Path) -> None:
    page = folder / "run" / "report.html"
    page.unlink(missing_ok=True)
    code, out, _ = run("report", folder / "run")
    assert (code, out.strip()) == (0, str(page))
    assert page.stat().st_size > 1000


def test_doctor_says_the_run_is_ready(run: Run, folder: Path) -> None:
    code, out, _ = run("doctor", folder / "config.yaml", "--json")
    found = json.loads(out)
    assert code == 0, found["problems"]
    assert found["memory"]["parameters"] == sum(
        weight.size for weight in load_file(folder / "model" / "model.safetensors").values()
    )
    torch = next(backend for backend in found["backends"] if backend["name"] == "torch")
    assert torch["usable"] is True
