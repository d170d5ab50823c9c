"""Prompts with images: the place of each image in the conversation, and the row as tokens and arrays.

A conversation has ``<image>`` in the place of each image. People, rewards and judges that read text see it in this
form; the chat template receives segments of text and images instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..config.run import DataConfig
from ..config.vision import ImagesConfig
from ..errors import DataError, did_you_mean
from ..tokenizers.prefill import chat_prompt, is_prefilled
from ..tokenizers.tokenizer import Conversation, Tokenizer, encode_prompt_text
from ..tokenizers.traces import fit_conversation
from .image_processor import ImageProcessor
from .images import images_in
from .messages import template_variables
from .prompts import EncodedPrompt, is_templated, read_column, readable, with_system
from .rows import BadRow, Rows

MARKER = "<image>"
SEARCHED = 1000  # rows that are searched for the column of images


class ImagePrompts:
    """Turns rows with and without images into prompts.

    Args:
        folder: the folder that relative paths of images start from.

    Raises:
        ConfigError: the model reads text only, or its family is not supported.
        DataError: the image processor does not have a setting.
    """

    def __init__(self, config: DataConfig, settings: ImagesConfig, tokenizer: Tokenizer, folder: Path) -> None:
        self.config, self.settings, self.tokenizer, self.folder = config, settings, tokenizer, folder
        self.processor = ImageProcessor(tokenizer.folder, settings.processor, tokenizer)

    def check_column(self, rows: Rows) -> None:
        """Raise DataError if no row has the column and another one looks like it; rows without images are allowed."""
        column, others = self.settings.column, dict[str, None]()
        for index in range(min(len(rows), SEARCHED)):
            row = rows[index]
            if isinstance(row, BadRow):
                continue
            if column in row:
                return
            others |= {
                str(name): None for name, value in row.items() if similar(name, column) or looks_like_image(value)
            }
        if others:
            raise DataError(f"data.images.column: no row has a column {column!r}; perhaps {' or '.join(others)}")

    def encode(self, row: Mapping[str, Any], folder: Path | None = None) -> EncodedPrompt:
        """Encode the prompt of a row; its tokens include those of its images.

        Args:
            folder: the folder that relative paths of this row's images start from; None: that of all rows.

        Raises:
            DataError: prompt or images cannot be used; the text does not have the row's place.
        """
        images = images_in(row.get(self.settings.column), self.folder if folder is None else folder)
        if self.settings.limit and len(images) > self.settings.limit:
            raise DataError(f"{len(images)} images; data.images.limit is {self.settings.limit}")
        prompt = self._marked_prompt(row, len(images))
        features, counts = self.processor.read(images)
        messages, ids = self._ids(prompt, row)
        ids = self.processor.tokens.expanded(ids, counts)
        return EncodedPrompt(
            ids=np.asarray(ids if features else ids[-self.config.max_prompt_tokens :], dtype=np.int32),
            text=readable(prompt),
            columns={key: column for key, column in row.items() if key != self.config.prompt_column},
            tokens=len(ids),
            messages=messages,
            features=features,
        )

    def _marked_prompt(self, row: Mapping[str, Any], images: int) -> str | Conversation:
        """Return the prompt column with a marker in the place of each image."""
        column = self.config.prompt_column
        value, segmented = without_segments(row.get(column))
        prompt = read_column({**row, column: value} if column in row else row, column)
        if self.settings.markers == "strip" and not segmented:
            prompt = images_first(prompt, images)
        prompt_text = prompt if isinstance(prompt, str) else "".join(message["content"] for message in prompt)
        if (markers := prompt_text.count(MARKER)) != images:
            where = "image segments" if segmented else f"{MARKER} in its text"
            raise DataError(f"the prompt has {markers} {where} for {images} images in column {self.settings.column!r}")
        return prompt

    def _ids(self, prompt: str | Conversation, row: Mapping[str, Any]) -> tuple[Conversation, list[int]]:
        """Return messages with markers, and ids with one placeholder per image."""
        if is_templated(self.config, self.tokenizer):
            messages = with_system(
                prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}], self.config.system_prompt
            )
            conversation: list[Any] = [{**message, "content": segments(message["content"])} for message in messages]
            variables = template_variables(row, self.config.rendered.chat_template_kwargs, "tools")
            fitted = fit_conversation(
                conversation, self.tokenizer, variables, generation_prompt=not is_prefilled(conversation)
            )
            return messages, chat_prompt(fitted, self.tokenizer, variables)
        if isinstance(prompt, list):
            raise DataError("the prompt is a list of messages, which needs a chat template (data.chat_template)")
        text = prompt if self.config.system_prompt is None else f"{self.config.system_prompt}\n\n{prompt}"
        placed = text.replace(MARKER, self.processor.tokens.placeholder)
        return [], encode_prompt_text(placed, self.tokenizer, bos=self.config.rendered.bos)


def similar(name: str, requested: str) -> bool:
    """Tell whether a column may be the one that was requested."""
    return bool(did_you_mean(requested, [name], cutoff=0.8)) or any(word in name.lower() for word in ("image", "img"))


def looks_like_image(value: Any) -> bool:
    """Tell whether a column's value can only be an image or a list of images."""
    if isinstance(value, list | tuple):
        return any(looks_like_image(item) for item in value)
    if isinstance(value, Mapping):
        return isinstance(value.get("bytes"), bytes)
    written = isinstance(value, str) and (
        value.startswith("data:image/") or value.lower().endswith((".png", ".jpg", ".jpeg", ".webp"))
    )
    return written or isinstance(value, bytes) or type(value).__module__.startswith("PIL.")


def without_segments(value: Any) -> tuple[Any, bool]:
    """Return the prompt with its messages' content as text, and whether segments place the images."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence):
        return value, False
    listed = [isinstance(item, Mapping) and _is_listed(item.get("content")) for item in value]
    placed = any(
        segment.get("type") == "image"
        for item, is_listed in zip(value, listed, strict=True)
        for segment in (item["content"] if is_listed else ())
    )
    return [
        {**item, "content": _joined(item["content"], number, placed)}
        if is_listed
        else {**item, "content": without_markers(item["content"])}
        if placed and isinstance(item, Mapping) and isinstance(item.get("content"), str)
        else item
        for number, (item, is_listed) in enumerate(zip(value, listed, strict=True))
    ], placed


def _is_listed(content: Any) -> bool:
    return (
        isinstance(content, Sequence) and not isinstance(content, str) and all(isinstance(s, Mapping) for s in content)
    )


def _joined(content: Sequence[Mapping[str, Any]], number: int, placed: bool) -> str:
    """Join segments to text with markers."""
    parts = []
    for segment in content:
        kind = segment.get("type")
        if kind == "image":
            parts.append(MARKER)
        elif kind == "text" and isinstance(segment.get("text"), str):
            parts.append(without_markers(segment["text"]) if placed else segment["text"])
        else:
            raise DataError(f"message {number}: a segment of type {kind!r}; accepted: text (with its text), image")
    return "".join(parts)


def images_first(prompt: str | Conversation, images: int) -> str | Conversation:
    """Remove the markers from the text and put one per image before the text of the first user message."""
    if isinstance(prompt, str):
        return MARKER * images + without_markers(prompt)
    plain = [{**message, "content": without_markers(message["content"])} for message in prompt]
    first = next((number for number, message in enumerate(plain) if message["role"] == "user"), None)
    if first is None and images:
        raise DataError("the prompt has images but no user message to put them in")
    if first is not None:
        plain[first]["content"] = MARKER * images + plain[first]["content"]
    return plain


def without_markers(text: str) -> str:
    """Remove each ``<image>`` with the line break or space that follows it."""
    for written in (f"{MARKER}\n", f"{MARKER} ", MARKER):
        text = text.replace(written, "")
    return text


def segments(content: str) -> str | list[dict[str, str]]:
    """Split content at its markers into the segments that templates expect; text alone stays text."""
    if MARKER not in content:
        return content
    parts: list[dict[str, str]] = []
    for number, text in enumerate(content.split(MARKER)):
        parts += [{"type": "image"}] if number else []
        parts += [{"type": "text", "text": text}] if text else []
    return parts
