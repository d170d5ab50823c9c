from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindrlhf_grpo.config.run import DataConfig
from mindrlhf_grpo.data.fingerprint import fingerprint
from mindrlhf_grpo.data.mixture import epoch_order
from mindrlhf_grpo.data.rows import IndexedRows
from mindrlhf_grpo.data.stream import PromptStream, shard
from mindrlhf_grpo.errors import DataError
from mindrlhf_grpo.tokenizers.tokenizer import Tokenizer
from mindrlhf_grpo.types import Prompt

LONG = "the quick brown fox jumps over the lazy dog " * 3


def write(folder: Path, rows: list[Any]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def open_stream(source: str, tokenizer: Tokenizer, *, seed: int = 7, **config: Any) -> PromptStream:
    return PromptStream(DataConfig(source=source, **config), tokenizer, seed=seed)


def seen(prompts: list[Prompt]) -> list[tuple[int, int, str, list[int]]]:
    return [(p.uid, p.row, p.text, p.ids.tolist()) for p in prompts]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Seven rows: two over-long, one bad line, one empty prompt, three good."""
    rows = [
        {"prompt": "one"},
        {"prompt": LONG},
        "{broken",
        {"prompt": "two"},
        {"prompt": ""},
        {"prompt": "three"},
        {"prompt": LONG + "!"},
    ]
    return write(tmp_path_factory.mktemp("stream"), rows)


LENIENT: dict[str, Any] = {"max_prompt_tokens": 16, "overlong": "drop", "bad_rows": "skip", "chat_template": "none"}


def test_order_is_a_literal_of_seed_and_epoch() -> None:
    assert epoch_order(8, 7, 0).tolist() == [4, 3, 6, 2, 1, 0, 5, 7]
    assert epoch_order(8, 7, 1).tolist() == [7, 6, 1, 4, 3, 2, 5, 0]
    assert epoch_order(8, 8, 0).tolist() == [5, 1, 6, 7, 0, 4, 3, 2]


@given(st.integers(1, 200), st.integers(0, 2**63), st.integers(0, 1000))
def test_order_is_a_permutation(rows: int, seed: int, epoch: int) -> None:
    assert sorted(epoch_order(rows, seed, epoch)) == list(range(rows))


def test_each_epoch_draws_every_row_once_with_its_own_uid(tmp_path: Path, plain_tokenizer: Tokenizer) -> None:
    stream = open_stream(write(tmp_path, [{"prompt": f"row {i}", "answer": i} for i in range(5)]), plain_tokenizer)
    first, second = stream.take(5), stream.take(5)
    assert sorted(p.uid for p in first) == [0, 1, 2, 3, 4]
    assert sorted(p.uid for p in second) == [5, 6, 7, 8, 9]
    assert [p.uid % 5 for p in first + second] == [p.row for p in first + second]
    assert [p.row for p in first] != [p.row for p in second]
    assert all(p.columns == {"answer": p.row} and p.text == f"row {p.row}" for p in first + second)


def test_without_shuffle_the_sources_order_repeats(tmp_path: Path, plain_tokenizer: Tokenizer) -> None:
    stream = open_stream(write(tmp_path, [{"prompt": t} for t in "abc"]), plain_tokenizer, shuffle=False)
    assert [p.text for p in stream.take(7)] == ["a", "b", "c", "a", "b", "c", "a"]


def test_losses_are_counted(source: str, plain_tokenizer: Tokenizer) -> None:
    stream = open_stream(source, plain_tokenizer, **LENIENT)
    assert len(stream) == 7
    stream.take(3)
    stream.take(1)  # begins the second epoch, so the first is wholly drawn
    first_of_second = stream.counts
    assert first_of_second["dropped"] >= 2
    assert first_of_second["skipped"] >= 2
    assert first_of_second["truncated"] == 0


@settings(max_examples=30, deadline=None)
@given(portions=st.lists(st.integers(0, 6), max_size=8))
def test_any_portions_are_one_take(source: str, plain_tokenizer: Tokenizer, portions: list[int]) -> None:
    at_once, parts = (open_stream(source, plain_tokenizer, **LENIENT) for _ in range(2))
    expected = at_once.take(sum(portions))
    assert seen([prompt for n in portions for prompt in parts.take(n)]) == seen(expected)
    assert parts.counts == at_once.counts
    assert parts.state() == at_once.state()


@settings(max_examples=30, deadline=None)
@given(
    before=st.integers(0, 12),
    after=st.integers(1, 12),
    overlong=st.sampled_from(["drop", "truncate"]),
    shuffle=st.booleans(),
)
def test_resume_at_any_point_is_undisturbed(
    source: str, plain_tokenizer: Tokenizer, before: int, after: int, overlong: str, shuffle: bool
) -> None:
    config = {**LENIENT, "overlong": overlong, "shuffle": shuffle}
    undisturbed = open_stream(source, plain_tokenizer, **config)
    undisturbed.take(before)
    state = json.loads(json.dumps(undisturbed.state()))
    resumed = open_stream(source, plain_tokenizer, **config)
    resumed.load_state(state)
    assert seen(resumed.take(after)) == seen(undisturbed.take(after))
    assert resumed.state() == undisturbed.state()


def test_resume_after_the_last_usable_row_of_an_epoch_goes_on(tmp_path: Path, plain_tokenizer: Tokenizer) -> None:
    """The rest of the epoch is dropped, and the resumed stream remembers that the epoch had a prompt."""
    path = write(tmp_path, [{"prompt": "one"}, {"prompt": LONG}, {"prompt": LONG}])
    stream = open_stream(path, plain_tokenizer, shuffle=False, **LENIENT)
    stream.take(1)
    resumed = open_stream(path, plain_tokenizer, shuffle=False, **LENIENT)
    resumed.load_state(stream.state())
    assert [p.uid for p in resumed.take(2)] == [3, 6]


def test_truncate_keeps_the_end_and_counts(tmp_path: Path, plain_tokenizer: Tokenizer) -> None:
    path = write(tmp_path, [{"prompt": LONG + "end"}])
    stream = open_stream(path, plain_tokenizer, max_prompt_tokens=4, overlong="truncate")
    prompt = stream.take(1)[0]
    assert prompt.ids.tolist() == plain_tokenizer.encode(LONG + "end")[-4:]
    assert stream.counts == {"dropped": 0, "truncated": 1, "skipped": 0}


def test_overlong_error_names_the_line_and_the_lengths(tmp_path: Path, plain_tokenizer: Tokenizer) -> None:
    path = write(tmp_path, [{"prompt": "one"}, {"prompt": LONG}])
    tokens = len(plain_tokenizer.encode(LONG))
    stream = open_stream(path, plain_tokenizer, max_prompt_tokens=16)
    with pytest.raises(
        DataError, match=rf"rows\.jsonl:2: the prompt has {tokens} tokens, data\.max_prompt_tokens is 16"
    ):
        stream.take(2)


def test_a_bad_line_stops_at_the_start(source: str, plain_tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match=r"2 bad, first \S*rows\.jsonl:3: invalid JSON: .*; data\.bad_rows: skip"):
        open_stream(source, plain_tokenizer).check()


def test_a_bad_prompt_stops_with_its_line(tmp_path: Path, plain_tokenizer: Tokenizer) -> None:
    stream = open_stream(write(tmp_path, [{"prompt": "one"}, {"prompt": 3}]), plain_tokenizer)
    with pytest.raises(DataError, match=r"rows\.jsonl:2: the prompt is int"):
        stream.take(2)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([{"prompt": LONG}, {"prompt": LONG}], "2 dropped, 0 skipped"),
        (["{", "["], "0 dropped, 2 skipped"),
        ([{"question": "x"}], r"no column 'prompt'; columns: question"),
    ],
)
def test_an_epoch_without_a_usable_row_is_an_error_not_a_loop(
    tmp_path: Path, plain_tokenizer: Tokenizer, rows: list[Any], reason: str
) -> None:
    stream = open_stream(write(tmp_path, rows), plain_tokenizer, **LENIENT)
    with pytest.raises(DataError, match=reason):
        stream.take(1)
    with pytest.raises(DataError, match="no usable prompt in the"):
        open_stream(write(tmp_path, rows), plain_tokenizer, **LENIENT).all()


def test_an_empty_source_is_an_error(tmp_path: Path, plain_tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="has no rows"):
        open_stream(write(tmp_path, []), plain_tokenizer)


def test_all_gives_each_usable_row_once_in_order_and_moves_nothing(source: str, plain_tokenizer: Tokenizer) -> None:
    stream = open_stream(source, plain_tokenizer, **LENIENT)
    expected = seen(open_stream(source, plain_tokenizer, **LENIENT).take(4))
    assert [(p.uid, p.text) for p in stream.all()] == [(0, "one"), (3, "two"), (5, "three")]
    assert stream.counts == {"dropped": 2, "truncated": 0, "skipped": 2}
    assert seen(stream.take(4)) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 8}, "has seed 8, the saved position 7"),
        ({"shuffle": False}, "has shuffle False, the saved position True"),
        ({"rows": [{"prompt": "a"}]}, "2 rows were removed at the end"),
        ({"rows": [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "C"}]}, r"1 row has changed: \S*rows\.jsonl:3\."),
    ],
)
def test_resuming_on_other_data_is_refused(
    tmp_path: Path, plain_tokenizer: Tokenizer, change: dict[str, Any], message: str
) -> None:
    path = write(tmp_path, [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "c"}])
    state = open_stream(path, plain_tokenizer).state()
    write(tmp_path, change.pop("rows", [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "c"}]))
    with pytest.raises(DataError, match=message):
        open_stream(path, plain_tokenizer, **change).load_state(state)


def test_an_incomplete_or_impossible_state_is_refused(tmp_path: Path, plain_tokenizer: Tokenizer) -> None:
    stream = open_stream(write(tmp_path, [{"prompt": "a"}]), plain_tokenizer)
    state = stream.state()
    with pytest.raises(DataError, match="lacks fingerprint, kept"):
        stream.load_state({key: value for key, value in state.items() if key not in ("kept", "fingerprint")})
    with pytest.raises(DataError, match="position 9 of epoch 0 is outside the 1 rows"):
        stream.load_state({**state, "position": 9})


@given(st.integers(0, 50), st.integers(1, 12))
def test_shards_in_rank_order_are_the_whole_and_even(count: int, world_size: int) -> None:
    items = list(range(count))
    parts = [shard(items, rank, world_size) for rank in range(world_size)]
    assert [item for part in parts for item in part] == items
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_a_rank_outside_the_world_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rank 2 is not in 0\.\.1"):
        shard([1, 2], 2, 2)


def test_the_fingerprint_of_any_python_values_is_a_literal() -> None:
    """Neither addresses nor the order of a set enter it, so it is the same in every process."""
    made = {"array": np.arange(3), "set": {"x", "y", "z"}, "object": object(), "bytes": b"b", 3: (1, None), (1, 2): 0.5}
    rows = IndexedRows(name="made", size=40, read=lambda index: {**made, "index": index})
    assert fingerprint(rows) == "1b1ad0c8be75d6c666b44caaed64140f"
