"""The benchmark's arithmetic: medians without the first step, ratios of medians, runs in turn."""

from __future__ import annotations

import argparse
import json
from typing import Any

import pytest

from tests.support.benchmarks import benchmark

addition, turns, pairs, two_backends = map(benchmark, ("addition", "turns", "pairs", "two_backends"))


def test_first_step_is_not_counted() -> None:
    assert addition.middle([90.0, 3.0, 1.0, 2.0]) == 2.0
    assert addition.middle([90.0]) == 90.0


def test_both_sides_get_the_same_prompts() -> None:
    rows = addition.rows()
    assert len(rows) == 512
    assert rows[0] == {"prompt": "What is 12+13? Answer with only a number.", "answer": "25"}
    assert addition.rows(2)[0]["prompt"] == "note0 note1 What is 12+13? Answer with only a number."


def test_a_side_prints_one_line_with_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = argparse.Namespace(model="models/m", batch=16, generations=8, prompt_words=0, dtype="float32", beta=0.0)
    figures = addition.Figures(
        step=[9, 4, 4],
        step_cpu=[9, 7, 7],
        generate=[5, 2, 2],
        update=[3, 1, 1],
        length=[64, 64, 64],
        reward=[0, 0.5, 1],
    )
    figures.print(arguments, {"framework": "x", "torch": "y", "transformers": "z"})
    line = json.loads(capsys.readouterr().out)
    assert line.keys() >= {
        "framework", "transformers", "torch", "model", "batch", "generations", "completion_length", "dtype", "beta",
        "step_s", "step_cpu_s", "generate_s", "update_s", "generate_tok_s", "reward", "peak_rss_mb",
    }  # fmt: skip
    assert line["step_s"] == 4
    assert line["generate_tok_s"] == 16 * 64 / 2


def test_ratios_are_of_medians_and_sides_run_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    sides: list[str] = []
    ours, theirs = iter([2.0, 30.0, 3.0]), iter([10.0, 12.0, 90.0])

    def fake(command: list[str]) -> dict[str, Any]:
        sides.append(command[0])
        return dict.fromkeys(turns.COLUMNS, next(ours if command[0] == "us" else theirs))

    monkeypatch.setattr(turns, "measured", fake)
    arguments = argparse.Namespace(ours="us", peer="them", model="m", steps=2, threads=1, runs=3)
    assert pairs.compare("bf16", arguments) == {"ratio_step_bf16": 0.25}
    assert sides == ["us", "them"] * 3
    assert set(pairs.ORDER) == {ratio for work in pairs.WORKS.values() for ratio in work.ratios}


def test_losses_of_both_sides_are_compared(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    losses = {"us": [0.5, 0.25], "them": [0.5, 0.26]}
    monkeypatch.setattr(
        turns, "measured", lambda command: dict.fromkeys(pairs.OF_EVERY_STEP, 3.0) | {"loss": losses[command[0]]}
    )
    arguments = argparse.Namespace(ours="us", peer="them", model="m", steps=2, threads=1, runs=1)
    assert pairs.compare("dpo", arguments) == {"ratio_step_dpo": 1.0, "ratio_peak_memory_dpo": 1.0}
    assert "TRL [0.5, 0.26]; apart 0.01" in capsys.readouterr().out


def test_backends_are_compared_by_their_medians(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"mindspore": iter([9.0, 3.0, 1.0]), "torch": iter([2.0, 2.0, 8.0])}
    monkeypatch.setattr(turns, "measured", lambda command: dict.fromkeys(turns.COLUMNS, next(seconds[command[-1]])))
    arguments = argparse.Namespace(steps=2, threads=1, runs=3)
    ratios = two_backends.compare("tiny", arguments)
    assert ratios == {"ratio_train_step_tiny": 1.5, "ratio_decode_tiny": 1.5, "ratio_peak_memory_tiny": 1.5}
