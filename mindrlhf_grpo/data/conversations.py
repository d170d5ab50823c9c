"""Rows of supervised fine-tuning: a conversation in ``messages``, or ``prompt`` and ``completion``.

Of a conversation every assistant message is trained and nothing else. It becomes one prompt (all before the first
assistant message) and one completion (the rest); what others say in between is in the completion with mask 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config.offline import OfflineDataConfig
from ..errors import DataError
from ..tokenizers.tokenizer import Tokenizer
from .examples import Encoded, column_of, encode_answer, encode_messages, read_text


def encode_example(row: Mapping[str, Any], config: OfflineDataConfig, tokenizer: Tokenizer) -> Encoded:
    """Prompt and (completion,).

    Raises:
        DataError: neither form is there, a part is empty, or the template does not let the assistant's tokens be told.
    """
    if column_of(config, "messages") in row:
        messages = read_text(row, config, "messages")
        if isinstance(messages, str):
            raise DataError(f"{column_of(config, 'messages')} is text, not a list of messages")
        if not tokenizer.has_chat_template or config.chat_template == "none":
            raise DataError("the row has a list of messages, which needs a chat template (data.chat_template)")
        prompt, completion = encode_messages(messages, 0, config, tokenizer)
    else:
        prompt, completion = encode_answer(
            read_text(row, config, "prompt"), read_text(row, config, "completion"), config, tokenizer
        )
    return Encoded(prompt=prompt, completions=(completion,))
