"""Tiny models with a head of one number on disk, for the tests of value models on every backend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.types import Batch
from tests.support.seeds import shifted
from tests.support.tiny_policy import write_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def write_classifier(folder: Path, family: str = "llama", kind: str = "SequenceClassification") -> Path:
    """A random model with a head of one number that is large enough to be seen."""
    config = transformers.AutoConfig.from_pretrained(write_model(folder / "body", family), num_labels=1)
    model = getattr(transformers, f"AutoModelFor{kind}").from_config(config)
    torch.manual_seed(shifted())
    for parameter in model.parameters():
        parameter.data.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.15)
    model.eval().save_pretrained(folder)
    return folder


def rows_of(batch: Batch) -> list[tuple[int, Any]]:
    """(prompt tokens, ids of prompt and completion) of each row."""
    found = []
    for row, length in enumerate(batch.lengths):
        prompt = batch.prompts[batch.prompt_of[row]]
        found.append((len(prompt), torch.tensor(np.concatenate([prompt, batch.ids[row, :length]])[None]).long()))
    return found


def with_head(folder: Path, tensors: dict[str, Any], **settings: Any) -> Path:
    """Replace the head of a folder."""
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(file).items() if not name.startswith("score")}
    save_file({**kept, **tensors}, file, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **settings}))
    return folder
