"""From a row to a prompt: the column is checked, the chat template applied, and the original length kept.

A row that cannot be used raises DataError without its place, which the stream adds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..config.offline import OfflineDataConfig
from ..config.run import DataConfig
from ..errors import DataError, did_you_mean
from ..tokenizers.prefill import chat_prompt, is_prefilled
from ..tokenizers.tokenizer import Conversation, Tokenizer, encode_prompt_text
from ..tokenizers.traces import fit_conversation
from ..types import IntArray, Prompt
from .messages import check_text, read_conversation, template_variables


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPrompt:
    """A tokenised prompt.

    Attributes:
        ids: tokens ``[P]``, cut to the limit.
        text: the prompt for people and rewards.
        columns: the row's other columns.
        tokens: number of tokens before any cut.
        messages: the conversation, empty without a chat template.
        features: the arrays of its images.
    """

    ids: IntArray
    text: str
    columns: Mapping[str, Any]
    tokens: int
    messages: Conversation
    features: Mapping[str, Any] = field(default_factory=dict)


def encode_row(
    row: Mapping[str, Any], config: DataConfig, tokenizer: Tokenizer, tools: Sequence[Mapping[str, Any]] = ()
) -> EncodedPrompt:
    """Encode the prompt of a row; it is cut to its last ``max_prompt_tokens``, whatever ``overlong`` says.

    ``tools`` are those of an environment, in place of a column of the row.

    Raises:
        DataError: the prompt column is missing, empty or of the wrong form, or the chat template refuses it.
    """
    value = read_column(row, config.prompt_column)
    messages: Conversation = []
    if is_templated(config, tokenizer):
        written = value if isinstance(value, list) else [{"role": "user", "content": value}]
        messages = with_system(written, config.system_prompt)
        variables = conversation_variables(row, config.rendered.chat_template_kwargs, tools)
        fitted = fit_conversation(messages, tokenizer, variables, generation_prompt=not is_prefilled(messages))
        ids = chat_prompt(fitted, tokenizer, variables)
    elif isinstance(value, list):
        raise DataError("the prompt is a list of messages, which needs a chat template (data.chat_template)")
    else:
        text = value if config.system_prompt is None else f"{config.system_prompt}\n\n{value}"
        ids = encode_prompt_text(text, tokenizer, bos=config.rendered.bos)
    if not ids:
        raise DataError("the prompt has no tokens")
    return EncodedPrompt(
        ids=np.asarray(ids[-config.max_prompt_tokens :], dtype=np.int32),
        text=readable(value),
        columns={key: column for key, column in row.items() if key != config.prompt_column},
        tokens=len(ids),
        messages=messages,
    )


def conversation_variables(
    row: Mapping[str, Any], settings: Mapping[str, Any], tools: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return what a row's chat template gets besides the messages, with the tools of an environment.

    Raises:
        DataError: as ``template_variables``, or the row has tools too.
    """
    variables = template_variables(row, settings, "tools")
    if not tools:
        return variables
    if "tools" in variables:
        raise DataError("the row has tools, and so has the environment; accepted: rows without the column tools")
    return {**variables, "tools": list(tools)}


def extended_prompt(
    prompt: Prompt, text: str, tokenizer: Tokenizer, settings: Mapping[str, Any], tools: Sequence[Mapping[str, Any]]
) -> Prompt:
    """Return a templated prompt with a text at the end of its last message, as the reset of an environment gives it.

    Raises:
        DataError: the chat template refuses the conversation.
    """
    *before, last = prompt.messages
    messages: Conversation = [dict(message) for message in before] + [{**last, "content": f"{last['content']}{text}"}]
    variables = conversation_variables(prompt.columns, settings, tools)
    fitted = fit_conversation(messages, tokenizer, variables, generation_prompt=not is_prefilled(messages))
    ids = np.asarray(chat_prompt(fitted, tokenizer, variables), dtype=np.int32)
    return replace(prompt, ids=ids, text=f"{prompt.text}{text}", messages=tuple(messages))


def is_templated(config: DataConfig | OfflineDataConfig, tokenizer: Tokenizer) -> bool:
    """Tell whether prompts go through a chat template."""
    return tokenizer.has_chat_template and config.chat_template != "none"


def read_column(row: Mapping[str, Any], column: str) -> str | Conversation:
    """Read the prompt column: non-empty text, or messages that are not all empty; raises DataError on anything else."""
    if column not in row:
        hint = did_you_mean(column, map(str, row))
        raise DataError(f"no column {column!r}{hint}; columns: {', '.join(map(str, row)) or 'none'}")
    value = row[column]
    if isinstance(value, str):
        check_text(value, "the prompt")
        if not value.strip():
            raise DataError("the prompt is empty")
        return value
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return read_conversation(value)
    raise DataError(f"the prompt is {type(value).__name__}, not text or a list of messages")


def with_system(messages: Conversation, system_prompt: str | None) -> Conversation:
    """Put the system prompt first; a row's own system message follows it in the same message."""
    if system_prompt is None:
        return messages
    if messages[0]["role"] == "system":
        return [{"role": "system", "content": f"{system_prompt}\n\n{messages[0]['content']}"}, *messages[1:]]
    return [{"role": "system", "content": system_prompt}, *messages]


def readable(value: str | Conversation) -> str:
    """Format a prompt for people and rewards: the text, the only user message, or ``role: content`` paragraphs."""
    if isinstance(value, str):
        return value
    without_system = [message for message in value if message["role"] != "system"]
    if len(without_system) == 1:
        return str(without_system[0]["content"])
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in value)
