"""Rows are checked before the first step: counts and the first of each kind at once, and nothing is drawn by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mindrlhf_grpo.config.run import DataConfig
from mindrlhf_grpo.data import stream as streams
from mindrlhf_grpo.data.stream import PromptStream
from mindrlhf_grpo.errors import DataError
from mindrlhf_grpo.tokenizers.tokenizer import Tokenizer


def write(folder: Path, rows: list[Any]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def prompts(count: int, **changed: Any) -> list[Any]:
    rows: list[Any] = [{"prompt": f"row {number}"} for number in range(1, count + 1)]
    for line, row in changed.items():
        rows[int(line.removeprefix("line_")) - 1] = row
    return rows


def open_stream(path: str, tokenizer: Tokenizer, *, room: int | None = None, **data: Any) -> PromptStream:
    return PromptStream(DataConfig(source=path, chat_template="none", **data), tokenizer, seed=1, room=room)


def test_the_rows_that_stop_a_run_are_counted_at_once(tmp_path: Path, plain_tokenizer: Tokenizer) -> None:
    """Newcomer's first P1: the run ended at its nineteenth step, with one row named and no others."""
    rows = prompts(400, line_300={"prompt": None}, line_350={"prompt": ""}, line_20={"prompt": "x " * 90})
    stream = open_stream(write(tmp_path, rows), plain_tokenizer, max_prompt_tokens=64)
    with pytest.raises(DataError) as caught:
        stream.check()
    path = tmp_path / "rows.jsonl"
    assert str(caught.value) == (
        f"3 of 400 rows of {path} stop the run: 1 over-long, first {path}:20: the prompt has 180 tokens, "
        f"data.max_prompt_tokens is 64; data.overlong: drop or truncate goes on without it. 2 bad, first {path}:300: "
        "the prompt is NoneType, not text or a list of messages; data.bad_rows: skip goes on without it"
    )


def test_a_check_counts_what_is_left_out_and_draws_nothing(tmp_path: Path, plain_tokenizer: Tokenizer) -> None:
    rows = prompts(10, line_3={"prompt": None}, line_4="{", line_5={"prompt": "x " * 90})
    stream = open_stream(write(tmp_path, rows), plain_tokenizer, max_prompt_tokens=64, overlong="drop", bad_rows="skip")
    before = stream.state()
    survey = stream.check()
    assert (survey.rows, survey.checked, survey.left_out) == (10, 10, 3)
    assert {name: survey.counts[name] for name in ("dropped", "truncated", "skipped")} == {
        "dropped": 1, "truncated": 0, "skipped": 2,
    }  # fmt: skip
    assert survey.longest == max(len(plain_tokenizer.encode(f"row {number}")) for number in range(1, 11))
    assert stream.state() == before
    assert str(survey).endswith(f"rows.jsonl: 10 rows, the longest has {survey.longest} tokens; 1 dropped, 2 skipped")


def test_rows_are_encoded_once_for_a_command_and_its_trainer(
    tmp_path: Path, plain_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, prompts(20))
    first = open_stream(path, plain_tokenizer).check()
    monkeypatch.setattr(PromptStream, "encode", None)
    assert open_stream(path, plain_tokenizer).check() is first
    write(tmp_path, prompts(20, line_7={"prompt": "another"}))
    with pytest.raises(TypeError):
        open_stream(path, plain_tokenizer).check()


def test_of_very_many_rows_those_that_are_drawn_first_are_checked(
    tmp_path: Path, plain_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, prompts(60))
    stream = open_stream(path, plain_tokenizer)
    stream.checked = 12
    drawn = {prompt.row for prompt in open_stream(path, plain_tokenizer).take(12)}
    seen: list[int] = []
    encode = stream.encode
    monkeypatch.setattr(
        stream, "encode", lambda content, *, row, uid: seen.append(row) or encode(content, row=row, uid=uid)
    )
    survey = stream.check()
    assert set(seen) == drawn
    assert (survey.checked, survey.rows) == (12, 60)
    assert "12 of 60 rows checked, those that are drawn first" in str(survey)


def test_a_prompt_without_room_in_the_models_context_is_overlong(tmp_path: Path, plain_tokenizer: Tokenizer) -> None:
    path = write(tmp_path, prompts(4, line_2={"prompt": "x " * 30}))
    with pytest.raises(DataError, match=r"has 60 tokens, the model's context has room for 50 beside rollout\.max"):
        open_stream(path, plain_tokenizer, room=50).check()
    (cut,) = [p for p in open_stream(path, plain_tokenizer, room=50, overlong="truncate").all() if p.row == 1]
    assert len(cut.ids) == 50
    assert open_stream(path, plain_tokenizer, room=60).check().longest == 60


def test_a_column_nested_hundreds_deep_is_a_bad_row(tmp_path: Path, plain_tokenizer: Tokenizer) -> None:
    """Newcomer's P3.7: it ended as a bug of ours, with code 70."""
    deep = '{"prompt": "x", "answer": ' + "[" * 500 + "]" * 500 + "}"
    path = write(tmp_path, prompts(3, line_2=deep))
    with pytest.raises(DataError, match=r"1 of 3 rows .*rows\.jsonl:2: a column is nested more than 100 levels deep"):
        open_stream(path, plain_tokenizer).check()
    open_stream(path, plain_tokenizer, bad_rows="skip").take(8)


def test_held_out_rows_are_all_named_too(tmp_path: Path, plain_tokenizer: Tokenizer) -> None:
    path = write(tmp_path, prompts(9, line_2={"prompt": 1}, line_5={"prompt": 2}))
    with pytest.raises(DataError, match=r"2 of 9 rows of \S+ stop the run: 2 bad, first \S+:2: the prompt is int"):
        open_stream(path, plain_tokenizer).all()


def test_columns_are_those_of_every_source(tmp_path: Path, plain_tokenizer: Tokenizer) -> None:
    rows = [{"prompt": "a", "answer": 1, "level": 2}, {"prompt": "b", "hint": 3}]
    (tmp_path / "one").mkdir()
    path = write(tmp_path / "one", rows)
    other = write(tmp_path, [{"prompt": "c", "hint": 1, "level": 0}])
    assert open_stream(path, plain_tokenizer).check().columns == ("answer", "level", "hint")
    both = [{"source": path, "name": "one"}, {"source": other, "name": "two"}]
    assert open_stream(both, plain_tokenizer).check().columns == ("level", "hint")  # type: ignore[arg-type]


def test_rows_made_by_a_program_are_checked_in_part(plain_tokenizer: Tokenizer) -> None:
    source = {"name": "reasoning_gym:chain_sum", "size": 5000}
    survey = PromptStream(DataConfig(source=source, chat_template="none"), plain_tokenizer, seed=0).check()
    assert survey.checked == streams.CHECKED_ON_DEMAND
