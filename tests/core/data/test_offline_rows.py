"""Rows of an offline dataset become tokens and masks; an ambiguous row is refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mindrlhf_grpo.config.offline import OfflineDataConfig
from mindrlhf_grpo.data.examples import ExampleStream
from mindrlhf_grpo.data.row_encoders import Encoder, encode_labelled, encode_pair, encode_supervised
from mindrlhf_grpo.errors import DataError
from mindrlhf_grpo.tokenizers.tokenizer import Tokenizer, load_tokenizer
from tests.support.tiny_tokenizers import CHATML, write_huggingface

TURNS = [
    {"role": "user", "content": "what is 12 + 34?"},
    {"role": "assistant", "content": "it is 46."},
    {"role": "user", "content": "the lazy dog"},
    {"role": "assistant", "content": "user assistant system"},
]


def data(**settings: Any) -> OfflineDataConfig:
    return OfflineDataConfig(source="rows.jsonl", **settings)


def pieces(tokenizer: Tokenizer, ids: Any) -> str:
    return "".join(tokenizer.piece(int(token)) for token in ids)


def trained(tokenizer: Tokenizer, completion: Any) -> list[str]:
    """Return the trained spans as text."""
    spans, current = [], []
    for token, flag in zip(completion.ids, completion.mask, strict=True):
        if flag:
            current.append(token)
        elif current:
            spans, current = [*spans, pieces(tokenizer, current)], []
    return [*spans, pieces(tokenizer, current)] if current else spans


def test_of_a_conversation_the_assistants_words_and_end_tokens_are_trained(chat_tokenizer: Tokenizer) -> None:
    encoded = encode_supervised({"messages": TURNS}, data(), chat_tokenizer)
    assert (
        pieces(chat_tokenizer, encoded.prompt)
        == "<|im_start|>user\nwhat is 12 + 34?<|im_end|>\n<|im_start|>assistant\n"
    )
    (completion,) = encoded.completions
    assert trained(chat_tokenizer, completion) == ["it is 46.<|im_end|>", "user assistant system<|im_end|>"]
    assert pieces(chat_tokenizer, completion.ids).endswith("system<|im_end|>"), "nothing after the last end token"
    full = chat_tokenizer.chat(TURNS, generation_prompt=False)
    assert [*encoded.prompt, *completion.ids] == full[: len(encoded.prompt) + len(completion)]


def test_words_of_the_user_that_repeat_the_assistants_are_not_trained(chat_tokenizer: Tokenizer) -> None:
    turns = [TURNS[0], TURNS[1], {"role": "user", "content": "it is 46."}, TURNS[3]]
    (completion,) = encode_supervised({"messages": turns}, data(), chat_tokenizer).completions
    assert trained(chat_tokenizer, completion) == ["it is 46.<|im_end|>", "user assistant system<|im_end|>"]


def test_the_prompt_is_the_one_that_a_rollout_would_get(chat_tokenizer: Tokenizer) -> None:
    encoded = encode_supervised({"prompt": "the lazy dog", "completion": "it is 46."}, data(), chat_tokenizer)
    assert encoded.prompt.tolist() == chat_tokenizer.chat([{"role": "user", "content": "the lazy dog"}])
    assert pieces(chat_tokenizer, encoded.completions[0].ids) == "it is 46.<|im_end|>"


def test_a_system_prompt_is_put_first_and_moves_no_span(chat_tokenizer: Tokenizer) -> None:
    encoded = encode_supervised({"messages": TURNS}, data(system_prompt="the brown fox"), chat_tokenizer)
    assert pieces(chat_tokenizer, encoded.prompt).startswith(
        "<|im_start|>system\nthe brown fox<|im_end|>\n<|im_start|>user"
    )
    assert trained(chat_tokenizer, encoded.completions[0])[0] == "it is 46.<|im_end|>"


def test_what_a_user_says_last_is_left_out(chat_tokenizer: Tokenizer) -> None:
    (completion,) = encode_supervised({"messages": TURNS[:3]}, data(), chat_tokenizer).completions
    assert pieces(chat_tokenizer, completion.ids) == "it is 46.<|im_end|>"


def test_plain_text_ends_with_the_end_token(plain_tokenizer: Tokenizer) -> None:
    row = {"question": "the quick", "completion": " brown fox"}
    encoded = encode_supervised(row, data(columns={"prompt": "question"}, chat_template="none"), plain_tokenizer)
    assert pieces(plain_tokenizer, encoded.prompt) == "the quick"
    assert pieces(plain_tokenizer, encoded.completions[0].ids) == " brown fox<|im_end|>"
    assert encoded.completions[0].mask.all()


def template(folder: Path, text: str) -> Tokenizer:
    return load_tokenizer(str(write_huggingface(folder, template=text)))


def test_an_end_token_is_added_where_the_template_writes_none(tmp_path: Path) -> None:
    tokenizer = template(
        tmp_path, CHATML.replace("<|im_end|>\n{% endfor %}", "{% if not loop.last %}\n{% endif %}{% endfor %}")
    )
    (completion,) = encode_supervised({"messages": TURNS[:2]}, data(), tokenizer).completions
    assert pieces(tokenizer, completion.ids) == "it is 46.<|im_end|>"
    assert completion.mask.all()


def test_a_template_that_rewrites_earlier_turns_is_refused(tmp_path: Path) -> None:
    forgetful = CHATML.replace(
        "{{ m['content'] }}", "{% if m.role == 'user' or loop.last %}{{ m['content'] }}{% endif %}"
    )
    tokenizer = template(tmp_path, forgetful)
    with pytest.raises(DataError, match=r"the tokens of message 1 \(assistant\) cannot be told"):
        encode_supervised({"messages": TURNS}, data(), tokenizer)
    assert encode_supervised({"messages": TURNS[:2]}, data(), tokenizer).completions


def test_pairs_of_text(chat_tokenizer: Tokenizer) -> None:
    row = {"prompt": "what is 12 + 34?", "chosen": "46", "rejected": "47", "gap": 2}
    encoded = encode_pair(row, data(columns={"margin": "gap"}), chat_tokenizer)
    assert [pieces(chat_tokenizer, one.ids) for one in encoded.completions] == ["46<|im_end|>", "47<|im_end|>"]
    assert encoded.numbers == {"margin": 2.0}
    assert encode_pair(row, data(), chat_tokenizer).numbers == {}


def test_pairs_of_whole_conversations_share_their_beginning(chat_tokenizer: Tokenizer) -> None:
    other = [*TURNS[:3], {"role": "assistant", "content": "jumps over"}]
    encoded = encode_pair({"chosen": TURNS, "rejected": other}, data(), chat_tokenizer)
    assert pieces(chat_tokenizer, encoded.prompt).count("<|im_start|>") == 4
    assert [trained(chat_tokenizer, one) for one in encoded.completions] == [
        ["user assistant system<|im_end|>"],
        ["jumps over<|im_end|>"],
    ], "what the assistant said before the pair parts is the prompt"


def test_pairs_of_answers_as_messages(chat_tokenizer: Tokenizer) -> None:
    row = {"prompt": TURNS[:3], "chosen": TURNS[3:], "rejected": [{"role": "assistant", "content": "jumps"}]}
    encoded = encode_pair(row, data(), chat_tokenizer)
    assert [pieces(chat_tokenizer, one.ids) for one in encoded.completions] == [
        "user assistant system<|im_end|>",
        "jumps<|im_end|>",
    ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": " "}, "rejected is empty"),
        ({"prompt": "a", "chosen": "b"}, "no column 'rejected'"),
        ({"chosen": "b", "rejected": "c"}, "no column 'prompt'"),
        ({"chosen": TURNS, "rejected": TURNS}, "the same conversation"),
        ({"chosen": TURNS[2:], "rejected": TURNS}, "no common prompt"),
        ({"prompt": "a", "chosen": 3, "rejected": "c"}, "chosen is int"),
    ],
)
def test_pairs_that_cannot_be_used(row: dict[str, Any], reason: str, chat_tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match=reason):
        encode_pair(row, data(), chat_tokenizer)


@pytest.mark.parametrize(("label", "number"), [(True, 1.0), (False, 0.0), (1, 1.0), (0.25, 0.25)])
def test_labels(label: Any, number: float, chat_tokenizer: Tokenizer) -> None:
    encoded = encode_labelled({"prompt": "a", "completion": "b", "label": label}, data(), chat_tokenizer)
    assert encoded.numbers == {"label": number}


@pytest.mark.parametrize("label", [2, -1, "yes", None, float("nan")])
def test_labels_outside_0_to_1_are_refused(label: Any, chat_tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="label is"):
        encode_labelled({"prompt": "a", "completion": "b", "label": label}, data(), chat_tokenizer)


def stream(folder: Path, rows: list[Any], encoder: Encoder, tokenizer: Tokenizer, **settings: Any) -> ExampleStream:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = OfflineDataConfig(source=str(path), chat_template="none", shuffle=False, **settings)
    return ExampleStream(config, encoder, tokenizer, seed=0)


EQUAL = {"prompt": "a", "chosen": "b", "rejected": "b"}
GOOD = {"prompt": "a", "chosen": "b", "rejected": "c"}
LONG = {"prompt": "a", "chosen": "123456789", "rejected": "c"}


def test_equal_completions_stop_the_run_or_are_skipped_and_counted(tmp_path: Path, plain_tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match=r"rows.jsonl:1: chosen and rejected are the same tokens; data.bad_rows: skip"):
        stream(tmp_path, [EQUAL, GOOD], encode_pair, plain_tokenizer).take(1)
    lenient = stream(tmp_path, [EQUAL, GOOD], encode_pair, plain_tokenizer, bad_rows="skip")
    assert [example.row for example in lenient.take(2)] == [1, 1]
    assert lenient.counts == {"dropped": 0, "truncated": 0, "skipped": 2}


def test_overlong_rows(tmp_path: Path, plain_tokenizer: Tokenizer) -> None:
    rows = [LONG, GOOD, {"prompt": "the quick brown fox jumps", "chosen": "b", "rejected": "c"}]
    with pytest.raises(DataError, match=r"rows.jsonl:1: prompt and completion have 7 tokens, data.max_tokens is 4"):
        stream(tmp_path, rows, encode_pair, plain_tokenizer, max_tokens=4, bad_rows="skip").take(1)
    dropping = stream(tmp_path, rows, encode_pair, plain_tokenizer, max_tokens=4, overlong="drop")
    assert [example.row for example in dropping.take(2)] == [1, 1]
    assert dropping.counts["dropped"] == 3
    cutting = stream(tmp_path, rows, encode_pair, plain_tokenizer, max_tokens=4, overlong="truncate")
    taken = cutting.take(2)
    assert [len(one) for one in taken[0].completions] == [3, 2]
    assert [example.row for example in taken] == [0, 1]
    assert cutting.take(1)[0].row == 0, "nothing would be left of the third row"
    assert cutting.counts == {"dropped": 1, "truncated": 2, "skipped": 0}


def test_d5_a_pair_that_becomes_equal_by_the_cut_is_dropped_and_counted(
    tmp_path: Path, plain_tokenizer: Tokenizer
) -> None:
    late = {"prompt": "12=", "chosen": "1111111111111111a", "rejected": "1111111111111111b"}
    rows = stream(tmp_path, [late, GOOD], encode_pair, plain_tokenizer, max_tokens=12, overlong="truncate")
    assert [example.row for example in rows.take(2)] == [1, 1]
    assert rows.counts == {"dropped": 2, "truncated": 0, "skipped": 0}
    alone = stream(tmp_path, [late], encode_pair, plain_tokenizer, max_tokens=12, overlong="truncate")
    with pytest.raises(DataError, match="no usable row in the 1 rows"):
        alone.take(1)


def test_the_order_goes_on_where_it_was_saved(tmp_path: Path, plain_tokenizer: Tokenizer) -> None:
    rows = [{"prompt": str(n), "chosen": "b", "rejected": "c"} for n in range(7)]
    full = stream(tmp_path, rows, encode_pair, plain_tokenizer).take(10)
    first, second = (stream(tmp_path, rows, encode_pair, plain_tokenizer) for _ in range(2))
    first.take(4)
    second.load_state(first.state())
    assert [example.uid for example in second.take(6)] == [example.uid for example in full[4:]]
