"""Doctor: its findings about this machine and a configuration, and its exit code."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.backend import MODULES
from mindrlhf_grpo.capacity import machine
from mindrlhf_grpo.capacity.machine import BackendState
from mindrlhf_grpo.cli import doctor
from mindrlhf_grpo.cli.main import main
from tests.support.tiny_run import needs_torch, write_run

CPU = {"device": "cpu", "name": "x86_64", "bfloat16": False}
GPU = {"device": "cuda:0", "name": "H100", "free": 79 * 2**30, "total": 80 * 2**30, "bfloat16": True}


def usable(*devices: dict[str, Any]) -> BackendState:
    return BackendState(name="torch", usable=True, text="torch 2.13.0", devices=list(devices))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_run(tmp_path)


@pytest.fixture(autouse=True)
def one_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """The listing of devices takes seconds in a process of its own: one test below runs it."""
    monkeypatch.setattr(doctor, "backend_states", lambda: [usable(CPU)])


@needs_torch
def test_a_good_configuration_is_ready(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["doctor", str(config)])
    out = capsys.readouterr().out
    assert stopped.value.code == 0
    assert out.splitlines()[-1] == "Ready."
    for phase in ("load", "generate", "score", "update", "checkpoint"):
        assert f"\n  {phase} " in out


@needs_torch
def test_json_has_bytes_by_phase_and_part(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["doctor", str(config), "--json"])
    findings = json.loads(capsys.readouterr().out)
    assert findings["ok"] is True
    assert findings["memory"]["parameters"] == 1536
    assert findings["memory"]["phases"]["update"]["weights"] == 1536 * 4
    assert findings["memory"]["phases"]["update"]["optimizer"] == 1536 * 8
    assert findings["versions"]["numpy"].count(".") == 2


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.stepz=1", "unknown key train.stepz"),
        ("rewards.0.function=nummeric", "there is no built-in function 'nummeric'"),
        ("model.device=cuda", "model.device: 'cuda' is not here; found: cpu"),
    ],
)
def test_a_bad_configuration_is_not_ready(
    config: Path, override: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["doctor", str(config), override])
    out = capsys.readouterr().out
    assert stopped.value.code == 1
    assert said in out
    assert out.splitlines()[-1] == "Not ready."


@needs_torch
def test_too_little_memory_is_a_problem_that_names_the_largest_part(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "host_memory", lambda: (700 * 2**20, 2**30))
    settings = ["data.max_prompt_tokens=1000000", "train.tokens_per_micro_batch=10000000"]
    findings = doctor.examine(config, settings)
    assert findings["ok"] is False
    assert "phase update needs about" in findings["problems"][0]
    assert "the largest part is activations" in findings["problems"][0]
    assert "train.tokens_per_micro_batch" in findings["problems"][0]


@needs_torch
def test_bfloat16_without_instructions_is_a_warning(config: Path) -> None:
    findings = doctor.examine(config, ["model.dtype=bfloat16"])
    assert findings["ok"] is True
    assert findings["warnings"] == ["cpu computes bfloat16 slowly: it has no instructions for it"]


def test_memory_is_compared_with_the_accelerator(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "backend_states", lambda: [usable(GPU, CPU)])
    assert doctor.examine(config, ["model.device=auto"])["memory"]["available"] == 79 * 2**30
    assert doctor.examine(config, ["model.device=cpu"])["memory"]["device"] == "cpu"
    assert "cuda:0: H100, 79.0 of 80.0 GiB free" in doctor.as_text(doctor.examine(None, []))


def test_without_a_usable_backend_nothing_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = BackendState(
        name="torch", usable=False, text="torch is missing: pip install 'mindrlhf-grpo[torch]'", devices=[]
    )
    monkeypatch.setattr(doctor, "backend_states", lambda: [absent])
    findings = doctor.examine(None, [])
    assert (findings["ok"], findings["problems"]) == (False, ["no backend can be used"])
    assert "pip install 'mindrlhf-grpo[torch]'" in doctor.as_text(findings)


@needs_torch
def test_what_a_backend_says_of_itself_is_used(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = BackendState(
        name="torch", usable=True, text="torch 2.13.0", devices=[{**CPU, "dtypes": ["float32"]}],
        absent={"npu": "No driver: install it"}, kernels={"rms_norm": "reference", "swiglu": "fused"},
    )  # fmt: skip
    monkeypatch.setattr(doctor, "backend_states", lambda: [state])
    findings = doctor.examine(config, ["model.dtype=bfloat16", "model.device=npu"])
    device, dtype = findings["problems"]
    assert device.endswith(": model.device: 'npu' is not here; found: cpu. No driver: install it")
    assert dtype.endswith(": model.dtype: torch does not compute bfloat16 on cpu; accepted: float32")
    assert findings["warnings"] == []
    assert "kernels: rms_norm reference, swiglu fused" in doctor.as_text(findings)


def test_weights_that_are_not_here_leave_memory_unpredicted(config: Path) -> None:
    (config.parent / "model" / "model.safetensors").write_bytes(b"\x10" + bytes(7) + b"{}")
    findings = doctor.examine(config, [])
    assert any("memory is not predicted" in warning for warning in findings["warnings"])


# ---- the machine


def test_a_backend_that_is_not_installed_is_a_normal_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODULES, "mindspore", "mindrlhf_grpo_no_such_module")
    monkeypatch.setattr("mindrlhf_grpo.backend.entry_points", lambda group: [])
    state = machine.backend_state("mindspore")
    assert not state.usable
    assert "is not part of this installation (module mindrlhf_grpo_no_such_module not found)" in state.text


def test_numpy_2_is_warned_of_for_mindspore(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "probe", lambda module: {"framework": "mindspore 2.10.0", "devices": []})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)  # MindSpore need not be installed
    monkeypatch.setattr(np, "__version__", "2.4.6")
    assert machine.backend_state("mindspore").warning == (
        "mindspore 2.10 needs numpy < 2, here is 2.4.6: pip install 'numpy<2'"
    )
    monkeypatch.setattr(np, "__version__", "1.26.4")
    assert machine.backend_state("mindspore").warning == ""


def test_a_framework_that_breaks_does_not_take_doctor_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_listing.py").write_text("raise ImportError('no driver')\n")
    (tmp_path / "silent_listing.py").write_text("import sys\n\ndef list_devices():\n    sys.exit()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert machine.probe("broken_listing") == "broken: ImportError: no driver"
    assert machine.probe("silent_listing") == "broken: exit code 0"


def test_host_memory_is_positive_and_ordered() -> None:
    available, total = machine.host_memory()
    assert 0 < available <= total


def test_torch_lists_its_devices() -> None:
    pytest.importorskip("torch")
    done = subprocess.run(
        [sys.executable, "-m", "mindrlhf_grpo.capacity.device_listing", "mindrlhf_grpo_torch"],
        capture_output=True,
        text=True,
        check=True,
    )
    findings = json.loads(done.stdout)
    assert findings["framework"].startswith("torch ")
    assert findings["devices"][-1]["device"] == "cpu"


@needs_torch
def test_a_run_on_given_rows_is_predicted_too(config: Path) -> None:
    rows = config.parent / "pairs.jsonl"
    rows.write_text(json.dumps({"prompt": "1+1=", "chosen": "2", "rejected": "3"}) + "\n")
    text = f"{{run_dir: {config.parent}/dpo, model: {{path: {config.parent}/model, device: cpu}}, data: {{source: {rows}}}, objective: {{name: dpo}}}}"
    path = config.parent / "dpo.yaml"
    path.write_text(text)
    findings = doctor.examine(path, [])
    assert findings["problems"] == []
    assert list(findings["memory"]["phases"]) == ["load", "score", "update", "checkpoint"]
    assert findings["memory"]["phases"]["update"]["reference"] == 1536 * 4
    assert "engine" not in {part for part, size in findings["memory"]["phases"]["update"].items() if size}
    stored = doctor.examine(path, ["objective.reference_logps=stored"])
    assert list(stored["memory"]["phases"]) == ["load", "update", "checkpoint"]
