"""Continuous integration, hooks and metadata are valid and name what exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mindrlhf_grpo import __version__
from tests.support import documents as docs
from tests.support.repository import ROOT, files

YAML_FILES = [
    path
    for path in files()
    if (path.parts[0] == ".github" and path.suffix == ".yml")
    or path.name in (".pre-commit-config.yaml", "CITATION.cff")
]
WORKFLOWS = [path for path in YAML_FILES if "workflows" in path.parts]


def read(path: Path) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


def steps(path: Path) -> list[str]:
    """The shell lines of a workflow."""
    jobs = read(path)["jobs"].values()
    return [line for job in jobs for step in job["steps"] for line in step.get("run", "").splitlines()]


@pytest.mark.parametrize("path", YAML_FILES, ids=str)
def test_yaml_parses_to_a_mapping(path: Path) -> None:
    assert isinstance(read(path), dict)


@pytest.mark.parametrize("path", WORKFLOWS, ids=str)
def test_workflows_name_targets_and_tests_that_exist(path: Path) -> None:
    text = "\n".join(steps(path))
    assert set(re.findall(r"\bmake ([\w-]+)", text)) <= docs.make_targets()
    named = re.findall(r"\btests/[\w./]+", text)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=str)
def test_workflows_use_actions_by_major_version(path: Path) -> None:
    used = [step["uses"] for job in read(path)["jobs"].values() for step in job["steps"] if "uses" in step]
    assert used
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", action) for action in used)


def test_every_supported_python_is_tested() -> None:
    matrix = read(Path(".github/workflows/ci.yml"))["jobs"]["tests"]["strategy"]["matrix"]
    assert matrix["python"] == ["3.10", "3.11", "3.12", "3.13"]


def test_local_hooks_run_tools_and_tests_that_exist() -> None:
    hooks = [
        hook
        for repo in read(Path(".pre-commit-config.yaml"))["repos"]
        if repo["repo"] == "local"
        for hook in repo["hooks"]
    ]
    words = [word for hook in hooks for word in hook["entry"].split() if word.startswith("tests/")]
    assert all((ROOT / word).is_file() for word in words)


def test_version_is_the_same_everywhere() -> None:
    assert read(Path("CITATION.cff"))["version"] == __version__
    released = re.findall(
        r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$", docs.text_of(Path("CHANGELOG.md")), re.MULTILINE
    )
    assert released[0] == __version__
