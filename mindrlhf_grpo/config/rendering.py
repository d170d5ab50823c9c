"""The configuration of how a row becomes text and tokens beyond its chat template."""

from __future__ import annotations

from typing import Any, Literal

from .section import Section, key


class RenderingConfig(Section):
    """Details of a row's rendering, the same online and offline."""

    chat_template_kwargs: dict[str, Any] = key(
        {},
        "Names that the chat template reads, with their values: {enable_thinking: false}. A row's column chat_template_kwargs goes before; its column tools gives the template the tools.",
        peers="trl: chat_template_kwargs; verl: data.apply_chat_template_kwargs",
    )
    bos: Literal["auto", "never"] = key(
        "auto",
        "BOS of prompts without a chat template: auto puts it first as the tokenizer itself does, never twice; never leaves it out. A template writes its own; completions have none.",
    )
    special_tokens: Literal["text", "tokens"] = key(
        "text",
        "Special tokens that messages write, such as <|im_end|>: text is what they say, as the message's other text; tokens lets them open and end turns, as transformers does. Only of rows in a chat template.",
    )
