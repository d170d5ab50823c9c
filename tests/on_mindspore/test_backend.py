"""The backend refuses clearly, before weights are read and where possible before MindSpore is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import mindrlhf_grpo_mindspore
import numpy as np
import pytest
from mindrlhf_grpo_mindspore import checks
from mindrlhf_grpo_mindspore.backend import MindSporeBackend
from mindrlhf_grpo_mindspore.devices import select
from mindrlhf_grpo_mindspore.models import hf

from mindrlhf_grpo.backend import backend_of_type
from mindrlhf_grpo.capacity import machine
from mindrlhf_grpo.config.file import read_config
from mindrlhf_grpo.config.parallel import ParallelConfig
from mindrlhf_grpo.config.run import RunConfig
from mindrlhf_grpo.errors import BackendError, ConfigError
from mindrlhf_grpo.trainers.preflight import problems_of
from tests.support import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tiny.prepare(folder, backend="mindspore")
    return folder


def config_of(folder: Path, **model: Any) -> RunConfig:
    overrides = [f"model.{key}={value}" for key, value in model.items()]
    return read_config(folder / "config.yaml", overrides)[0]


def test_a_good_configuration_passes_and_builds(folder: Path) -> None:
    config = config_of(folder)
    assert problems_of(config) == []
    backend = mindrlhf_grpo_mindspore.build(config)
    assert isinstance(backend, MindSporeBackend)
    assert (backend.name, str(backend.device), backend.comm.world_size) == ("mindspore", "cpu", 1)
    assert backend.compile_log.entries == []
    assert backend.versions()["mindspore"] == "2.10.0"
    assert backend.memory()["peak_rss_mb"] > 100


def test_numpy_2_is_refused_with_the_remedy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.np, "__version__", "2.4.6")
    expected = "backend 'mindspore' needs numpy < 2, here is numpy 2.4.6: pip install 'numpy<2'"
    with pytest.raises(BackendError) as raised:
        mindrlhf_grpo_mindspore.build(config_of(folder))
    assert str(raised.value) == expected
    assert problems_of(config_of(folder)) == [("backend", expected)]


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_of_others_is_refused(folder: Path, device: str) -> None:
    config = config_of(folder, device=device)
    with pytest.raises(BackendError, match=rf"does not compute on '{device}'; it takes auto, cpu, npu .*backend=torch"):
        mindrlhf_grpo_mindspore.build(config)
    assert [key for key, _ in problems_of(config)] == ["model.device"]


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_bfloat16_on_the_processor_is_refused(folder: Path, device: str) -> None:
    config = config_of(folder, device=device, dtype="bfloat16")
    with pytest.raises(BackendError, match=r"^model.dtype: .*float32 only.*set model.dtype=float32"):
        mindrlhf_grpo_mindspore.build(config)


def test_weights_shared_out_over_ranks_are_refused(folder: Path) -> None:
    for refused, message in {
        "fsdp": r"every rank holds all weights; accepted: replicate, zero1, zero2, or backend=torch for 'fsdp'",
        "zero1": r"parallel.offload: .* accepted: false, or swap",
    }.items():
        parallel = ParallelConfig(strategy=refused, offload=refused == "zero1")  # type: ignore[arg-type]
        with pytest.raises(BackendError, match=message):
            mindrlhf_grpo_mindspore.check(config_of(folder).model_copy(update={"parallel": parallel}))


def test_ascend_without_cann_is_refused_with_the_remedy(folder: Path) -> None:
    with pytest.raises(BackendError) as raised:
        select("npu", "bfloat16", 0)
    assert str(raised.value).startswith("model.device 'npu': MindSpore does not find CANN; install a version")
    assert "set_env.sh" in str(raised.value)


def test_cann_without_a_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from mindrlhf_grpo_mindspore import devices

    monkeypatch.setattr(devices.ascend, "is_available", lambda: True)
    monkeypatch.setattr(devices.ascend, "device_count", lambda: 0)
    with pytest.raises(BackendError, match="CANN finds no Ascend device; `npu-smi info` must list one"):
        select("npu", "float32", 0)


def test_an_unknown_family_is_refused_before_weights_are_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf, "load_weights", lambda *arguments: pytest.fail("weights are read"))
    model = tmp_path / "model"
    model.mkdir()
    for path in (folder / "model").iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    values = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**values, "model_type": "falcon"}))
    config = config_of(folder, path=model)
    with pytest.raises(ConfigError, match=rf"^model.path '{model}': .*no model family 'falcon'.*supported: llama"):
        mindrlhf_grpo_mindspore.build(config)
    ((key, text),) = problems_of(config)
    assert key == "model.path"
    assert "supported: llama, qwen2, qwen3" in text


# ---- in a process of its own


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], env={**tiny.environment(), **environment}, capture_output=True, text=True,
        timeout=100,
    )  # fmt: skip


def test_a_mistake_ends_training_with_one_block_and_no_traceback(folder: Path) -> None:
    done = run("-m", "mindrlhf_grpo", "train", str(folder / "config.yaml"), "model.device=npu")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: model.device 'npu': MindSpore does not find CANN")
    assert "Traceback" not in done.stderr
    assert "WARNING" not in done.stderr
    assert not (folder / "run").exists()


def test_what_is_refused_early_does_not_import_mindspore(folder: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom mindrlhf_grpo.config.file import read_config\n"
        "from mindrlhf_grpo.trainers.preflight import problems_of\n"
        "assert problems_of(read_config(Path(sys.argv[1]), [])[0]) == []\nprint('mindspore' in sys.modules)"
    )
    assert run("-c", program, str(folder / "config.yaml")).stdout == "False\n"


def test_warnings_of_mindspore_are_silent_unless_asked_for() -> None:
    program = "import os, mindrlhf_grpo_mindspore\nprint(os.environ['GLOG_v'])"
    assert run("-c", program).stdout == "3\n"
    assert run("-c", program, GLOG_v="1").stdout == "1\n"


def test_mindspore_lists_its_devices_and_kernels() -> None:
    found = machine.probe("mindrlhf_grpo_mindspore")
    assert isinstance(found, dict), found
    assert found["framework"] == "mindspore 2.10.0"
    assert found["devices"][-1]["device"] == "cpu"
    assert found["devices"][-1]["dtypes"] == ["float32"]
    assert found["absent"]["npu"].startswith("MindSpore does not find CANN")
    assert found["kernels"]["rms_norm"] == "reference"


def test_a_compilation_that_fails_leaves_nothing_in_the_current_folder(tmp_path: Path) -> None:
    program = (
        "import mindrlhf_grpo_mindspore\nimport mindspore as ms\nfrom mindspore import Tensor\n"
        "@ms.jit\ndef broken(x):\n    return x.no_such_method(3)\n"
        "try:\n    broken(Tensor([1.0]))\nexcept AttributeError:\n    print('refused')\n"
    )
    (tmp_path / "broken.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "broken.py"], cwd=tmp_path, env={**tiny.environment(), "TMPDIR": str(tmp_path.parent)},
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.stdout == "refused\n", done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["broken.py"]


def test_arrays_go_to_mindspore_and_come_back_in_float32() -> None:
    tensor = mindrlhf_grpo_mindspore.from_numpy(np.array([[1, 2]]))
    assert str(tensor.dtype) == "Int64"
    found = mindrlhf_grpo_mindspore.to_numpy(tensor.sum(1))
    assert (found.dtype, found.tolist()) == (np.float32, [3.0])
    module = backend_of_type(type(tensor))
    assert module is mindrlhf_grpo_mindspore
