from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.config.run import DataConfig
from mindrlhf_grpo.data.prompts import encode_row
from mindrlhf_grpo.errors import DataError
from mindrlhf_grpo.tokenizers.tokenizer import Tokenizer

USER = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
SYSTEM = "<|im_start|>system\n{}<|im_end|>\n"


def config(**settings: Any) -> DataConfig:
    return DataConfig(source="unused", **settings)


def rendered(tokenizer: Tokenizer, ids: np.ndarray[Any, Any]) -> str:
    return "".join(tokenizer.piece(token) for token in ids)


def test_text_becomes_a_user_message(chat_tokenizer: Tokenizer) -> None:
    prompt = encode_row({"prompt": "what is 12?", "answer": 3}, config(), chat_tokenizer)
    assert rendered(chat_tokenizer, prompt.ids) == USER.format("what is 12?")
    assert prompt.text == "what is 12?"
    assert prompt.columns == {"answer": 3}
    assert prompt.ids.dtype == np.int32
    assert prompt.tokens == len(prompt.ids)


def test_template_none_encodes_the_bare_text(chat_tokenizer: Tokenizer, plain_tokenizer: Tokenizer) -> None:
    for tokenizer, settings in ((chat_tokenizer, config(chat_template="none")), (plain_tokenizer, config())):
        prompt = encode_row({"prompt": "the dog"}, settings, tokenizer)
        assert prompt.ids.tolist() == tokenizer.encode("the dog")


def test_system_prompt_comes_first(chat_tokenizer: Tokenizer, plain_tokenizer: Tokenizer) -> None:
    settings = config(system_prompt="be brief")
    templated = encode_row({"prompt": "hi"}, settings, chat_tokenizer)
    assert rendered(chat_tokenizer, templated.ids) == SYSTEM.format("be brief") + USER.format("hi")
    plain = encode_row({"prompt": "hi"}, settings, plain_tokenizer)
    assert rendered(plain_tokenizer, plain.ids) == "be brief\n\nhi"


def test_a_rows_own_system_message_is_kept_after_the_system_prompt(chat_tokenizer: Tokenizer) -> None:
    row = {"prompt": [{"role": "system", "content": "own"}, {"role": "user", "content": "hi"}]}
    prompt = encode_row(row, config(system_prompt="first"), chat_tokenizer)
    assert rendered(chat_tokenizer, prompt.ids) == SYSTEM.format("first\n\nown") + USER.format("hi")
    assert prompt.text == "hi"


def test_messages_of_several_turns_stay_readable(chat_tokenizer: Tokenizer) -> None:
    turns = [("user", "a"), ("assistant", "b"), ("user", "c")]
    row = {"question": [{"role": role, "content": content} for role, content in turns]}
    prompt = encode_row(row, config(prompt_column="question"), chat_tokenizer)
    assert prompt.text == "user: a\n\nassistant: b\n\nuser: c"


def test_the_end_of_a_long_prompt_is_kept(plain_tokenizer: Tokenizer) -> None:
    ids = plain_tokenizer.encode("the quick brown fox jumps over the lazy dog")
    prompt = encode_row(
        {"prompt": "the quick brown fox jumps over the lazy dog"}, config(max_prompt_tokens=3), plain_tokenizer
    )
    assert prompt.ids.tolist() == ids[-3:]
    assert prompt.tokens == len(ids)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"promt": "x"}, r"no column 'prompt' \(did you mean 'promt'\?\); columns: promt"),
        ({}, "no column 'prompt'; columns: none"),
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": " \n"}, "the prompt is empty"),
        ({"prompt": None}, "the prompt is NoneType, not text or a list of messages"),
        ({"prompt": 3}, "the prompt is int"),
        ({"prompt": b"text"}, "the prompt is bytes"),
        ({"prompt": {"role": "user", "content": "x"}}, "the prompt is dict"),
        ({"prompt": []}, "the prompt is empty"),
        ({"prompt": ["x"]}, r"message 0 is str, not \{role, content\}"),
        ({"prompt": [{"role": "user", "content": "x"}, {"role": "user"}]}, "message 1 has no 'content'; it has role"),
        ({"prompt": [{"role": "user", "content": ["x"]}]}, "message 0: content is list, not text"),
        ({"prompt": [{"role": None, "content": "x"}]}, "message 0: role is NoneType, not text"),
        ({"prompt": [{"role": "", "content": "x"}]}, "message 0: role is empty"),
        ({"prompt": [{"role": "user", "content": ""}]}, "the prompt is empty"),
        ({"prompt": "a\ud800b"}, "the prompt holds half a surrogate pair at character 1"),
    ],
)
def test_a_bad_prompt_says_where_and_why(chat_tokenizer: Tokenizer, row: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        encode_row(row, config(), chat_tokenizer)


def test_messages_need_a_template(plain_tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="needs a chat template"):
        encode_row({"prompt": [{"role": "user", "content": "x"}]}, config(), plain_tokenizer)
