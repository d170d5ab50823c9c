"""A prompt that ends with an assistant message is continued: online, offline and for reward models, as transformers does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mindrlhf_grpo.config.offline import OfflineDataConfig
from mindrlhf_grpo.config.run import DataConfig
from mindrlhf_grpo.data.prompts import encode_row
from mindrlhf_grpo.data.row_encoders import encode_pair, encode_supervised
from mindrlhf_grpo.errors import DataError
from mindrlhf_grpo.rewards.models.reward_model import Scorer
from mindrlhf_grpo.tokenizers.prefill import answered
from mindrlhf_grpo.tokenizers.tokenizer import Tokenizer, load_tokenizer
from tests.support.tiny_tokenizers import CHATML, write_huggingface

ASK = {"role": "user", "content": "what is 12 + 34?"}
OPENED = "<|im_start|>user\nwhat is 12 + 34?<|im_end|>\n<|im_start|>assistant\n"
STRIPPING = CHATML.replace("m['content']", "m['content'] | trim")


def said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def pieces(tokenizer: Tokenizer, ids: Any) -> str:
    return "".join(tokenizer.piece(int(token)) for token in ids)


@pytest.mark.parametrize("template", [CHATML, STRIPPING], ids=["as it is", "stripped"])
@pytest.mark.parametrize("start", ["it is", "it is ", "the dog\n", "what is 12 + 34?", ""])
def test_p2_an_online_prompt_is_continued_as_in_transformers(template: str, start: str, tmp_path: Path) -> None:
    """Findings, newcomer P2: no second assistant turn is opened after the first."""
    from transformers import AutoTokenizer

    folder = write_huggingface(tmp_path, template=template)
    tokenizer, theirs = load_tokenizer(str(folder)), AutoTokenizer.from_pretrained(str(folder))
    prompt = encode_row({"prompt": [ASK, said(start)]}, DataConfig(source="x"), tokenizer)
    expected = theirs.apply_chat_template([ASK, said(start)], continue_final_message=True, tokenize=False)
    assert prompt.ids.tolist() == theirs.encode(expected, add_special_tokens=False)
    assert pieces(tokenizer, prompt.ids).rstrip() == (OPENED + start).rstrip()


@pytest.mark.parametrize("completion", [" 46.", [said(" 46.")]], ids=["text", "messages"])
def test_p2_a_completion_continues_the_prompts_last_message(completion: Any, chat_tokenizer: Tokenizer) -> None:
    """Findings, newcomer P2: the beginning is prompt, the rest is trained."""
    row = {"prompt": [ASK, said("it is")], "completion": completion}
    encoded = encode_supervised(row, OfflineDataConfig(source="x"), chat_tokenizer)
    assert pieces(chat_tokenizer, encoded.prompt) == OPENED + "it is"
    assert pieces(chat_tokenizer, encoded.completions[0].ids) == " 46.<|im_end|>"
    assert encoded.completions[0].mask.all()
    pair = {"prompt": [ASK, said("it is")], "chosen": " 46.", "rejected": " 12."}
    encoded = encode_pair(pair, OfflineDataConfig(source="x", system_prompt="be brief"), chat_tokenizer)
    assert pieces(chat_tokenizer, encoded.prompt).endswith(OPENED + "it is")
    assert [pieces(chat_tokenizer, answer.ids) for answer in encoded.completions] == [
        " 46.<|im_end|>",
        " 12.<|im_end|>",
    ]


def test_p2_another_role_cannot_continue_the_assistant(chat_tokenizer: Tokenizer) -> None:
    """Findings, newcomer P2."""
    row = {"prompt": [ASK, said("it is")], "completion": [{"role": "user", "content": "so?"}, said("46.")]}
    with pytest.raises(DataError, match="ends with an assistant message, which role 'user' cannot continue"):
        encode_supervised(row, OfflineDataConfig(source="x"), chat_tokenizer)


def test_p2_a_reward_model_reads_one_answer(chat_tokenizer: Tokenizer) -> None:
    """Findings, newcomer P2: the completion with its beginning is one message, and the prompt is the policy's."""
    assert answered([ASK, said("it is")], " 46.") == [ASK, said("it is 46.")]
    assert answered([ASK], "46.") == [ASK, said("46.")]
    scorer = object.__new__(Scorer)
    for end in ("answer", "template"):
        scorer.settings = type("Settings", (), {"end": end})()
        start, ids = scorer.templated(chat_tokenizer, [ASK, said("it is")], " 46.")
        assert pieces(chat_tokenizer, ids[:start]) == OPENED + "it is"
        assert pieces(chat_tokenizer, ids[start:]).rstrip() == " 46.<|im_end|>"


def test_a_template_that_leaves_the_last_message_out_is_refused(tmp_path: Path) -> None:
    """Findings, newcomer P2: what is to be continued must be in the prompt."""
    source = "{% for m in messages if m.role == 'user' %}{{ m.content }}<|im_end|>{% endfor %}"
    tokenizer = load_tokenizer(str(write_huggingface(tmp_path, template=source)))
    with pytest.raises(DataError, match="writes nothing of 'content'"):
        encode_row({"prompt": [ASK, said("it is")]}, DataConfig(source="x"), tokenizer)


def test_a_conversation_that_begins_with_the_assistant_says_so(tmp_path: Path) -> None:
    """Findings, newcomer row shapes: the refusal named the template; what is missing is a prompt."""
    source = "{% if messages[0].role != 'system' %}<|im_start|>system\ndefault<|im_end|>\n{% endif %}" + CHATML
    tokenizer = load_tokenizer(str(write_huggingface(tmp_path, template=source)))
    row = {"messages": [said("hello"), ASK, said("46.")]}
    with pytest.raises(DataError, match=r"begins with the assistant.*data.system_prompt.*weight: 0 on message 0"):
        encode_supervised(row, OfflineDataConfig(source="x"), tokenizer)
    for config, messages in (
        (OfflineDataConfig(source="x", system_prompt="be brief"), row["messages"]),
        (OfflineDataConfig(source="x"), [{**row["messages"][0], "weight": 0}, *row["messages"][1:]]),
    ):
        encoded = encode_supervised({"messages": messages}, config, tokenizer)
        assert pieces(tokenizer, encoded.completions[0].ids).endswith("46.<|im_end|>")
