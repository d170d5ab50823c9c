"""D2: the assistant's tokens under templates that open, drop or close what a finished message has not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mindrlhf_grpo.config.offline import OfflineDataConfig
from mindrlhf_grpo.data.examples import ExampleStream
from mindrlhf_grpo.data.row_encoders import Encoded, encode_pair, encode_supervised
from mindrlhf_grpo.errors import DataError
from mindrlhf_grpo.tokenizers.tokenizer import Tokenizer, load_tokenizer
from tests.support.tiny_tokenizers import CHATML, write_huggingface

QUESTION = {"role": "user", "content": "what is 12 + 34?"}
ANSWER = {"role": "assistant", "content": "it is 46."}
TURNS = [QUESTION, ANSWER, {"role": "user", "content": "the dog"}, {"role": "assistant", "content": "the fox"}]
ASSISTANT = "<|im_start|>assistant\n"

OPENS_A_THOUGHT = CHATML.replace(ASSISTANT, ASSISTANT + "<think>\n")
EMPTY_THOUGHT = CHATML.replace(ASSISTANT, ASSISTANT + "<think>\n").replace(
    "{{ m['content'] }}",
    "{% if m.role == 'assistant' and '</think>' not in m.content %}<think>\n\n</think>\n\n{% endif %}{{ m['content'] }}",
)
LAST_THOUGHT_ONLY = CHATML.replace(
    "{{ m['content'] }}",
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m['content'] }}",
)
CLOSED = CHATML.replace("{% endif %}", "{% else %}<|endoftext|>{% endif %}")


def load(folder: Path, template: str) -> Tokenizer:
    return load_tokenizer(str(write_huggingface(folder, template=template)))


def data(**settings: Any) -> OfflineDataConfig:
    return OfflineDataConfig(source="rows.jsonl", **settings)


def pieces(tokenizer: Tokenizer, ids: Any) -> str:
    return "".join(tokenizer.piece(int(token)) for token in ids)


def shown(tokenizer: Tokenizer, encoded: Encoded, which: int = 0) -> tuple[str, str]:
    """The end of the prompt from the last assistant header on, and the completion with its trained spans in ⟦⟧."""
    completion = encoded.completions[which]
    text, before = "", 0.0
    for token, flag in zip(completion.ids, completion.mask, strict=True):
        text += ("⟦" if flag > before else "⟧" if flag < before else "") + tokenizer.piece(int(token))
        before = flag
    prompt = pieces(tokenizer, encoded.prompt)
    return prompt[prompt.rindex(ASSISTANT) :], text + ("⟧" if before else "")


def test_d2_a_prompt_that_opens_a_thought_is_cut_where_the_answer_has_none(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, OPENS_A_THOUGHT)
    encoded = encode_supervised({"messages": [QUESTION, ANSWER]}, data(), tokenizer)
    assert shown(tokenizer, encoded) == (ASSISTANT, "⟦it is 46.<|im_end|>⟧")


@pytest.mark.parametrize("answer", ["<table>", "<think", "<think>\nthirty"])
def test_d2_the_cut_does_not_depend_on_letters_that_the_answer_shares_with_the_prompt(
    answer: str, tmp_path: Path
) -> None:
    tokenizer = load(tmp_path, OPENS_A_THOUGHT)
    row = {"messages": [QUESTION, {"role": "assistant", "content": answer}]}
    prompt, trained = shown(tokenizer, encode_supervised(row, data(), tokenizer))
    expected = ("<think>\n", "thirty") if answer.endswith("thirty") else ("", answer)
    assert (prompt, trained) == (ASSISTANT + expected[0], f"⟦{expected[1]}<|im_end|>⟧")


def test_d2_every_turn_of_such_a_template_is_trained(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, OPENS_A_THOUGHT)
    encoded = encode_supervised({"messages": TURNS}, data(), tokenizer)
    between = "⟧\n<|im_start|>user\nthe dog<|im_end|>\n<|im_start|>assistant\n⟦"
    assert shown(tokenizer, encoded) == (ASSISTANT, f"⟦it is 46.<|im_end|>{between}the fox<|im_end|>⟧")


def test_d2_a_token_across_the_end_of_the_prompt_is_cut_in_two(tmp_path: Path) -> None:
    """The prompt ends with a line break and the answer begins with another; real vocabularies have a token of both."""
    from tokenizers import Tokenizer as Fast

    folder = write_huggingface(tmp_path, template=EMPTY_THOUGHT)
    fast = json.loads((folder / "tokenizer.json").read_text())
    fast["model"]["vocab"]["ĊĊ"] = 320
    fast["model"]["merges"] = [["Ċ", "Ċ"], *fast["model"]["merges"]]
    (folder / "tokenizer.json").write_text(json.dumps(fast))
    assert Fast.from_file(str(folder / "tokenizer.json")).encode("\n\n").ids == [320]
    tokenizer = load_tokenizer(str(folder))
    encoded = encode_supervised({"messages": [QUESTION, ANSWER]}, data(), tokenizer)
    assert shown(tokenizer, encoded) == (ASSISTANT + "<think>\n", "⟦\n</think>\n\nit is 46.<|im_end|>⟧")
    assert encoded.prompt.tolist() == tokenizer.chat([QUESTION]), "the prompt that a rollout would get"


def test_d2_a_token_that_closes_a_finished_conversation_does_not_hide_earlier_turns(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, CLOSED)
    _, trained = shown(tokenizer, encode_supervised({"messages": TURNS}, data(), tokenizer))
    assert trained.startswith("⟦it is 46.<|im_end|>⟧\n<|im_start|>user\nthe dog<|im_end|>\n")


def write_rows(folder: Path, *rows: Any) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_d2_where_earlier_turns_are_rewritten_each_turn_can_be_an_example(tmp_path: Path) -> None:
    tokenizer = load(tmp_path / "model", LAST_THOUGHT_ONLY)
    with pytest.raises(DataError, match=r"message 1 \(assistant\) cannot be told.*data.turns: apart"):
        encode_supervised({"messages": TURNS}, data(), tokenizer)
    source = write_rows(tmp_path, {"messages": TURNS}, {"messages": TURNS[:2]}, {"prompt": "a", "completion": "b"})
    config = OfflineDataConfig(source=source, turns="apart", shuffle=False)
    examples = ExampleStream(config, encode_supervised, tokenizer, seed=0)
    assert len(examples) == 4
    drawn = examples.take(4)
    texts = [(pieces(tokenizer, e.prompt), pieces(tokenizer, e.completions[0].ids)) for e in drawn]
    assert [answer for _, answer in texts] == [
        "<think>\n\n</think>\n\nit is 46.<|im_end|>",
        "<think>\n\n</think>\n\nthe fox<|im_end|>",
        "<think>\n\n</think>\n\nit is 46.<|im_end|>",
        "<think>\n\n</think>\n\nb<|im_end|>",
    ]
    assert texts[1][0].startswith(texts[0][0] + "it is 46.<|im_end|>"), "earlier turns as the template writes them"
    assert all(e.completions[0].mask.all() for e in drawn)


def test_d2_a_bad_row_of_turns_apart_has_its_place(tmp_path: Path) -> None:
    tokenizer = load(tmp_path / "model", CHATML)
    rows = [{"messages": TURNS}, {"messages": [*TURNS[:3], {"role": "assistant", "content": 3}]}]
    config = OfflineDataConfig(source=write_rows(tmp_path, *rows), turns="apart", shuffle=False)
    with pytest.raises(DataError, match=r"rows.jsonl:2, up to message 3: message 3: content is int"):
        ExampleStream(config, encode_supervised, tokenizer, seed=0).take(4)


def test_d2_turns_apart_is_refused_for_pairs(tmp_path: Path) -> None:
    config = OfflineDataConfig(source=write_rows(tmp_path, {"prompt": "a"}), turns="apart")
    with pytest.raises(DataError, match=r"data.turns: apart is for rows of objective sft"):
        ExampleStream(config, encode_pair, load(tmp_path / "model", CHATML), seed=0)


def test_d2_a_pair_of_which_one_answer_has_a_thought_shares_its_prompt(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, OPENS_A_THOUGHT)
    row = {"prompt": QUESTION["content"], "chosen": "<think>\nthirty\n</think>\nit is 46.", "rejected": "47"}
    encoded = encode_pair(row, data(), tokenizer)
    assert shown(tokenizer, encoded) == (ASSISTANT, "⟦<think>\nthirty\n</think>\nit is 46.<|im_end|>⟧")
    assert shown(tokenizer, encoded, 1) == (ASSISTANT, "⟦47<|im_end|>⟧")
