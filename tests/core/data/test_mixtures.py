"""Several sources: how they are written, the order in which they are drawn, and that a run goes on exactly."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindrlhf_grpo.config.run import DataConfig
from mindrlhf_grpo.data.mixture import Mixture, NamedSource, Part, named_sources, setting_name
from mindrlhf_grpo.data.rows import IndexedRows
from mindrlhf_grpo.data.stream import PromptStream
from mindrlhf_grpo.errors import DataError
from mindrlhf_grpo.tokenizers.tokenizer import Tokenizer


def mixture(sizes: dict[str, int], weights: dict[str, float] | None = None) -> Mixture:
    parts = []
    for name, size in sizes.items():
        rows = IndexedRows(name=name, size=size, read=lambda index, name=name: {"prompt": f"{name} {index}"})
        named = NamedSource(name=name, source=name, weight=None if weights is None else weights[name])
        parts.append(Part(named=named, written=rows, rows=rows))
    return Mixture(parts)


def write(folder: Path, name: str, rows: int) -> str:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{name} {i}", "answer": i}) + "\n" for i in range(rows)))
    return str(path)


@pytest.mark.parametrize(
    ("setting", "names", "weights"),
    [
        ("data/math.jsonl", ["math"], [None]),
        ({"name": "hub:openai/gsm8k", "split": "test"}, ["gsm8k"], [None]),
        (["a/math.jsonl", {"name": "my_rows.py:problems", "rows": 5}], ["math", "problems"], [None, None]),
        ({"easy": "a.jsonl", "hard": {"name": "hub:x/y", "split": "test"}}, ["easy", "hard"], [None, None]),
        ({"train": "a.jsonl", "seed": "b.jsonl"}, ["train", "seed"], [None, None]),
        (
            [{"source": "a.jsonl", "weight": 3}, {"source": "b.csv", "name": "code", "weight": 1.5}],
            ["a", "code"],
            [3, 1.5],
        ),
    ],
)
def test_sources_are_named_and_weighted(setting: Any, names: list[str], weights: list[float | None]) -> None:
    found = named_sources(setting)
    assert [one.name for one in found] == names
    assert [one.weight for one in found] == weights


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (["a/x.jsonl", "b/x.jsonl"], "two data sources have one name"),
        ([{"source": "a.jsonl", "weight": 1}, "b.jsonl"], "'b' has no weight, and others have"),
        ([{"source": "a.jsonl", "wieght": 1}], r"key 'wieght' is unknown \(did you mean 'weight'\?\)"),
        ([{"source": "a.jsonl", "weight": 0}], "weight is 0; accepted: a number above 0"),
        ([{"source": "a.jsonl", "name": "a/b"}], "name 'a/b' is not accepted"),
        ([], "the list of data sources is empty"),
        ([{"source": {"split": "x"}}], "has no name"),
        ([5], "data source 5 has no name"),
        ({"split": "train"}, "data source {'split': 'train'} has no name"),
        ({"size": 5, "seed": 1}, "data source {'size': 5, 'seed': 1} has no name"),
        ({"source": "a.jsonl", "weight": 2}, "data source {'source': 'a.jsonl', 'weight': 2} has no name"),
        ({"easy": ["a.jsonl"]}, "has no name"),
        ({}, "data source {} has no name"),
    ],
)
def test_a_wrong_list_is_refused(setting: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        named_sources(setting)


def test_a_setting_has_one_text() -> None:
    assert setting_name("a/x.jsonl") == "a/x.jsonl"
    assert setting_name(["a/x.jsonl", "y.jsonl"]) == "x, y"


def test_without_weights_an_epoch_draws_every_row_once() -> None:
    rows = mixture({"a": 5, "b": 3})
    assert sorted(rows.order(7, 0, shuffle=True)) == list(range(8))
    assert rows.order(7, 0, shuffle=True).tolist() == [4, 3, 6, 2, 1, 0, 5, 7], "as one source of eight rows"
    assert rows.order(7, 3, shuffle=False).tolist() == list(range(8))
    assert [rows.source_of(index) for index in (0, 4, 5, 7)] == ["a", "a", "b", "b"]
    assert [rows.place(index) for index in (4, 5)] == ["a[4]", "b[0]"]


def test_the_order_of_a_weighted_mixture_is_a_literal() -> None:
    rows = mixture({"a": 6, "b": 2}, {"a": 0.25, "b": 0.75})
    orders = [rows.order(7, epoch, shuffle=True).tolist() for epoch in range(2)]
    assert orders == LITERAL
    again = mixture({"a": 6, "b": 2}, {"a": 0.25, "b": 0.75})
    assert again.order(7, 1, shuffle=True).tolist() == orders[1], "an epoch does not depend on those asked for before"


LITERAL = [[7, 6, 6, 7, 1, 4, 7, 6], [7, 6, 2, 7, 6, 7, 6, 0]]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.floats(0.01, 0.99), st.integers(0, 2**32), st.booleans())
def test_every_epoch_has_each_share_to_one_draw_and_every_row_has_its_turn(
    a: int, b: int, share: float, seed: int, shuffle: bool
) -> None:
    rows = mixture({"a": a, "b": b}, {"a": share, "b": 1 - share})
    draws: list[int] = []
    for epoch in range(6):
        order = rows.order(seed, epoch, shuffle=shuffle)
        assert len(order) == a + b
        if shuffle:
            assert abs(int((order < a).sum()) - share * (a + b)) <= 1
        draws += order.tolist()
    for part in (range(a), range(a, a + b)):
        counts = Counter(draw for draw in draws if draw in part)
        assert max(counts.values(), default=0) - min((counts.get(row, 0) for row in part), default=0) <= 1


def test_draws_of_a_weighted_mixture_have_different_numbers(tmp_path: Path, plain_tokenizer: Tokenizer) -> None:
    """Numbers seed the sampling: a row that is drawn three times in an epoch is sampled anew each time."""
    listed = [
        {"source": write(tmp_path, "a", 7), "weight": 0.2},
        {"source": write(tmp_path, "b", 2), "weight": 0.8, "name": "small"},
    ]
    stream = PromptStream(DataConfig(source=listed, chat_template="none"), plain_tokenizer, seed=3)
    prompts = stream.take(27)
    assert sorted(prompt.uid for prompt in prompts) == list(range(27))
    sources = Counter(prompt.source for prompt in prompts)
    assert sum(sources.values()) == 27
    assert abs(sources["small"] - 0.8 * 27) <= 3
    assert {prompt.text.split()[0] for prompt in prompts if prompt.source == "small"} == {"b"}


@settings(max_examples=20, deadline=None)
@given(before=st.integers(0, 25), after=st.integers(1, 25), weighted=st.booleans(), shuffle=st.booleans())
def test_a_mixture_resumes_at_any_point(
    tmp_path_factory: pytest.TempPathFactory,
    plain_tokenizer: Tokenizer,
    before: int,
    after: int,
    weighted: bool,
    shuffle: bool,
) -> None:
    folder = tmp_path_factory.mktemp("mixture")
    listed: list[Any] = [{"source": write(folder, "a", 7)}, {"source": write(folder, "b", 3)}]
    if weighted:
        listed = [{**one, "weight": weight} for one, weight in zip(listed, (1, 5), strict=True)]
    config = DataConfig(source=listed, chat_template="none", shuffle=shuffle)
    undisturbed = PromptStream(config, plain_tokenizer, seed=1)
    undisturbed.take(before)
    resumed = PromptStream(config, plain_tokenizer, seed=1)
    resumed.load_state(json.loads(json.dumps(undisturbed.state())))
    expected = [(p.uid, p.row, p.text, p.source) for p in undisturbed.take(after)]
    assert [(p.uid, p.row, p.text, p.source) for p in resumed.take(after)] == expected


def test_one_source_in_a_list_is_drawn_like_the_source_alone(tmp_path: Path, plain_tokenizer: Tokenizer) -> None:
    path = write(tmp_path, "a", 9)
    alone, listed = (
        PromptStream(DataConfig(source=source, chat_template="none"), plain_tokenizer, seed=5)
        for source in (path, [path])
    )
    draws = [[(p.uid, p.text, p.source) for p in stream.take(20)] for stream in (alone, listed)]
    assert draws[0] == draws[1]
    assert {source for _, _, source in draws[0]} == {""}
    assert np.unique([uid for uid, _, _ in draws[0]]).size == 20
