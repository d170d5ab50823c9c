"""Completions without a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.types import FinishReason, Prompt, Rollout, RolloutGroup

MakeGroup = Callable[..., RolloutGroup]

HOSTILE = """
import ctypes
import os
import time


def hostile(completions):
    scores = [trouble(text) for text in completions]
    return scores[:-1] if "short" in completions else scores


def trouble(text):
    if text == "sleep":
        time.sleep(3600)
    if text == "spin":
        while True:
            pass
    if text == "stuck":  # holds the interpreter: no Python signal handler can run
        ctypes.PyDLL(None).sleep(3600)
    if text == "exit":
        os._exit(1)
    if text == "segfault":
        ctypes.string_at(0)
    if text == "raise":
        raise ValueError("no such reward")
    if text == "sys.exit":
        raise SystemExit(3)
    return {"inf": float("inf"), "text": "1.0", "none": None, "print": print("chatter") or 0.5}.get(text, 1.0)


def always_one(completions):
    return [1.0]


def text(completions):
    return "1.0" * len(completions)


def generator(completions):
    return (1.0 for _ in completions)


def pid(completions):
    return [float(os.getpid())] * len(completions)
"""


def make_group(completions: Sequence[str], *, prompt: str = "prompt", **columns: Any) -> RolloutGroup:
    """One prompt with these completions; each has as many tokens as letters."""
    rollouts = tuple(
        Rollout(sample=i, ids=np.arange(len(text)), logps=np.zeros(len(text)), finish=FinishReason.STOP, text=text)
        for i, text in enumerate(completions)
    )
    return RolloutGroup(prompt=Prompt(uid=0, ids=np.arange(3), text=prompt, columns=columns), rollouts=rollouts)


@pytest.fixture(scope="session")
def group() -> MakeGroup:
    return make_group


@pytest.fixture
def source(tmp_path: Path) -> Callable[[str], str]:
    """Writes a file of reward functions and returns its path."""

    def write(text: str) -> str:
        path = tmp_path / "my_rewards.py"
        path.write_text(text)
        return str(path)

    return write


@pytest.fixture
def hostile(source: Callable[[str], str]) -> str:
    return source(HOSTILE)


def scored(function: Callable[..., Any], completions: Sequence[str], settings: Mapping[str, Any] | None = None) -> Any:
    """Call a built-in directly; ``completion_ids`` has as many tokens as the completion has letters."""
    ids = [list(range(len(text))) for text in completions]
    return function(
        prompts=["prompt"] * len(completions), completions=list(completions), completion_ids=ids, **(settings or {})
    )


@pytest.fixture(scope="session")
def score() -> Callable[..., Any]:
    return scored
