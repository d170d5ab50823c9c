"""From a row of an offline dataset to tokens: supervised examples, preference pairs, and labelled completions.

Each kind of row has one encoder; all follow ``Encoder`` and raise DataError without the row's place, which the stream adds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from ..config.offline import OfflineDataConfig
from ..errors import DataError, did_you_mean
from ..tokenizers.masks import Completion, count_shared, encode_conversation, encode_text, is_trained, make_completion
from ..tokenizers.prefill import is_prefilled
from ..tokenizers.tokenizer import Conversation, Tokenizer, encode_prompt_text
from ..tokenizers.traces import BOOKKEEPING, fit_conversation
from ..types import IntArray
from .messages import template_variables
from .prompts import is_templated, read_column, with_system


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """The result of an encoder: an example without its place in the source."""

    prompt: IntArray
    completions: tuple[Completion, ...]
    numbers: Mapping[str, float] = field(default_factory=dict)


LABELS = {"true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0}
Encoder: TypeAlias = Callable[[Mapping[str, Any], OfflineDataConfig, Tokenizer], Encoded]


def encode_supervised(row: Mapping[str, Any], config: OfflineDataConfig, tokenizer: Tokenizer) -> Encoded:
    """Supervised fine-tuning: a conversation in ``messages``, ``prompt`` and ``completion``, or ``text`` alone.

    In a conversation every assistant message is trained and nothing else. Everything before the first assistant
    message becomes the prompt and the rest one completion, in which the turns of other roles have mask 0. With
    ``data.turns: apart`` the row ends with an assistant message, and only that one is trained. Text alone is language
    modelling: no template, and every token but the first is trained.

    Raises:
        DataError: the row has no such form, a part is empty, or the template hides which tokens are the assistant's.
    """
    if column_of(config, "messages") in row:
        messages = read_text(row, config, "messages")
        if isinstance(messages, str):
            raise DataError(f"{column_of(config, 'messages')} is text, not a list of messages")
        if not is_templated(config, tokenizer):
            raise DataError("the row has a list of messages, which needs a chat template (data.chat_template)")
        start = len(messages) - 1 if config.turns == "apart" else 0
        prompt, completion = encode_messages(messages, start, row, config, tokenizer)
    elif column_of(config, "text") in row and not {column_of(config, part) for part in ("prompt", "completion")} & set(
        row
    ):
        return encode_whole_text(read_text(row, config, "text"), config, tokenizer)
    else:
        prompt, completion = encode_answer(
            read_text(row, config, "prompt"), read_text(row, config, "completion"), row, config, tokenizer
        )
    return Encoded(prompt=prompt, completions=(completion,))


def encode_whole_text(text: str | Conversation, config: OfflineDataConfig, tokenizer: Tokenizer) -> Encoded:
    """Encode a text for language modelling; its first token (BOS, where the tokenizer has one) is the prompt.

    Raises:
        DataError: the text is a list, or a system prompt is set, which a text has no place for.
    """
    if not isinstance(text, str):
        raise DataError(f"{column_of(config, 'text')} is a list, not text; accepted for conversations: messages")
    if config.system_prompt is not None:
        raise DataError("data.system_prompt has no place in rows of text; accepted: rows of messages")
    ids = encode_prompt_text(text, tokenizer, bos=config.rendered.bos)
    if ids[-1] not in tokenizer.eos_ids:
        ids = [*ids, tokenizer.eos_ids[0]]
    return Encoded(prompt=np.asarray(ids[:1], np.int32), completions=(make_completion(ids[1:], [1] * (len(ids) - 1)),))


def all_trained(encoded: Encoded) -> Encoded:
    """Return an example of which every token is trained, of the prompt and of other roles too; the first one is given."""
    (completion,) = encoded.completions
    ids = [*encoded.prompt, *completion.ids]
    return Encoded(
        prompt=encoded.prompt[:1],
        completions=(make_completion(ids[1:], [1] * (len(ids) - 1)),),
        numbers=encoded.numbers,
    )


def encode_pair(row: Mapping[str, Any], config: OfflineDataConfig, tokenizer: Tokenizer) -> Encoded:
    """A preference pair: a prompt, (chosen, rejected), and ``margin`` where ``data.columns`` names a column for it.

    Chosen and rejected are text or messages. Messages that do not begin with the assistant are full conversations:
    their common beginning is the prompt, and a prompt column is ignored. Text without a prompt column is compared, and
    the common words are the prompt; no template is applied to it.

    Raises:
        DataError: a part is missing or empty, or the conversations differ from the first message on.
    """
    chosen, rejected = read_text(row, config, "chosen"), read_text(row, config, "rejected")
    numbers = {"margin": read_number(row, config, "margin")} if "margin" in config.columns else {}
    if is_full_conversation(chosen) and is_full_conversation(rejected):
        assert isinstance(chosen, list)
        assert isinstance(rejected, list)
        start = common_beginning(chosen, rejected)
        encoded = [encode_messages(messages, start, row, config, tokenizer) for messages in (chosen, rejected)]
    elif column_of(config, "prompt") not in row and isinstance(chosen, str) and isinstance(rejected, str):
        encoded = encode_texts_alone(chosen, rejected, config, tokenizer)
    else:
        prompt = read_text(row, config, "prompt")
        encoded = [encode_answer(prompt, answer, row, config, tokenizer) for answer in (chosen, rejected)]
    prompt_ids, completions = share_prompt(encoded)
    return Encoded(prompt=prompt_ids, completions=completions, numbers=numbers)


def encode_texts_alone(
    chosen: str, rejected: str, config: OfflineDataConfig, tokenizer: Tokenizer
) -> list[tuple[IntArray, Completion]]:
    """Encode two texts whose common beginning is the prompt; BOS alone may be, where the tokenizer has one.

    Raises:
        DataError: there is no common beginning and no BOS.
    """
    prompt = common_words(chosen, rejected)
    ids = encode_prompt_text(prompt, tokenizer, bos=config.rendered.bos) if prompt else []
    if not ids and config.rendered.bos != "never":
        ids = list(tokenizer.prefix_ids)
    if not ids:
        column = column_of(config, "prompt")
        raise DataError(
            f"no column {column!r}, and chosen and rejected have no common beginning that can be the prompt"
        )
    start = np.asarray(ids, dtype=np.int32)
    return [(start, encode_text(text[len(prompt) :], tokenizer)) for text in (chosen, rejected)]


def common_words(one: str, other: str) -> str:
    """Return the whole words with which both texts begin (letters, where that is no word), or all up to the last turn that they share (``Assistant:``)."""
    shared = one[: count_shared([one, other])]
    turn = shared.rfind("\n\nAssistant:")
    if turn >= 0:
        return shared[: turn + len("\n\nAssistant:")]
    inside = any(len(text) > len(shared) and not text[len(shared)].isspace() for text in (one, other))
    whole = re.sub(r"\S+$", "", shared).rstrip(" ") if inside else shared
    return whole or shared


def share_prompt(encoded: Sequence[tuple[IntArray, Completion]]) -> tuple[IntArray, tuple[Completion, ...]]:
    """Return the prompt of a pair and its completions.

    Where a template opens a thought in the prompt that only one of the answers continues, the shorter prompt is the
    pair's, and the rest of the longer one belongs to its completion.

    Raises:
        DataError: the prompts differ otherwise.
    """
    prompt = min((ids for ids, _ in encoded), key=len)
    if any(ids[: len(prompt)].tolist() != prompt.tolist() for ids, _ in encoded):
        raise DataError("the prompt has other tokens before chosen than before rejected")
    return prompt, tuple(completion.preceded_by(ids[len(prompt) :]) for ids, completion in encoded)


def is_full_conversation(value: str | Conversation) -> bool:
    """Tell whether the messages include those that were answered."""
    return isinstance(value, list) and value[0]["role"] != "assistant"


def common_beginning(chosen: Conversation, rejected: Conversation) -> int:
    """Count the messages with which both conversations begin; they are the prompt.

    Raises:
        DataError: there is none, or the conversations are equal.
    """
    shared = 0
    for one, other in zip(chosen, rejected, strict=False):
        if one != other:
            break
        shared += 1
    if shared == len(chosen) == len(rejected):
        raise DataError("chosen and rejected are the same conversation")
    if not shared:
        raise DataError("chosen and rejected differ from the first message on: there is no common prompt")
    return shared


def encode_labelled(row: Mapping[str, Any], config: OfflineDataConfig, tokenizer: Tokenizer) -> Encoded:
    """A completion, or the last message of ``messages``, with a label: true or false, 1 or 0, or a degree between them.

    Raises:
        DataError: a part is missing or empty, the last message is not the assistant's, or the label is outside 0..1.
    """
    label = read_label(row, config)
    if column_of(config, "messages") in row and column_of(config, "completion") not in row:
        messages = read_text(row, config, "messages")
        if isinstance(messages, str) or messages[-1]["role"] != "assistant":
            raise DataError(
                f"{column_of(config, 'messages')} does not end with the message of the assistant that is labelled"
            )
        prompt, completion = encode_answer(messages[:-1], messages[-1:], row, config, tokenizer)
    else:
        prompt, completion = encode_answer(
            read_text(row, config, "prompt"), read_text(row, config, "completion"), row, config, tokenizer
        )
    return Encoded(prompt=prompt, completions=(completion,), numbers={"label": label})


# ---- parts of a row that several kinds have


def column_of(config: OfflineDataConfig, part: str) -> str:
    """Name the column that holds a part of the row."""
    return config.columns.get(part, part)


def read_number(row: Mapping[str, Any], config: OfflineDataConfig, part: str) -> float:
    """Read a finite number (or true or false) of a row; raises DataError on anything else."""
    column = column_of(config, part)
    if column not in row:
        raise DataError(
            f"no column {column!r}{did_you_mean(column, map(str, row))}; columns: {', '.join(map(str, row))}"
        )
    value = row[column]
    if not isinstance(value, (bool, int, float)) or not abs(value) < float("inf"):
        raise DataError(f"{column} is {value!r}, not a finite number, true or false")
    return float(value)


def read_label(row: Mapping[str, Any], config: OfflineDataConfig) -> float:
    """Read the label of a row, which tables of text write as ``true`` or ``1``; raises DataError outside 0..1."""
    column = column_of(config, "label")
    value = row.get(column)
    if isinstance(value, str):
        if value.strip().lower() not in LABELS:
            raise DataError(f"{column} is {value!r}; accepted: {', '.join(LABELS)}, or a number from 0 to 1")
        return LABELS[value.strip().lower()]
    label = read_number(row, config, "label")
    if not 0 <= label <= 1:
        raise DataError(f"{column} is {label:g}; accepted: true, false, or a number from 0 to 1")
    return label


def read_text(row: Mapping[str, Any], config: OfflineDataConfig, part: str) -> str | Conversation:
    """Read a part as non-empty text or messages; raises DataError naming it."""
    try:
        return read_column(row, column_of(config, part))
    except DataError as error:
        raise DataError(str(error).replace("the prompt", part)) from None


def encode_answer(
    prompt: str | Conversation,
    answer: str | Conversation,
    row: Mapping[str, Any],
    config: OfflineDataConfig,
    tokenizer: Tokenizer,
) -> tuple[IntArray, Completion]:
    """Tokenise prompt and completion: through the chat template where there is one, else one text after the other.

    Raises:
        DataError: the row has messages and there is no chat template, or the template refuses them.
    """
    if not is_templated(config, tokenizer):
        if not isinstance(prompt, str) or not isinstance(answer, str):
            raise DataError("the row has a list of messages, which needs a chat template (data.chat_template)")
        text = prompt if config.system_prompt is None else f"{config.system_prompt}\n\n{prompt}"
        ids = encode_prompt_text(text, tokenizer, bos=config.rendered.bos)
        if not ids:
            raise DataError("the prompt has no tokens")
        return np.asarray(ids, dtype=np.int32), encode_text(answer, tokenizer)
    question = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    answer_messages = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else list(answer)
    if not is_prefilled(question):
        return encode_messages([*question, *answer_messages], len(question), row, config, tokenizer)
    *earlier, beginning = question
    rest, *later = answer_messages
    if rest["role"] != "assistant":
        raise DataError(f"the prompt ends with an assistant message, which role {rest['role']!r} cannot continue")
    whole = {**beginning, **rest, "content": beginning["content"] + rest["content"]}
    conversation = [*earlier, whole, *later]
    return encode_messages(conversation, len(earlier), row, config, tokenizer, continued=beginning["content"])


def encode_messages(
    messages: Conversation,
    start: int,
    row: Mapping[str, Any],
    config: OfflineDataConfig,
    tokenizer: Tokenizer,
    *,
    continued: str = "",
) -> tuple[IntArray, Completion]:
    """Tokenise a conversation, the system prompt added; the assistant messages from ``start`` on are trained.

    Of message ``start`` the beginning ``continued`` is a part of the prompt.

    Raises:
        DataError: a trained message is empty, or the template leaves a part of the conversation out.
    """
    conversation = with_system(messages, config.system_prompt)
    start += len(conversation) - len(messages)
    trained = [place for place in range(start, len(conversation)) if is_trained(conversation[place])]
    for place in trained:
        message = conversation[place]
        if not any(value for key, value in message.items() if key not in BOOKKEEPING and str(value).strip()):
            raise DataError(f"message {place} (assistant) is empty")
    conversation = conversation[: trained[-1] + 1] if trained else conversation
    variables = template_variables(row, config.rendered.chat_template_kwargs, column_of(config, "tools"))
    fitted = fit_conversation(conversation, tokenizer, variables, trained=trained, generation_prompt=False)
    return encode_conversation(fitted, start, tokenizer, variables, continued=continued)
