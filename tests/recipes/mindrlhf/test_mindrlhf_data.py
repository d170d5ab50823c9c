"""MindRLHF's rows: questions, pairs, and files of tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.config.run import DataConfig
from mindrlhf_grpo.data.rows import BadRow
from mindrlhf_grpo.data.sources import read_rows
from mindrlhf_grpo.data.stream import PromptStream
from mindrlhf_grpo.errors import DataError
from mindrlhf_grpo.recipes.mindrlhf.data import answered, pairs, rows
from mindrlhf_grpo.recipes.mindrlhf.model_folders import write_tokenizer
from mindrlhf_grpo.recipes.mindrlhf.token_files import write_token_file
from mindrlhf_grpo.tokenizers.tokenizer import load_tokenizer
from tests.support.recipes import mindrlhf_runs

NAME = "mindrlhf_grpo.recipes.mindrlhf.data"


def lines(path: Path, *content: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return str(path)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    mindrlhf_runs.write_vocabulary(folder)
    write_tokenizer(folder / "vocab.json", folder / "merges.txt", folder)
    return folder


def test_dataset_types(tmp_path: Path) -> None:
    gsm = lines(tmp_path / "gsm.jsonl", {"question": "2+2?", "answer": "2 and 2\n#### 4"})
    assert list(rows(gsm, "gsm8k")) == [{"prompt": "2+2?", "solution": "4", "full": "2 and 2\n#### 4"}]
    assert list(answered(gsm, "gsm8k")) == [{"prompt": "2+2?", "completion": "2 and 2\n#### 4"}]
    r1 = lines(tmp_path / "r1.jsonl", {"problem": "p", "answer": "7"})
    assert list(rows(r1, "openR1math")) == [{"prompt": "p", "solution": "7"}]
    other = lines(tmp_path / "other.jsonl", {"prompt": "p", "response": "r"})
    assert list(rows(other)) == [{"prompt": "p", "solution": "r"}]


def test_pairs_of_both_forms(tmp_path: Path) -> None:
    cvalues = lines(tmp_path / "c.jsonl", {"prompt": " q ", "pos_resp": "good", "neg_resp": "bad", "pos_type": "a"})
    assert list(pairs(cvalues)) == [{"prompt": "q", "chosen": "good", "rejected": "bad"}]
    turns = {"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "good"},
             "rejected": {"from": "gpt", "value": "bad"}}  # fmt: skip
    (tmp_path / "dpo.json").write_text(json.dumps([turns]))
    assert list(pairs(str(tmp_path / "dpo.json"), "dpo")) == [
        {"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "assistant", "content": "good"}],
         "rejected": [{"role": "assistant", "content": "bad"}]},
    ]  # fmt: skip


def test_bad_rows_have_their_line(tmp_path: Path) -> None:
    file = lines(tmp_path / "x.jsonl", {"question": "q", "answer": "#### 1"}, {"qestion": "q", "answer": "#### 1"},
                 {"question": "q", "answer": "1"})  # fmt: skip
    found = list(rows(file, "gsm8k"))
    assert [str(row) for row in found if isinstance(row, BadRow)] == [
        f"{file}:2: no column 'question' (did you mean 'qestion'?); columns: qestion, answer",
        f"{file}:3: answer has no ####, which stands before the solution",
    ]
    source = {"name": f"{NAME}:rows", "file": file, "dataset_type": "gsm8k"}
    assert [one.place for one in read_rows(source).bad.values()] == [f"{file}:2", f"{file}:3"]
    with pytest.raises(DataError, match=r"dataset_type 'gsm8' is unknown .did you mean 'gsm8k'"):
        rows(file, "gsm8")


def test_tokens_are_read_as_they_are(tmp_path: Path, tokenizer: Path) -> None:
    tokens = load_tokenizer(str(tokenizer), chat_template="none")
    prompt = tokens.encode("<|im_start|>user\n2+2?<|im_end|>\n")
    answer = tokens.encode("4")
    record = {
        "prompt_ids": np.array([*prompt, *[tokens.pad_id] * 9]),
        "pretrain_ids": np.array([*answer, tokens.pad_id, tokens.pad_id]),
        "loss_mask": np.array([1, tokens.pad_id, tokens.pad_id]),  # MindRLHF fills its masks up with the padding id
    }
    assert write_token_file(tmp_path / "x.npz", [record]) == 1
    source = {"name": f"{NAME}:rows", "file": str(tmp_path / "x.npz"), "tokenizer": str(tokenizer)}
    stream = PromptStream(DataConfig(source=source, chat_template="none"), tokens, seed=0)
    (one,) = stream.take(1)
    assert one.ids.tolist() == prompt
    assert one.columns["solution"] == "4"


def test_token_pairs_begin_where_they_differ(tmp_path: Path, tokenizer: Path) -> None:
    tokens = load_tokenizer(str(tokenizer), chat_template="none")
    good, bad = tokens.encode("q: yes!"), tokens.encode("q: no")
    record = {f"{side}_input_ids": np.array([*ids, *[tokens.pad_id] * (9 - len(ids))])
              for side, ids in (("chosen", good), ("rejected", bad))}  # fmt: skip
    write_token_file(tmp_path / "x.npz", [record])
    assert list(pairs(str(tmp_path / "x.npz"), tokenizer=str(tokenizer))) == [
        {"prompt": "q: ", "chosen": "yes!", "rejected": "no"}
    ]


def test_token_files_that_cannot_be_used_are_named(tmp_path: Path, tokenizer: Path) -> None:
    write_token_file(tmp_path / "x.npz", [{"prompt_ids": np.array([5, 99999])}])
    (row,) = rows(str(tmp_path / "x.npz"), tokenizer=str(tokenizer))
    assert "id 99999 is not among the tokenizer's 259 tokens" in str(row) or "no 'pretrain_ids'" in str(row)
    (tmp_path / "broken.npz").write_bytes(b"PK nothing")
    with pytest.raises(DataError, match=r"broken\.npz cannot be read as \.npz"):
        list(rows(str(tmp_path / "broken.npz"), tokenizer=str(tokenizer)))
