"""The configuration of how a row becomes text and tokens beyond its chat template."""

from __future__ import annotations

from typing import Any

from .section import Section, key


class RenderingConfig(Section):
    """Details of a row's rendering, the same online and offline."""

    chat_template_kwargs: dict[str, Any] = key(
        {},
        "Names that the chat template reads, with their values: {enable_thinking: false}. A row's column chat_template_kwargs goes before; its column tools gives the template the tools.",
        peers="trl: chat_template_kwargs; verl: data.apply_chat_template_kwargs",
    )
