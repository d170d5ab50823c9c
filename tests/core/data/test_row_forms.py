"""Each published form of rows, with the tokens that are read and those that are trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mindrlhf_grpo.config.offline import OfflineDataConfig
from mindrlhf_grpo.config.run import DataConfig
from mindrlhf_grpo.data.examples import ExampleStream
from mindrlhf_grpo.data.row_encoders import Encoder, common_words, encode_labelled, encode_pair, encode_supervised
from mindrlhf_grpo.data.row_forms import FORMS
from mindrlhf_grpo.data.stream import PromptStream
from mindrlhf_grpo.errors import DataError
from mindrlhf_grpo.tokenizers.tokenizer import Tokenizer
from tests.support.repository import ROOT

USER, ASSISTANT, END = "<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>"
ASKED = f"{USER}2+2?{END}\n{ASSISTANT}"
FOUR, FIVE = f"4{END}", f"5{END}"
HUMAN = "\n\nHuman: 2+2?\n\nAssistant:"
CONVERSATION = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]


def pieces(tokenizer: Tokenizer, ids: Any) -> str:
    return "".join(tokenizer.piece(int(token)) for token in ids).replace("Ġ", " ").replace("Ċ", "\n")


def examples(
    folder: Path, rows: list[Any], encoder: Encoder, tokenizer: Tokenizer, **data: Any
) -> list[tuple[str, ...]]:
    """Return each example: prompt, then each completion with its untrained text in brackets, then the label."""
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    stream = ExampleStream(OfflineDataConfig(source=str(path), **data), encoder, tokenizer, seed=0)
    found = []
    for example in stream.all():
        shown = []
        for completion in example.completions:
            text, trained = "", True
            for token, flag in zip(completion.ids, completion.mask, strict=True):
                text += "" if bool(flag) == trained else "]" if flag else "["
                text, trained = text + pieces(tokenizer, [token]), bool(flag)
            shown.append(text)
        found.append((pieces(tokenizer, example.prompt), *shown, *(f"{value:g}" for value in example.numbers.values())))
    return found


SUPERVISED = {
    "OpenAI messages": {"messages": CONVERSATION, "split": "train"},
    "prompt and completion": {"prompt": "2+2?", "completion": "4"},
    "prompt and completion as messages": {"prompt": CONVERSATION[:1], "completion": CONVERSATION[1:]},
    "parts of text": {"messages": [CONVERSATION[0], {"role": "assistant", "content": [{"type": "text", "text": "4"}]}]},
    "ShareGPT": {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
    "Alpaca": {"instruction": "2+2?", "input": "", "output": "4"},
    "Anthropic text": {"text": f"{HUMAN} 4"},
}


@pytest.mark.parametrize("form", SUPERVISED)
def test_supervised_forms_train_the_answer(tmp_path: Path, chat_tokenizer: Tokenizer, form: str) -> None:
    assert examples(tmp_path, [SUPERVISED[form]], encode_supervised, chat_tokenizer) == [(ASKED, FOUR)]


def test_of_several_turns_those_of_the_assistant_are_trained(tmp_path: Path, chat_tokenizer: Tokenizer) -> None:
    turns = [("system", "be brief"), ("human", "2+2?"), ("gpt", "4"), ("human", "the fox"), ("gpt", "5")]
    row = {"conversations": [{"from": who, "value": text} for who, text in turns]}
    expected = (
        f"<|im_start|>system\nbe brief{END}\n{ASKED}",
        f"4{END}[\n{USER}the fox{END}\n{ASSISTANT}]5{END}",
    )
    assert examples(tmp_path, [row], encode_supervised, chat_tokenizer) == [expected]
    said = {"text": "\n\nHuman: 2+2?\n\nAssistant: 4\n\nHuman: the fox\n\nAssistant: 5"}
    assert examples(tmp_path, [said], encode_supervised, chat_tokenizer) == [(ASKED, expected[1])]


def test_weights_of_turns_are_kept(tmp_path: Path, chat_tokenizer: Tokenizer) -> None:
    """OpenAI's files mark assistant messages that are not learned."""
    turns = [*CONVERSATION, {"role": "user", "content": "x"}, {"role": "assistant", "content": "5"}]
    turns[1] = {**turns[1], "weight": 0}
    expected = (f"{ASKED}4{END}\n{USER}x{END}\n{ASSISTANT}", FIVE)
    assert examples(tmp_path, [{"messages": turns}], encode_supervised, chat_tokenizer) == [expected]
    shared = [
        {"from": "human" if t["role"] == "user" else "gpt", "value": t["content"], "weight": t.get("weight")}
        for t in turns
    ]
    assert examples(tmp_path, [{"conversations": shared}], encode_supervised, chat_tokenizer) == [expected]


def test_conversations_of_other_forms_are_read_apart_too(tmp_path: Path, chat_tokenizer: Tokenizer) -> None:
    turns = [("human", "2+2?"), ("gpt", "4"), ("human", "x"), ("gpt", "5")]
    row = {"conversations": [{"from": who, "value": text} for who, text in turns]}
    found = examples(tmp_path, [row], encode_supervised, chat_tokenizer, turns="apart")
    assert found == [(ASKED, FOUR), (f"{ASKED}4{END}\n{USER}x{END}\n{ASSISTANT}", FIVE)]


def test_alpaca_rows_have_input_system_and_history(tmp_path: Path, chat_tokenizer: Tokenizer) -> None:
    row = {"instruction": "add", "input": "2+2", "output": "4", "system": "be brief", "history": [["hi", "yes"]]}
    prompt = (
        f"<|im_start|>system\nbe brief{END}\n{USER}hi{END}\n{ASSISTANT}yes{END}\n{USER}add\n\n2+2{END}\n{ASSISTANT}"
    )
    assert examples(tmp_path, [row], encode_supervised, chat_tokenizer) == [(prompt, FOUR)]


def test_a_text_alone_is_learned_whole(tmp_path: Path, chat_tokenizer: Tokenizer) -> None:
    """Language modelling: no template, and the first token is given, because nothing precedes it."""
    found = examples(tmp_path, [{"text": "the quick brown fox"}], encode_supervised, chat_tokenizer)
    first = chat_tokenizer.piece(chat_tokenizer.encode("the quick brown fox")[0])
    assert found == [(first, f"the quick brown fox{END}".removeprefix(first))]
    named = {"content": "the quick brown fox"}
    assert examples(tmp_path, [named], encode_supervised, chat_tokenizer, columns={"text": "content"}) == found


def test_with_all_trained_the_prompt_is_learned_too(tmp_path: Path, chat_tokenizer: Tokenizer) -> None:
    """TRL's completion_only_loss=False and assistant_only_loss=False."""
    rows = [SUPERVISED["prompt and completion"], {"messages": [*CONVERSATION, *CONVERSATION]}]
    found = examples(tmp_path, rows, encode_supervised, chat_tokenizer, trained="all")
    whole = f"{ASKED}{FOUR}"
    assert found == [
        ("<|im_start|>", whole.removeprefix("<|im_start|>")),
        ("<|im_start|>", f"{whole}\n{whole}".removeprefix("<|im_start|>")),
    ]
    with pytest.raises(DataError, match=r"data\.trained: all is for rows of objective sft"):
        examples(tmp_path, [{}], encode_pair, chat_tokenizer, trained="all")


PAIRS = {
    "prompt and texts": {"prompt": "2+2?", "chosen": "4", "rejected": "5"},
    "implicit prompt": {"chosen": CONVERSATION, "rejected": [CONVERSATION[0], {"role": "assistant", "content": "5"}]},
    "Anthropic texts": {"chosen": f"{HUMAN} 4", "rejected": f"{HUMAN} 5"},
    "OpenAI preferences": {
        "input": {"messages": CONVERSATION[:1], "tools": [], "parallel_tool_calls": True},
        "preferred_output": CONVERSATION[1:], "non_preferred_output": [{"role": "assistant", "content": "5"}],
    },
    "ShareGPT": {
        "conversations": [{"from": "human", "value": "2+2?"}], "chosen": {"from": "gpt", "value": "4"},
        "rejected": {"from": "gpt", "value": "5"},
    },
    "instructions": {"instruction": "2+2?", "input": "", "chosen": "4", "rejected": "5"},
}  # fmt: skip


@pytest.mark.parametrize("form", PAIRS)
def test_forms_of_pairs(tmp_path: Path, chat_tokenizer: Tokenizer, form: str) -> None:
    """Finding D19: Anthropic's own form of hh-rlhf was refused."""
    assert examples(tmp_path, [PAIRS[form]], encode_pair, chat_tokenizer) == [(ASKED, FOUR, FIVE)]


@pytest.mark.parametrize("form", PAIRS)
def test_pairs_are_two_labelled_rows_for_kto(tmp_path: Path, chat_tokenizer: Tokenizer, form: str) -> None:
    found = examples(tmp_path, [PAIRS[form], PAIRS[form]], encode_labelled, chat_tokenizer)
    assert found == [(ASKED, FOUR, "1"), (ASKED, FIVE, "0")] * 2


def test_texts_alone_have_their_common_words_as_the_prompt(tmp_path: Path, plain_tokenizer: Tokenizer) -> None:
    rows = [
        {"chosen": "what is 2+2? it is 4", "rejected": "what is 2+2? it was 5"},
        {"chosen": f"{HUMAN} 45", "rejected": f"{HUMAN} 46"},
    ]
    assert examples(tmp_path, rows, encode_pair, plain_tokenizer) == [
        ("what is 2+2? it", f" is 4{END}", f" was 5{END}"),
        (HUMAN, f" 45{END}", f" 46{END}"),
    ]


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("a sun", "a sunny day", "a"),
        ("a sun", "a sun and a moon", "a sun"),
        ("a sun", "a moon", "a"),
        ("sun", "moon", ""),
        ("2+2=4", "2+2=5", "2+2="),
        ("a  sun", "a  moon", "a"),
    ],
)
def test_common_words_are_whole(one: str, other: str, shared: str) -> None:
    assert common_words(one, other) == common_words(other, one) == shared


def test_texts_without_a_common_word_need_a_bos(tmp_path: Path, plain_tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="no column 'prompt', and chosen and rejected have no common beginning"):
        examples(tmp_path, [{"chosen": "sun", "rejected": "moon"}], encode_pair, plain_tokenizer)
    with_bos = plain_tokenizer.__class__.__new__(plain_tokenizer.__class__)
    with_bos.__dict__.update(plain_tokenizer.__dict__, prefix_ids=(0,))
    found = examples(tmp_path, [{"chosen": "sun", "rejected": "moon"}], encode_pair, with_bos)
    assert found == [("<|endoftext|>", f"sun{END}", f"moon{END}")]


LABELLED = {
    "prompt, completion, label": {"prompt": "2+2?", "completion": "4", "label": True},
    "label as text": {"prompt": "2+2?", "completion": "4", "label": "True"},
    "label as a number in text": {"prompt": "2+2?", "completion": "4", "label": "1"},
    "messages": {"messages": CONVERSATION, "label": 1},
    "ShareGPT": {"conversations": SUPERVISED["ShareGPT"]["conversations"], "kto_tag": True},
    "Alpaca": {"instruction": "2+2?", "output": "4", "label": "true"},
}


@pytest.mark.parametrize("form", LABELLED)
def test_forms_of_labelled_rows(tmp_path: Path, chat_tokenizer: Tokenizer, form: str) -> None:
    assert examples(tmp_path, [LABELLED[form]], encode_labelled, chat_tokenizer) == [(ASKED, FOUR, "1")]


@pytest.mark.parametrize(
    ("row", "encoder", "message"),
    [
        ({"prompt": "a", "completion": "b", "label": "good"}, encode_labelled, "label is 'good'; accepted: true, false, 1, 0"),
        ({"messages": CONVERSATION[:1], "label": 1}, encode_labelled, "messages does not end with the message of the assistant"),
        ({"conversations": [{"from": "narrator", "value": "x"}]}, encode_supervised, "turn 0 is from 'narrator'; accepted: human"),
        ({"conversations": "x"}, encode_supervised, "conversations is str, not a list"),
        ({"instruction": 3, "output": "x"}, encode_supervised, "instruction is int, not text"),
        ({"prompt": "a", "completions": ["b"], "labels": [True]}, encode_supervised, "a label for each step"),
        ({"text": ["a"]}, encode_supervised, "message 0 is str"),
        ({"question": "a"}, encode_supervised, r"no column 'prompt'; columns: question"),
    ],
)  # fmt: skip
def test_a_row_that_is_not_quite_of_a_form_is_refused(
    tmp_path: Path, chat_tokenizer: Tokenizer, row: dict[str, Any], encoder: Encoder, message: str
) -> None:
    with pytest.raises(DataError, match=rf"rows\.jsonl:1.*{message}"):
        examples(tmp_path, [row], encoder, chat_tokenizer)


def test_columns_of_our_own_form_go_before(tmp_path: Path, chat_tokenizer: Tokenizer) -> None:
    """A row that was read before is read as before, whatever other columns it has."""
    row = {**SUPERVISED["prompt and completion"], "instruction": "x", "output": "y", "conversations": [], "text": "z"}
    assert examples(tmp_path, [row], encode_supervised, chat_tokenizer) == [(ASKED, FOUR)]


ONLINE = {
    "prompt": {"prompt": "2+2?"},
    "messages": {"prompt": CONVERSATION[:1]},
    "OpenAI messages": {"messages": CONVERSATION},
    "ShareGPT": SUPERVISED["ShareGPT"],
    "Alpaca": {"instruction": "2+2?", "input": None, "output": "4"},
    "instructions": {"instruction": "2+2?"},
    "Anthropic text": {"text": HUMAN + " 4"},
}


@pytest.mark.parametrize("form", ONLINE)
def test_forms_of_prompts(tmp_path: Path, chat_tokenizer: Tokenizer, form: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({**ONLINE[form], "answer": "4"}) + "\n")
    (prompt,) = PromptStream(DataConfig(source=str(path)), chat_tokenizer, seed=0).take(1)
    assert pieces(chat_tokenizer, prompt.ids) == ASKED
    assert (prompt.text, prompt.columns["answer"]) == ("2+2?", "4")
    if form in ("OpenAI messages", "ShareGPT", "Alpaca", "Anthropic text"):
        assert prompt.columns["completion"] == "4"


def test_the_table_of_the_documents_has_every_form() -> None:
    table = (ROOT / "docs" / "data.md").read_text()
    for form in FORMS:
        (line,) = [line for line in table.splitlines() if line.startswith(f"| {form.name} |")]
        assert all(f"`{column}`" in line for column in form.columns)
