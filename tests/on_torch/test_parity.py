"""``mindrlhf-grpo parity`` as its user meets it: record and check, on torch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support import tiny
from tests.support.runs.commands import command

pytest.importorskip("torch")

pytestmark = pytest.mark.trains

MATRIX = "model.layers.1.mlp.up_proj.weight"


def parity(*arguments: object) -> tuple[int, dict[str, Any], str]:
    """Exit code, the JSON of the last line, and standard error."""
    done = command("parity", *arguments)
    lines = done.out.splitlines()
    return done.code, json.loads(lines[-1]) if lines else {}, done.err


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parity") / "bundle"
    code, last, errors = parity("record", folder, "--steps", 3, "--seed", 4, "--device", "cpu")
    assert code == 0, errors
    assert last["files"] == sum(path.is_file() for path in folder.rglob("*")) - 1
    return folder


def test_the_same_stack_passes_and_writes_text_json_and_page(bundle: Path) -> None:
    code, last, errors = parity("check", bundle, "--backend", "torch", "--device", "cpu")
    assert (code, last["passed"], last["failed"]) == (0, True, []), errors
    out = bundle.with_name("bundle-torch")
    written = json.loads((out / "result.json").read_text())
    assert {item["quantity"] for item in written["findings"]} == {
        "weights", "layer_logps", "logps", "entropy", "losses", "gradients", "tokens", "token_logps", "step_losses",
        "step_norms", "trained_weights",
    }  # fmt: skip
    assert all(item["passed"] for item in written["findings"])
    assert "log-probs read off after each layer" in (out / "result.txt").read_text()
    assert Path(last["report"]).read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("place", ["", "[3,4]"])
def test_a_perturbed_matrix_fails_and_its_layer_is_named(bundle: Path, tmp_path: Path, place: str) -> None:
    code, last, errors = parity(
        "check",
        bundle,
        "--backend",
        "torch",
        "--device",
        "cpu",
        "--perturb",
        f"{MATRIX}{place}=0.01",
        "--out",
        tmp_path,
    )
    assert (code, last["passed"], last["first_deviating_layer"]) == (1, False, "model.layers.1"), errors
    assert f"weights as loaded: first beyond tolerance at {MATRIX}" in errors
    assert "log-probs first deviate after model.layers.1" in errors
    assert "Traceback" not in errors


@pytest.mark.slow  # the conformance suite holds adapters too
def test_adapters_are_recorded_and_checked(tmp_path: Path) -> None:
    folder = tmp_path / "lora"
    assert parity("record", folder, "--steps", 2, "--lora-rank", 2, "--quick", "--device", "cpu")[0] == 0
    code, last, errors = parity("check", folder, "--backend", "torch", "--device", "cpu")
    assert (code, last["passed"]) == (0, True), errors
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.slow  # MindSpore compiles for a minute
def test_mindspore_computes_in_sixteen_bits_what_torch_does(tmp_path: Path) -> None:
    pytest.importorskip("mindspore")
    folder = tmp_path / "narrow"
    made = parity("record", folder, "--steps", 2, "--quick", "--dtype", "float16", "--device", "cpu")
    assert made[0] == 0, made[2]
    code, last, errors = parity("check", folder, "--backend", "mindspore", "--device", "cpu")
    assert (code, last["passed"], last["failed"]) == (0, True, []), errors
    result = json.loads((tmp_path / "narrow-mindspore" / "result.json").read_text())
    tolerances = {finding["quantity"]: finding["tolerance"] for finding in result["findings"]}
    assert (tolerances["logps"], tolerances["gradients"], tolerances["weights"]) == (0.03125, 0.03125, 0.0)
    assert 0 < max(item["deviation"] for item in result["findings"] if item["quantity"] == "logps") < 0.03125


def test_mistakes_are_one_clear_error(bundle: Path, tmp_path: Path) -> None:
    code, _, errors = parity("check", bundle, "--backend", "torhc")
    assert (code, "backend 'torhc' is unknown" in errors, "Traceback" in errors) == (2, True, False)
    code, _, errors = parity("check", tmp_path / "none", "--backend", "torch")
    assert (code, "is no parity bundle" in errors) == (2, True)
    code, _, errors = parity("record", bundle)
    assert (code, "exists" in errors) == (2, True)
    broken = shutil.copytree(bundle, tmp_path / "broken")
    (broken / "expected" / "gradients" / "clip_and_KL.safetensors").unlink()
    code, _, errors = parity("check", broken, "--backend", "torch")
    assert (code, "clip_and_KL.safetensors is missing" in errors) == (2, True)


def test_two_runs_are_compared_step_by_step(tmp_path: Path) -> None:
    config = tiny.prepare(tmp_path, train={"steps": 2})
    for name in ("torch", "torch-again"):
        tiny.train(config, f"run_dir={tmp_path / name}")
    code, last, errors = parity("runs", tmp_path / "torch", tmp_path / "torch-again")
    assert code == 0, errors
    assert last["runs"] == ["torch", "torch-again"]
    assert (last["passed"], last["steps"], last["same_tokens"], last["same_rewards"]) == (True, 2, True, True)

    spoilt = tmp_path / "torch" / "rollouts" / "step_2.jsonl"
    other = Path(shutil.copytree(tmp_path / "torch", tmp_path / "other"))
    lines = spoilt.read_text().splitlines()
    first = json.loads(lines[0])
    first["ids"][0] += 1
    (other / "rollouts" / "step_2.jsonl").write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
    code, last, errors = parity("runs", tmp_path / "torch", other)
    assert (code, last["passed"], last["same_tokens"], last["same_rewards"]) == (1, False, False, True), errors
    assert "Failed, first at step 2" in errors
