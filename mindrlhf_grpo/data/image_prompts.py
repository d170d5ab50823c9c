"""Prompts with images: where each image stands in the conversation, and the row as tokens and arrays.

A conversation is written with ``<image>`` in the place of each image. People, rewards and judges that read text see it
so; the chat template gets segments of text and images instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..config.run import DataConfig
from ..config.vision import ImagesConfig
from ..errors import DataError, did_you_mean
from ..tokenizers.tokenizer import Conversation, Tokenizer
from .image_processor import ImageProcessor
from .images import images_in
from .prompts import EncodedPrompt, is_templated, read_column, readable, with_system
from .rows import BadRow, Rows

MARKER = "<image>"
SEARCHED = 1000  # rows among which one must have the column of images


class ImagePrompts:
    """Turns rows with and without images into prompts.

    Args:
        folder: what relative paths of images start from.

    Raises:
        ConfigError: the model reads text only, or is of a family that is not known here.
        DataError: a setting that the image processor does not have.
    """

    def __init__(self, config: DataConfig, settings: ImagesConfig, tokenizer: Tokenizer, folder: Path) -> None:
        self.config, self.settings, self.tokenizer, self.folder = config, settings, tokenizer, folder
        self.processor = ImageProcessor(tokenizer.folder, settings.processor, tokenizer)

    def check_column(self, rows: Rows) -> None:
        """Raise DataError if no row has the column, and another one looks like it: rows may be text, not by mistake."""
        wanted, others = self.settings.column, dict[str, None]()
        for index in range(min(len(rows), SEARCHED)):
            row = rows[index]
            if isinstance(row, BadRow):
                continue
            if wanted in row:
                return
            others |= {
                str(name): None for name, value in row.items() if similar(name, wanted) or looks_like_image(value)
            }
        if others:
            raise DataError(f"data.images.column: no row has a column {wanted!r}; perhaps {' or '.join(others)}")

    def encode(self, row: Mapping[str, Any]) -> EncodedPrompt:
        """The prompt of a row, its images counted in its tokens.

        Raises:
            DataError: what is wrong with prompt or images; without its place.
        """
        images = images_in(row.get(self.settings.column), self.folder)
        if self.settings.limit and len(images) > self.settings.limit:
            raise DataError(f"{len(images)} images; data.images.limit is {self.settings.limit}")
        asked = self._asked(row, len(images))
        features, counts = self.processor.read(images)
        messages, ids = self._ids(asked)
        ids = self.processor.tokens.expanded(ids, counts)
        return EncodedPrompt(
            ids=np.asarray(ids if features else ids[-self.config.max_prompt_tokens :], dtype=np.int32),
            text=readable(asked),
            columns={key: column for key, column in row.items() if key != self.config.prompt_column},
            tokens=len(ids),
            messages=messages,
            features=features,
        )

    def _asked(self, row: Mapping[str, Any], images: int) -> str | Conversation:
        """The prompt column with a marker in the place of each image."""
        column = self.config.prompt_column
        value, segmented = without_segments(row.get(column))
        asked = read_column({**row, column: value} if column in row else row, column)
        if self.settings.markers == "strip" and not segmented:
            asked = images_first(asked, images)
        spoken = asked if isinstance(asked, str) else "".join(message["content"] for message in asked)
        if (found := spoken.count(MARKER)) != images:
            where = "image segments" if segmented else f"{MARKER} in its text"
            raise DataError(f"the prompt has {found} {where} for {images} images in column {self.settings.column!r}")
        return asked

    def _ids(self, asked: str | Conversation) -> tuple[Conversation, list[int]]:
        """Messages with markers, and ids with one placeholder for each image."""
        if is_templated(self.config, self.tokenizer):
            messages = with_system(
                asked if isinstance(asked, list) else [{"role": "user", "content": asked}], self.config.system_prompt
            )
            conversation: list[Any] = [{**message, "content": segments(message["content"])} for message in messages]
            return messages, self.tokenizer.chat(conversation)
        if isinstance(asked, list):
            raise DataError("the prompt is a list of messages, which needs a chat template (data.chat_template)")
        text = asked if self.config.system_prompt is None else f"{self.config.system_prompt}\n\n{asked}"
        return [], self.tokenizer.encode(text.replace(MARKER, self.processor.tokens.placeholder))


def similar(name: str, wanted: str) -> bool:
    """Whether a column's name may have been meant."""
    return bool(did_you_mean(wanted, [name], cutoff=0.8)) or any(word in name.lower() for word in ("image", "img"))


def looks_like_image(value: Any) -> bool:
    """Whether a column's value can only be an image, or a list of images."""
    if isinstance(value, list | tuple):
        return any(looks_like_image(item) for item in value)
    if isinstance(value, Mapping):
        return isinstance(value.get("bytes"), bytes)
    written = isinstance(value, str) and (
        value.startswith("data:image/") or value.lower().endswith((".png", ".jpg", ".jpeg", ".webp"))
    )
    return written or isinstance(value, bytes) or type(value).__module__.startswith("PIL.")


def without_segments(value: Any) -> tuple[Any, bool]:
    """The prompt with the content of its messages as text, and whether a list of segments placed an image."""
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
    """Segments as text with markers."""
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


def images_first(asked: str | Conversation, images: int) -> str | Conversation:
    """The prompt without markers in its text, and one for each image before the first user message's."""
    if isinstance(asked, str):
        return MARKER * images + without_markers(asked)
    plain = [{**message, "content": without_markers(message["content"])} for message in asked]
    first = next((number for number, message in enumerate(plain) if message["role"] == "user"), None)
    if first is None and images:
        raise DataError("the prompt has images but no user message to put them in")
    if first is not None:
        plain[first]["content"] = MARKER * images + plain[first]["content"]
    return plain


def without_markers(text: str) -> str:
    """The text without ``<image>`` and the line break or space that belongs to it."""
    for written in (f"{MARKER}\n", f"{MARKER} ", MARKER):
        text = text.replace(written, "")
    return text


def segments(content: str) -> str | list[dict[str, str]]:
    """Content with markers as a template wants it: text alone stays text."""
    if MARKER not in content:
        return content
    parts: list[dict[str, str]] = []
    for number, text in enumerate(content.split(MARKER)):
        parts += [{"type": "image"}] if number else []
        parts += [{"type": "text", "text": text}] if text else []
    return parts
