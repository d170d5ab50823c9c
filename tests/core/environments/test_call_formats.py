"""Each form of tool calls: what a turn says is read, and what cannot be read is a problem with its reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mindrlhf_grpo.environments.call_formats import FORMATS, Call, find_format, turn_text
from mindrlhf_grpo.environments.turn_template import TurnTemplate
from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.tokenizers.tokenizer import load_tokenizer
from tests.core.tokenizers.published_templates import PACKAGE_MISSING, template_files, write_tokenizer
from tests.support.tiny_tokenizers import write_huggingface

READ = {form.name: form.read for form in FORMATS}
ADD: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "note": {"type": "string"}},
            "required": ["a"],
        },
    },
}
TURNS = {
    "Hermes": 'I add.\n<tool_call>\n{"name": "add", "arguments": {"a": 12, "note": "7"}}\n</tool_call>',
    "Llama 3": '{"name": "add", "parameters": {"a": 12, "note": "7"}}',
    "Mistral": '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 12, "note": "7"}}]',
    "GLM": "<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>12</arg_value>\n<arg_key>note</arg_key>\n<arg_value>7</arg_value>\n</tool_call>",
    "functions": "<tool_call>\n<function=add>\n<parameter=a>\n12\n</parameter>\n<parameter=note>\n7\n</parameter>\n</function>\n</tool_call>",
    "DeepSeek": '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n{"a": 12, "note": "7"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
}


@pytest.mark.parametrize("name", TURNS)
def test_a_call_is_read_and_an_answer_has_none(name: str) -> None:
    assert READ[name](TURNS[name], {"add": ADD}) == [Call(name="add", arguments={"a": 12, "note": "7"})]
    assert READ[name]("The sum is 12, {a}.", {"add": ADD}) == []
    thought = f"<think>\n{TURNS[name]}\n</think>\n\nThe sum is 12."
    assert READ[name](thought, {"add": ADD}) == []


def test_newer_forms_of_mistral_and_deepseek() -> None:
    assert READ["Mistral"]('[TOOL_CALLS]add[ARGS]{"a": 1}[TOOL_CALLS]add{"a": 2}', {}) == [
        Call(name="add", arguments={"a": 1}),
        Call(name="add", arguments={"a": 2}),
    ]
    assert READ["DeepSeek"]('<｜tool▁call▁begin｜>add<｜tool▁sep｜>{"a": 1}<｜tool▁call▁end｜>', {}) == [
        Call(name="add", arguments={"a": 1})
    ]


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("Hermes", '<tool_call>{"name": "add", "arguments": {"a": 1}}', "does not end with </tool_call>"),
        ("Hermes", "<tool_call>{'name': 'add'}</tool_call>", "is no JSON"),
        ("Hermes", '<tool_call>{"name": "add", "arguments": {"a": NaN}}</tool_call>', "NaN is no JSON"),
        ("Hermes", '<tool_call>["add"]</tool_call>', "no object with a name and arguments"),
        ("Hermes", '<tool_call>{"name": "add", "arguments": [1]}</tool_call>', "the arguments of add are no object"),
        ("Llama 3", '{"name": "add", "parameters": {"a": 1}', "is no JSON"),
        ("Llama 3", '<|python_tag|>add.call(a="1")', "is no JSON"),
        ("Mistral", "[TOOL_CALLS]nothing", "is not NAME\\[ARGS\\]"),
        ("Mistral", "[TOOL_CALLS][]", "list of calls is empty"),
        ("GLM", "<tool_call>add\n<arg_key>a</arg_key></tool_call>", "is not NAME with"),
        ("functions", "<tool_call>add(1)</tool_call>", "is not <function=NAME>"),
        ("DeepSeek", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>add", "does not end with"),
    ],
)
def test_what_cannot_be_read_is_a_problem(name: str, text: str, problem: str) -> None:
    (call,) = READ[name](text, {"add": ADD})
    with pytest.raises(AssertionError, match=problem):
        raise AssertionError(call.problem)


def test_arguments_that_were_written_as_text_are_read_once_more() -> None:
    twice = '<tool_call>{"name": "add", "arguments": "{\\"a\\": 1}"}</tool_call>'
    assert READ["Hermes"](twice, {}) == [Call(name="add", arguments={"a": 1})]


def test_special_tokens_of_a_turn_are_part_of_its_text(tmp_path: Path) -> None:
    """``decode`` leaves them out, and forms of calls are made of them."""
    tokenizer = load_tokenizer(str(write_huggingface(tmp_path)))
    ids = [*tokenizer.encode("ab"), 1, *tokenizer.encode("é日"), 2]
    assert turn_text(ids, tokenizer) == "ab<|im_start|>é日"


@pytest.mark.skipif(not template_files(), reason=PACKAGE_MISSING)
def test_the_forms_of_published_templates(tmp_path: Path) -> None:
    found: dict[str, set[str]] = {}
    for number, path in enumerate(template_files()):
        tokenizer = load_tokenizer(str(write_tokenizer(tmp_path / str(number), path)))
        try:
            template = TurnTemplate(tokenizer, {"tools": [ADD]}, plain=False)
            form = find_format(template.rendered_call()).name
        except ConfigError as error:
            text = str(error)
            form = next(
                reason
                for reason in ("not prefix-preserving", "does not write tools", "cannot be read here")
                if reason in text
            )
        found.setdefault(form, set()).add(path.stem)
    assert {name: len(stems) for name, stems in found.items()} == {
        "Hermes": 7, "functions": 16, "GLM": 2, "Llama 3": 2, "not prefix-preserving": 7, "does not write tools": 28,
        "cannot be read here": 10,
    }  # fmt: skip
    assert {"qwen2_5", "qwen3_training", "qwen3_instruct_2507"} <= found["Hermes"]
    assert "qwen3" in found["not prefix-preserving"]
    # Pythonic calls, channels and tags of their own: gpt-oss, LFM2, Gemma 4, Muse.
    assert {stem.partition("_")[0] for stem in found["cannot be read here"]} == {"gemma4", "gptoss", "lfm2", "muse"}
