"""What is known of rows before the first step: the room in the model's context, and what a reader is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from mindrlhf_grpo.config.offline import OfflineDataConfig
from mindrlhf_grpo.data.examples import ExampleStream
from mindrlhf_grpo.data.row_encoders import encode_supervised
from mindrlhf_grpo.report.words import source_name
from mindrlhf_grpo.tokenizers.tokenizer import Tokenizer
from mindrlhf_grpo.trainers.rows import context_length, notes_on


def examples(folder: Path, tokenizer: Tokenizer, rows: list[dict[str, str]], **data: Any) -> ExampleStream:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = OfflineDataConfig(source=str(path), chat_template="none", **data)
    return ExampleStream(config, encode_supervised, tokenizer, seed=0)


def test_a_reader_is_told_of_repeats_of_rows_left_out_and_of_long_ones(
    tmp_path: Path, plain_tokenizer: Tokenizer
) -> None:
    """Newcomer's P3.13: a step of more rows than there are was made without a word."""
    rows = [{"prompt": "a", "completion": "b"}] * 5
    stream = examples(tmp_path, plain_tokenizer, rows)
    assert notes_on(stream, 5, context=64) == []
    assert notes_on(stream, 8, context=2) == [
        "a step draws 8 rows and there are 5: rows repeat within a step (train.prompts_per_step)",
        "the longest row has 3 tokens, more than the model's context of 2 (data.max_tokens)",
    ]
    left_out = examples(tmp_path, plain_tokenizer, [*rows, {"prompt": "a", "completion": ""}], bad_rows="skip")
    (said,) = notes_on(left_out, 5)
    assert said.endswith("rows.jsonl: 6 rows, the longest has 3 tokens; 1 skipped")


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({"max_position_embeddings": 128}, 128),
        ({"text_config": {"max_position_embeddings": 64}}, 64),
        ({"max_position_embeddings": 128, "rope_scaling": {"type": "dynamic", "factor": 4}}, 128),
        ({}, None),
    ],
)
def test_the_context_is_that_of_the_models_configuration(tmp_path: Path, config: dict[str, Any], length: int) -> None:
    """Finding D10: the engines refuse positions beyond it for dynamic rope, too, so rows must be held to it."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    save_file({"weight": np.zeros(1, np.float32)}, tmp_path / "model.safetensors")
    assert context_length(str(tmp_path)) == length


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("data/rows.jsonl", "rows.jsonl"),
        ({"name": "hub:x/y", "split": "test"}, "y"),
        (["a/math.jsonl", {"source": "b.jsonl", "name": "code"}], "math, code"),
        ({"math": "a.jsonl", "code": "b.jsonl"}, "math, code"),
        (None, ""),
    ],
)
def test_a_report_names_the_sources(source: Any, name: str) -> None:
    assert source_name(source) == name
