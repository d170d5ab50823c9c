"""The wheel holds the core and the backends, nothing else, and works away from the checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.repository import ROOT, files

pytest.importorskip("setuptools", minversion="77")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the tracked files, so that the checkout stays clean and ignored files cannot help."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for path in files():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, source / path)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(built),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpack the wheel into a folder for the import path."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run_elsewhere(code: str, installed: Path, folder: Path) -> str:
    """Run Python code in another folder with the wheel first on its path; return its standard output."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_wheel_holds_the_packages_and_no_tests_or_examples(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" not in name}
    backends = {path.parts[1] for path in files() if path.parts[0] == "backends"}
    assert tops == {"mindrlhf_grpo", *backends}


def test_wheel_holds_every_file_of_the_core(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    core = {str(path) for path in files() if path.parts[0] == "mindrlhf_grpo"}
    assert core - packed == set()


def test_package_and_backend_import_from_the_wheel_in_another_folder(installed: Path, tmp_path: Path) -> None:
    code = "import mindrlhf_grpo, mindrlhf_grpo.cli.main, mindrlhf_grpo.report, mindrlhf_grpo_torch as t; print(mindrlhf_grpo.__file__, t.__file__)"
    core, backend = run_elsewhere(code, installed, tmp_path).split()
    assert Path(core).is_relative_to(installed)
    assert Path(backend).is_relative_to(installed)


def test_command_line_runs_from_the_wheel_in_another_folder(installed: Path, tmp_path: Path) -> None:
    code = "import sys; sys.argv = ['mindrlhf-grpo', '--help']; from mindrlhf_grpo.cli.main import main; main()"
    assert "train" in run_elsewhere(code, installed, tmp_path)


def test_metadata_names_license_version_and_backends(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (folder,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        metadata = archive.read(f"{folder}/METADATA").decode()
        entry_points = archive.read(f"{folder}/entry_points.txt").decode()
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
    assert re.search(r"^License(-Expression)?: Apache-2.0$", metadata, re.MULTILINE)
    assert "Requires-Python: >=3.10" in metadata
    assert "torch = mindrlhf_grpo_torch" in entry_points
    assert "mindrlhf-grpo = mindrlhf_grpo.cli.main:main" in entry_points
