"""MindSpore against torch, each in a process of its own: a bundle, a perturbed bundle, and a whole training run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parents[3]
MATRIX = "model.layers.2.self_attn.k_proj.weight"


def run(*arguments: object) -> tuple[int, dict[str, Any], str]:
    """Exit code, the JSON of the last line, and standard error of a Python command."""
    quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], env={**os.environ, **quiet}, capture_output=True, text=True, timeout=580
    )
    lines = done.stdout.splitlines()
    return done.returncode, json.loads(lines[-1]) if lines else {}, done.stderr


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parity") / "bundle"
    record = ("-m", "mindrlhf_grpo", "parity", "record", folder, "--quick", "--steps", 5, "--device", "cpu")
    code, _, errors = run(*record)
    assert code == 0, errors
    return folder


@pytest.mark.slow
@pytest.mark.row("mindrlhf", "Backend parity")
def test_mindspore_computes_what_torch_recorded(bundle: Path) -> None:
    code, last, errors = run("-m", "mindrlhf_grpo", "parity", "check", bundle, "--device", "cpu")
    assert (code, last["passed"], last["failed"]) == (0, True, []), errors


@pytest.mark.slow
def test_a_perturbed_matrix_is_found_on_mindspore_and_its_layer_named(bundle: Path, tmp_path: Path) -> None:
    perturb = ("--perturb", f"{MATRIX}=0.01", "--out", tmp_path)
    code, last, errors = run("-m", "mindrlhf_grpo", "parity", "check", bundle, "--device", "cpu", *perturb)
    assert (code, last["passed"], last["first_deviating_layer"]) == (1, False, "model.layers.2"), errors
    assert f"weights as loaded: first beyond tolerance at {MATRIX}" in errors


@pytest.mark.slow  # test_online holds as much for every run of its own
@pytest.mark.row("mindrlhf", "Backend parity")
@pytest.mark.row("mindrlhf", "GRPO")
def test_twenty_steps_of_grpo_are_the_same_on_both(tmp_path: Path) -> None:
    code, last, errors = run(ROOT / "benchmarks" / "parity.py", "--folder", tmp_path)
    assert (code, last["runs"], last["steps"]) == (0, ["torch", "mindspore"], 20), errors
    assert (last["same_tokens"], last["same_rewards"]) == (True, True)
    assert last["largest_loss_difference"] <= 1e-4
    assert last["farthest_weight_distance"] <= 1e-4
