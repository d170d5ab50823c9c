"""Tiny models that read images, of the vision example, and rows that hold images in every way a file can."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.support.repository import ROOT
from tests.support.seeds import shifted

pytest.importorskip("torch")
pytest.importorskip("transformers")
Image = pytest.importorskip("PIL.Image")

FAMILIES = ("qwen2_5_vl", "internvl")
TOWER = {"qwen2_5_vl": ["visual"], "internvl": ["vision_tower", "model.multi_modal_projector"]}


def example() -> ModuleType:
    """``examples/vision/task.py`` as a module."""
    spec = importlib.util.spec_from_file_location("example_vision", ROOT / "examples" / "vision" / "task.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_model(folder: Path, family: str) -> Path:
    written: Path = example().write_model(folder, family, seed=shifted())
    return written


def picture(seed: int, width: int = 16, height: int = 16) -> Any:
    """A random RGB image."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8))


def png(image: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def write_rows(folder: Path) -> Path:
    """Six rows: an image by relative path, by base64 and by data URL, two images, and two prompts of text alone."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    picture(0).save(folder / "pictures" / "first.png")
    coded = [base64.b64encode(png(picture(seed, 16, 8))).decode() for seed in (1, 2)]
    rows = [
        {"prompt": "<image>which?", "images": ["pictures/first.png"], "answer": "r"},
        {"prompt": "blue?", "images": [], "answer": "b"},
        {"prompt": "which?", "images": coded[0], "answer": "g"},
        {
            "prompt": "which of two?",
            "images": ["pictures/first.png", f"data:image/png;base64,{coded[1]}"],
            "answer": "r",
        },
        {"prompt": "red?", "answer": "r"},
        {
            "prompt": [{"role": "user", "content": "<image>\nwhich?"}],
            "images": [f"data:image/png;base64,{coded[1]}"],
            "answer": "w",
        },
    ]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def settings(folder: Path, family: str, **sections: Any) -> dict[str, Any]:
    """Configuration of a run of two steps on rows of both kinds."""
    config: dict[str, Any] = {
        "run_dir": folder / "run",
        "model": {"path": str(folder / family), "device": "cpu"},
        "data": {"source": str(folder / "rows.jsonl"), "images": {}},
        "rewards": [{"function": "length", "arguments": {"tokens": 3}}],
        "rollout": {"group_size": 3, "max_tokens": 6, "slots": 4},
        "train": {"steps": 2, "prompts_per_step": 6, "learning_rate": 1e-2, "tokens_per_micro_batch": 64},
    }
    for name, section in sections.items():
        config[name] = {**config.get(name, {}), **section} if isinstance(section, dict) else section
    return config


def prepare(folder: Path, family: str) -> Path:
    """Model and rows in ``folder``."""
    write_model(folder / family, family)
    write_rows(folder)
    return folder
