"""The log that people watch: a line each so many steps, and one an evaluation, on the first rank only."""

from __future__ import annotations

from pathlib import Path

from mindrlhf_grpo.metrics.text_log import write_log


def test_lines_are_written_each_so_many_steps_and_at_evaluations(tmp_path: Path) -> None:
    for step in range(1, 7):
        assert write_log({"loss": 0.123456, "n": 3}, "train", step, tmp_path, True, every=3) == {}
    write_log({"eval/accuracy": 0.5}, "eval", 4, tmp_path, True, every=3)
    write_log({"loss": 1.0}, "train", 9, tmp_path, False, every=3)
    assert (tmp_path / "training.log").read_text().splitlines() == [
        'train step 3 {"loss":0.1235}',
        'train step 6 {"loss":0.1235}',
        'eval step 4 {"eval/accuracy":0.5}',
    ]
