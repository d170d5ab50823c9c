"""D6, D8, D9: what a message holds reaches the model, or the row is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mindrlhf_grpo.config.offline import OfflineDataConfig
from mindrlhf_grpo.config.rendering import RenderingConfig
from mindrlhf_grpo.config.run import DataConfig
from mindrlhf_grpo.data.messages import read_conversation, template_variables
from mindrlhf_grpo.data.prompts import encode_row
from mindrlhf_grpo.data.row_encoders import encode_pair, encode_supervised
from mindrlhf_grpo.errors import DataError
from mindrlhf_grpo.tokenizers.tokenizer import Tokenizer, load_tokenizer
from tests.support.tiny_tokenizers import CHATML, write_huggingface

USER = {"role": "user", "content": "what is 12 + 34?"}
ANSWER = {"role": "assistant", "content": "it is 46."}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
CALLS = CHATML.replace(
    "{{ m['content'] }}",
    "{% if m.tool_calls %}{% for c in m.tool_calls %}<call>{{ c.function.name }} "
    "{{ c.function.arguments | tojson }}{% endfor %}{% endif %}{{ m['content'] }}",
)
WITH_TOOLS = "{% if tools %}tools: {{ tools | tojson }}\n{% endif %}" + CALLS
ARGUMENTS_AS_TEXT = CALLS.replace("c.function.arguments | tojson", "'args ' + c.function.arguments")
ONLY_WITHOUT_CONTENT = CALLS.replace("{% if m.tool_calls %}", "{% if m.content is none %}").replace(
    "{{ m['content'] }}<|im_end|>", "{{ m['content'] or '' }}<|im_end|>"
)
PARTS = CHATML.replace("m['content']", "m['content'] | map(attribute='text') | join")
THINKS = CHATML.replace(
    "{{ m['content'] }}",
    "{% if m.reasoning_content and loop.last %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m['content'] }}",
)
SWITCH = CHATML.replace(
    "assistant\n{% endif %}", "assistant\n{% if enable_thinking is false %}<think></think>{% endif %}{% endif %}"
)


def load(folder: Path, template: str = CHATML) -> Tokenizer:
    return load_tokenizer(str(write_huggingface(folder, template=template)))


def text(tokenizer: Tokenizer, ids: Any) -> str:
    return "".join(tokenizer.piece(int(token)) for token in ids)


def learn(tokenizer: Tokenizer, messages: list[Any], **row: Any) -> tuple[str, str]:
    """The prompt, and the completion with its trained spans in ⟦⟧."""
    encoded = encode_supervised({"messages": messages, **row}, OfflineDataConfig(source="x"), tokenizer)
    shown, before = "", 0.0
    for token, flag in zip(encoded.completions[0].ids, encoded.completions[0].mask, strict=True):
        shown += ("⟦" if flag > before else "⟧" if flag < before else "") + tokenizer.piece(int(token))
        before = flag
    return text(tokenizer, encoded.prompt), shown


def prompt(tokenizer: Tokenizer, messages: list[Any], **row: Any) -> str:
    return text(tokenizer, encode_row({"prompt": messages, **row}, DataConfig(source="x"), tokenizer).ids)


@pytest.mark.parametrize("content", ["", " \n"])
def test_d6_an_empty_assistant_message_is_not_trained(content: str, tmp_path: Path) -> None:
    tokenizer, empty = load(tmp_path), {"role": "assistant", "content": content}
    for messages in ([USER, empty], [USER, empty, USER, ANSWER]):
        with pytest.raises(DataError, match=r"message 1 \(assistant\) is empty"):
            learn(tokenizer, messages)
    pair = {"chosen": [USER, ANSWER], "rejected": [USER, empty]}
    with pytest.raises(DataError, match=r"message 1 \(assistant\) is empty"):
        encode_pair(pair, OfflineDataConfig(source="x"), tokenizer)


IGNORES_DEVELOPERS = CHATML.replace("{{ m['content'] }}", "{% if m.role != 'developer' %}{{ m['content'] }}{% endif %}")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"role": "developer", "content": "always be brief"}, r"message 0 \(developer\).*nothing of 'content'"),
        ({**USER, "name": "Ann"}, r"message 0 \(user\): the chat template writes nothing of 'name'"),
        ({**USER, "score": 3}, r"message 0 \(user\): the chat template writes nothing of 'score'"),
    ],
)
def test_d8_what_the_template_ignores_is_refused_everywhere(
    message: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    tokenizer = load(tmp_path, IGNORES_DEVELOPERS)
    with pytest.raises(DataError, match=reason):
        prompt(tokenizer, [message, USER])
    with pytest.raises(DataError, match=reason):
        learn(tokenizer, [message, USER, ANSWER])


def test_d8_a_developers_text_that_is_elsewhere_too_is_still_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"message 0 \(developer\)"):
        prompt(load(tmp_path, IGNORES_DEVELOPERS), [{**USER, "role": "developer"}, USER])


def test_d8_a_thought_has_the_name_that_the_template_reads_or_is_refused(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, THINKS)
    for name in ("reasoning_content", "thinking", "reasoning"):
        trained = learn(tokenizer, [USER, {**ANSWER, name: "add"}])[1]
        assert trained == "⟦<think>add</think>it is 46.<|im_end|>"
    with pytest.raises(DataError, match="nothing of 'thoughts'"):
        learn(tokenizer, [USER, {**ANSWER, "thoughts": "add"}])
    with pytest.raises(DataError, match="nothing of 'thinking'"):
        learn(load(tmp_path / "none"), [USER, {**ANSWER, "thinking": "add"}])


def test_d8_earlier_thoughts_may_be_dropped_from_a_prompt_but_not_from_what_is_learned(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, THINKS)
    earlier = [USER, {**ANSWER, "reasoning_content": "add"}, USER]
    assert "add" not in prompt(tokenizer, earlier)
    with pytest.raises(DataError, match=r"message 1 \(assistant\) cannot be told.*data.turns: apart"):
        learn(tokenizer, [*earlier, ANSWER])


def test_d8_a_thought_that_the_template_cuts_from_the_content_is_refused(tmp_path: Path) -> None:
    cuts = CHATML.replace("m['content'] }}", "m['content'].split('</think>')[-1] }}")
    with pytest.raises(DataError, match="nothing of the thought in its content"):
        learn(load(tmp_path, cuts), [USER, {"role": "assistant", "content": "<think>add</think>it is 46."}])


@pytest.mark.parametrize("mark", [{"weight": 0}, {"loss": False}])
def test_d8_a_message_without_weight_is_not_trained(mark: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = load(tmp_path)
    before, trained = learn(tokenizer, [USER, {**ANSWER, **mark}, USER, {**ANSWER, "weight": 1}])
    assert before.count("it is 46.") == 1
    assert trained == "⟦it is 46.<|im_end|>"
    with pytest.raises(DataError, match="no assistant message to learn from"):
        learn(tokenizer, [USER, {**ANSWER, **mark}])
    with pytest.raises(DataError, match="accepted: weight 0 or 1"):
        learn(tokenizer, [USER, {**ANSWER, "weight": 0.5}])


def call(arguments: Any, **more: Any) -> dict[str, Any]:
    tool_call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": arguments, **more}}
    return {"role": "assistant", "tool_calls": [tool_call]}


RESULT = {"role": "tool", "content": "46", "tool_call_id": "c1"}


@pytest.mark.parametrize("arguments", [{"a": 12}, {"a": 12, "b": None}, '{"a": 12}', json.dumps('{"a": 12}')])
@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": ""}])
def test_d9_arguments_of_tool_calls_are_objects(arguments: Any, content: dict[str, Any], tmp_path: Path) -> None:
    """Text, text in text, and keys that a table filled with null are the same call."""
    row = [USER, {**call(arguments, extra=None), **content, "name": None}, RESULT, ANSWER]
    _, trained = learn(load(tmp_path, CALLS), row)
    assert trained == (
        '⟦<call>add {"a": 12}<|im_end|>⟧\n<|im_start|>tool\n46<|im_end|>\n<|im_start|>assistant\n⟦it is 46.<|im_end|>'
    )


def test_d9_templates_take_arguments_as_text_or_calls_without_content(tmp_path: Path) -> None:
    row = [USER, call({"a": 12})]
    assert learn(load(tmp_path / "text", ARGUMENTS_AS_TEXT), row)[1] == '⟦<call>add args {"a": 12}<|im_end|>'
    assert learn(load(tmp_path / "none", ONLY_WITHOUT_CONTENT), row)[1] == '⟦<call>add {"a": 12}<|im_end|>'


def test_d9_a_template_without_tool_calls_refuses_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"message 1 \(assistant\): .*nothing of 'tool_calls'"):
        learn(load(tmp_path), [USER, call({"a": 12})])


@pytest.mark.parametrize("arguments", ["{", "[1]", 3])
def test_d9_arguments_that_are_no_object(arguments: Any) -> None:
    with pytest.raises(DataError, match="message 0: the arguments of a tool call"):
        read_conversation([call(arguments)])


@pytest.mark.parametrize("tools", [TOOLS, json.dumps(TOOLS)])
def test_d9_the_column_tools_reaches_the_template(tools: Any, tmp_path: Path) -> None:
    tokenizer = load(tmp_path / "tools", WITH_TOOLS)
    expected = f"tools: {json.dumps(TOOLS)}\n<|im_start|>user\n"
    assert prompt(tokenizer, [USER], tools=tools).startswith(expected)
    assert learn(tokenizer, [USER, ANSWER], tools=tools)[0].startswith(expected)
    for without in (None, [], ""):
        assert prompt(tokenizer, [USER], tools=without).startswith("<|im_start|>user\n")
    with pytest.raises(DataError, match="the row has tools, and the chat template does not write them"):
        prompt(load(tmp_path / "none"), [USER], tools=tools)
    with pytest.raises(DataError, match="tools is not a list of objects"):
        prompt(tokenizer, [USER], tools=[3])


def test_d9_chat_template_kwargs_reach_the_template(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, SWITCH)
    off = RenderingConfig(chat_template_kwargs={"enable_thinking": False})
    row = {"prompt": [USER]}
    ids = encode_row(row, DataConfig(source="x", rendering=off), tokenizer).ids
    assert text(tokenizer, ids).endswith("assistant\n<think></think>")
    on = {**row, "chat_template_kwargs": {"enable_thinking": True, "other": None}}
    ids = encode_row(on, DataConfig(source="x", rendering=off), tokenizer).ids
    assert text(tokenizer, ids).endswith("assistant\n"), "the row's go before, and null is absent"
    pair = {"prompt": "a", "chosen": "it is 46.", "rejected": "47"}
    encoded = encode_pair(pair, OfflineDataConfig(source="x", rendering=off), tokenizer)
    assert text(tokenizer, encoded.prompt).endswith("assistant\n"), "finished messages of this template have no thought"


@pytest.mark.parametrize("name", ["enable_thinkin", "messages", "add_generation_prompt"])
def test_d9_names_that_the_template_does_not_read_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"data.rendering.chat_template_kwargs: '{name}' is not accepted"):
        prompt(load(tmp_path, SWITCH), [USER], chat_template_kwargs={name: False})


def test_d9_variables_of_a_row_without_any() -> None:
    assert template_variables({"prompt": "x", "tools": None}, {}, "tools") == {}


def test_content_in_parts_is_joined_and_given_in_parts_where_a_template_expects_them(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "what is "}, {"type": "text", "text": "12 + 34?"}]
    tokenizer = load(tmp_path / "text")
    assert prompt(tokenizer, [{"role": "user", "content": parts}]) == prompt(tokenizer, [USER])
    assert prompt(load(tmp_path / "parts", PARTS), [USER]) == prompt(tokenizer, [USER])
    assert learn(load(tmp_path / "parts", PARTS), [USER, ANSWER])[1] == "⟦it is 46.<|im_end|>"
    with pytest.raises(DataError, match="content has a part of type 'audio'; accepted: text"):
        prompt(tokenizer, [{"role": "user", "content": [{"type": "audio"}]}])
