"""Doctor: its findings about this machine and a configuration, and its exit code."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from mindrlhf_grpo.backend import MODULES
from mindrlhf_grpo.capacity import machine
from mindrlhf_grpo.capacity.machine import BackendState
from mindrlhf_grpo.cli import doctor, doctor_checks
from mindrlhf_grpo.cli.main import main
from tests.support.tiny_run import needs_torch, tensors, write_run

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
    (problem,) = [text for text in findings["problems"] if "phase update needs about" in text]
    assert "the largest part is activations" in problem
    assert "train.tokens_per_micro_batch" in problem


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


@needs_torch
def test_weights_that_are_cut_off_are_a_problem(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Newcomer P3.7: an interrupted download was a warning, and doctor said "Ready."."""
    file = config.parent / "model" / "model.safetensors"
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(SystemExit) as stopped:
        main(["doctor", str(config)])
    out = capsys.readouterr().out
    assert stopped.value.code == 1
    assert (
        f"config.yaml:4: model.path: {file} is cut off: it has {size - 100} of {size} bytes; download it again" in out
    )
    assert "memory is not predicted" not in out


@needs_torch
def test_a_shard_that_is_missing_is_a_problem(config: Path) -> None:
    model = config.parent / "model"
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert any("model-00002-of-00002.safetensors" in text for text in doctor.examine(config, [])["problems"])


@needs_torch
def test_room_for_checkpoints_is_compared_with_the_disk(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Newcomer P3.7: doctor did not look at the disk."""
    size = 1536 * (4 + 8)
    assert doctor.examine(config, [])["disk"] | {"free": 0} == {
        "checkpoint": size, "count": 1, "needed": size, "free": 0,
    }  # fmt: skip
    every = ["train.steps=9", "checkpoint.every=2", "checkpoint.keep_last=2", "checkpoint.keep_best=true"]
    assert doctor.examine(config, every)["disk"]["count"] == 4  # two, the best, and one that is written
    assert doctor.examine(config, [*every, "checkpoint.keep_last=0"])["disk"]["count"] == 6
    monkeypatch.setattr(doctor_checks.shutil, "disk_usage", lambda folder: SimpleNamespace(free=size - 1))
    (problem,) = doctor.examine(config, [])["problems"]
    assert "run_dir: 1 checkpoint of 0.00 GiB are in" in problem
    assert "lower checkpoint.keep_last" in problem


@needs_torch
def test_a_model_with_code_of_its_own_is_not_ready_without_trust(config: Path) -> None:
    """Newcomer P3.11: doctor said "Ready.", and train refused."""
    file = config.parent / "model" / "config.json"
    auto_map = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_type": "own_kind", "auto_map": auto_map}))
    (problem,) = [text for text in doctor.examine(config, [])["problems"] if "Python code" in text]
    assert "runs Python code from its folder (own.Model); model.trust_remote_code=true if you trust it" in problem
    assert not [t for t in doctor.examine(config, ["model.trust_remote_code=true"])["problems"] if "Python code" in t]


# ---- rows as a run sees them


@needs_torch
def test_memory_is_predicted_with_the_longest_prompt_too(config: Path) -> None:
    """Newcomer, doctor against measurement: the default of 1,024 prompt tokens made it 2 to 5 times too high."""
    findings = doctor.examine(config, [])
    longest = findings["memory"]["longest"]
    exact = doctor.examine(config, ["data.max_prompt_tokens=64"])["memory"]
    assert longest == {
        "tokens": 4, "checked": 9, "rows": 9, "setting": "data.max_prompt_tokens=64", "peak": exact["peak"],
    }  # fmt: skip
    assert longest["peak"] < findings["memory"]["peak"]
    assert exact["longest"] is None
    assert "  longest prompt 4 tokens: data.max_prompt_tokens=64 would be 0.4" in doctor.as_text(findings)


@needs_torch
def test_tokens_without_an_embedding_are_a_problem(config: Path) -> None:
    """Newcomer P3.11: a vocabulary that does not fit was found at row 0, after loading."""
    weights = tensors()
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"][:10]
    save_file(weights, config.parent / "model" / "model.safetensors")
    (problem,) = doctor.examine(config, [])["problems"]
    assert "config.yaml:4: model.path: " in problem
    assert "rows.jsonl has the token 14 ('=')" in problem
    assert "the model has embeddings for 10: its tokenizer is of another model" in problem
    weights["model.embed_tokens.weight"] = tensors()["model.embed_tokens.weight"][:40]
    save_file(weights, config.parent / "model" / "model.safetensors")
    findings = doctor.examine(config, [])
    assert findings["problems"] == []
    assert findings["warnings"] == [
        "the tokenizer has 43 tokens, the model embeddings for 40; the data has none of the others"
    ]


@needs_torch
def test_prompts_are_shown_as_tokens(config: Path) -> None:
    """Newcomer P2: nothing showed the rendered prompt and its tokens before training."""
    rows = doctor.examine(config, [], show=2)["rows"]
    assert [row["prompt"] for row in rows] == [
        {"tokens": 4, "pieces": list(f"{row['row'] // 3}+{row['row'] % 3}=")} for row in rows
    ]
    assert rows[0]["columns"] == {"answer": str(rows[0]["row"] // 3 + rows[0]["row"] % 3)}
    text = doctor.as_text(doctor.examine(config, ["data.shuffle=false"], show=1))
    assert "  row 0: prompt 4 tokens\n    prompt      0·+·0·=\n    answer      0\n" in text
    assert "    numeric_match: its own reference scores 1\n" in text


@needs_torch
@pytest.mark.parametrize(
    ("objective", "row", "said"),
    [
        ("sft", {"prompt": "1+1=", "completion": "2"}, "    prompt      1·+·1·=\n    completion  [2][<eos>]\n"),
        ("dpo", {"prompt": "1+1=", "chosen": "2", "rejected": "3"}, "    chosen      [2][<eos>]\n    rejected    [3][<eos>]\n"),
        ("bradley_terry", {"prompt": "1=", "chosen": "1", "rejected": "3"}, "    chosen      1·[<eos>]\n    rejected    3·[<eos>]\n"),
        ("kto", {"prompt": "1+1=", "completion": "2", "label": True}, "    completion  [2][<eos>]\n    label       1\n"),
    ],
)  # fmt: skip
def test_rows_of_a_fixed_dataset_are_shown_with_what_is_trained(
    objective: str, row: dict[str, Any], said: str, config: Path
) -> None:
    folder = config.parent
    (folder / "given.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({**row, "prompt": "2="}) + "\n")
    path = folder / "offline.yaml"
    path.write_text(
        f"{{run_dir: {folder}/off, model: {{path: {folder}/model, device: cpu}}, objective: {{name: {objective}}}, "
        f"data: {{source: {folder}/given.jsonl, shuffle: false}}, train: {{prompts_per_step: 2}}}}"
    )
    findings = doctor.examine(path, [], show=1)
    assert findings["problems"] == []
    assert said in doctor.as_text(findings)


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
