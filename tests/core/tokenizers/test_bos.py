"""D1: prompts without a chat template begin as the tokenizer itself begins a text; nothing else does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Fast
from tokenizers.processors import TemplateProcessing

from mindrlhf_grpo.cli.doctor import describe_prompts
from mindrlhf_grpo.config.offline import OfflineConfig, OfflineDataConfig
from mindrlhf_grpo.config.rendering import RenderingConfig
from mindrlhf_grpo.config.run import DataConfig
from mindrlhf_grpo.data.prompts import encode_row
from mindrlhf_grpo.data.row_encoders import encode_pair
from mindrlhf_grpo.tokenizers.tokenizer import encode_prompt_text, load_tokenizer
from tests.support.tiny_tokenizers import CHATML, write_huggingface

BOS = 0


def write(folder: Path, *, processor: bool = True, template: str | None = None, **config: Any) -> str:
    folder = write_huggingface(folder, template=template, bos_token="<|endoftext|>", **config)
    fast = Fast.from_file(str(folder / "tokenizer.json"))
    if processor:
        marks = [("<|endoftext|>", BOS), ("<|im_end|>", 2)]
        fast.post_processor = TemplateProcessing(single="<|endoftext|> $A <|im_end|>", special_tokens=marks)
    fast.save(str(folder / "tokenizer.json"))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2]}))
    return str(folder)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (BOS,)),
        ({"processor": False}, ()),
        ({"processor": False, "add_bos_token": True}, (BOS,)),
        ({"add_bos_token": False}, ()),
    ],
)
def test_d1_the_beginning_is_that_of_the_files(settings: Any, expected: tuple[int, ...], tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write(tmp_path, **settings))
    assert tokenizer.prefix_ids == expected
    plain = tokenizer.encode("the dog")
    assert encode_prompt_text("the dog", tokenizer) == [*expected, *plain]
    assert encode_prompt_text("the dog", tokenizer, bos="never") == plain


def test_d1_bos_is_never_twice_and_an_empty_prompt_stays_empty(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write(tmp_path))
    assert encode_prompt_text("<|endoftext|>the dog", tokenizer) == [BOS, *tokenizer.encode("the dog")]
    assert encode_prompt_text("", tokenizer) == []


def test_d1_prompts_of_rows_begin_with_it_and_completions_do_not(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write(tmp_path))
    dog, fox = tokenizer.encode("the dog"), tokenizer.encode("fox")
    assert encode_row({"prompt": "the dog"}, DataConfig(source="x"), tokenizer).ids.tolist() == [BOS, *dog]
    pair = {"prompt": "the dog", "chosen": "fox", "rejected": "dog"}
    encoded = encode_pair(pair, OfflineDataConfig(source="x"), tokenizer)
    assert encoded.prompt.tolist() == [BOS, *dog]
    assert encoded.completions[0].ids.tolist() == [*fox, 2]
    never = RenderingConfig(bos="never")
    assert encode_row({"prompt": "the dog"}, DataConfig(source="x", rendering=never), tokenizer).ids.tolist() == dog


def test_d1_a_template_writes_its_own(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write(tmp_path, template=CHATML))
    ids = encode_row({"prompt": "the dog"}, DataConfig(source="x"), tokenizer).ids
    assert BOS not in ids.tolist()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"chat_template": "none"}, "plain text after the tokenizer's BOS <|endoftext|>"),
        ({"chat_template": "none", "rendering": {"bos": "never"}}, "plain text without the tokenizer's BOS"),
        ({}, "in the chat template"),
    ],
)
def test_d1_doctor_says_what_prompts_begin_with(data: Any, expected: str, tmp_path: Path) -> None:
    folder = write(tmp_path, template=CHATML)
    config = OfflineConfig.model_validate(
        {"model": {"path": folder}, "data": {"source": "x", **data}, "objective": {"name": "sft"}}
    )
    assert describe_prompts(config).startswith(expected)
