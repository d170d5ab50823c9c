"""The rollout files: what a reader finds again, and that a file is whole or absent."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mindrlhf_grpo.errors import DataError
from mindrlhf_grpo.rewards import RewardTable
from mindrlhf_grpo.run.rollout_log import read_rollouts, rollout_path, table_rows, write_rollouts
from mindrlhf_grpo.types import FinishReason, FloatArray, Prompt, Rollout, RolloutGroup


class Pieces:
    """A tokenizer whose pieces show their id."""

    eos_ids, pad_id, vocab_size = (9,), 0, 10

    def encode(self, text: str) -> list[int]:
        raise NotImplementedError

    def decode(self, ids: Sequence[int]) -> str:
        raise NotImplementedError

    def piece(self, token: int) -> str:
        return f"<{token}>"

    def chat(self, messages: object) -> list[int]:
        raise NotImplementedError


def group(uid: int, *lengths: int) -> RolloutGroup:
    rollouts = tuple(
        Rollout(
            sample=sample,
            ids=np.arange(1, length + 1, dtype=np.int32),
            logps=-np.arange(1, length + 1, dtype=np.float32) / 4,
            finish=FinishReason.LENGTH if length > 2 else FinishReason.STOP,
            text=f"text {sample}",
            weight_version=5,
        )
        for sample, length in enumerate(lengths)
    )
    columns = {"answer": 42, "long": "x" * 5_000}
    return RolloutGroup(
        prompt=Prompt(uid=uid, ids=np.array([1]), text=f"prompt {uid}", columns=columns), rollouts=rollouts
    )


def table(values: list[list[list[float]]]) -> RewardTable:
    return RewardTable(names=("accuracy", "format"), weights=np.array([1.0, 0.5]), values=np.array(values))


NAN = float("nan")


def write(run_dir: Path, **settings: Sequence[FloatArray]) -> Path:
    advantages = np.array([[1.5, 0.5, 7.0], [-1.0, -1.0, -1.0]], dtype=np.float32)  # 7.0 lies past the length
    part = ([group(3, 2, 3)], table([[[1.0], [0.5]], [[0.0], [NAN]]]), advantages)
    other = ([group(4, 1)], table([[[NAN], [NAN]]]), np.zeros((1, 1), np.float32))
    return write_rollouts(run_dir, 12, [part, other], Pieces(), **settings)


def test_one_object_per_completion_with_its_tokens_and_scores(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert path == tmp_path / "rollouts/step_12.jsonl"
    first, second, third = (json.loads(line) for line in path.read_text().splitlines())
    assert first == {
        "step": 12, "uid": 3, "sample": 0, "prompt": "prompt 3", "completion": "text 0",
        "columns": {"answer": "42", "long": "x" * 2_000},
        "tokens": ["<1>", "<2>"], "ids": [1, 2], "logps": [-0.25, -0.5], "train_logps": None,
        "advantages": [1.5, 0.5], "advantage": 1.0,
        "components": {"accuracy": 1.0, "format": 0.5}, "reward": 1.25,
        "finish": "stop", "weight_version": 5,
    }  # fmt: skip
    assert (second["sample"], second["finish"], second["reward"]) == (1, "length", 0.0)
    assert second["components"] == {"accuracy": 0.0, "format": None}
    assert (third["uid"], third["reward"], third["components"]["accuracy"]) == (4, None, None)


def test_reading_gives_back_what_was_written(tmp_path: Path) -> None:
    records = read_rollouts(write(tmp_path))
    assert [(record.uid, record.sample, record.reward) for record in records] == [
        (3, 0, 1.25),
        (3, 1, 0.0),
        (4, 0, None),
    ]
    assert records[1].logps == [-0.25, -0.5, -0.75]


def test_training_log_probs_are_kept_where_given(tmp_path: Path) -> None:
    trained = [np.array([[-0.5, -0.25, 0.0], [-1.0, -2.0, -3.0]], np.float32), np.array([[-4.0]], np.float32)]
    records = read_rollouts(write(tmp_path, train_logps=trained))
    assert [record.train_logps for record in records] == [[-0.5, -0.25], [-1.0, -2.0, -3.0], [-4.0]]


def test_segment_rewards_are_lists(tmp_path: Path) -> None:
    scores = table([[[1.0, NAN], [0.0, 2.0]]])
    path = write_rollouts(tmp_path, 1, [([group(0, 2)], scores, np.ones((1, 2), np.float32))], Pieces())
    (record,) = read_rollouts(path)
    assert record.components == {"accuracy": [1.0, None], "format": [0.0, 2.0]}
    assert record.reward == [1.0, 1.0]


def test_a_completion_without_tokens_is_written(tmp_path: Path) -> None:
    path = write_rollouts(
        tmp_path, 1, [([group(0, 0)], table([[[1.0], [0.0]]]), np.zeros((1, 0), np.float32))], Pieces()
    )
    (record,) = read_rollouts(path)
    assert (record.tokens, record.advantage) == ([], None)


def test_rows_that_do_not_match_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 completions, 1 rewards, 2 advantages"):
        write_rollouts(tmp_path, 1, [([group(0, 1, 1)], table([[[1.0], [0.0]]]), np.zeros((2, 1)))], Pieces())


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = write(tmp_path).read_bytes()

    def full(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write(tmp_path)
    assert rollout_path(tmp_path, 12).read_bytes() == before


def test_reading_names_the_broken_line(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_bytes(path.read_bytes() + b"{half")
    with pytest.raises(DataError, match=r"step_12\.jsonl:4: not a JSON object"):
        read_rollouts(path)
    path.write_text('{"step": 1}\n')
    with pytest.raises(DataError, match="not a rollout record: Field required"):
        read_rollouts(path)


def test_rows_of_a_trackers_table_are_taken_evenly() -> None:
    advantages = np.array([[1.5, 0.5, 7.0], [-1.0, -1.0, -1.0]], dtype=np.float32)  # 7.0 lies past the length
    part = ([group(3, 2, 3)], table([[[1.0], [0.5]], [[NAN], [NAN]]]), advantages)
    rows = table_rows(12, [part])
    assert [(row[0], row[3], row[4]) for row in rows] == [(12, 1.25, 1.0), (12, None, -1.0)]
    assert [row[3] for row in table_rows(12, [part] * 3, limit=3)] == [1.25, 1.25, 1.25]
