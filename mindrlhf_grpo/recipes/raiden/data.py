"""Samples: a JSON file of them is read and checked, and each becomes a row of a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from ...data.rows import BadRow, PlacedRow
from ...errors import DataError
from .languages import LANGUAGES, Texts, detect_language, load_texts
from .profiles import DEFAULTS, profile_text
from .rewards import MULTI, SINGLE

Item = TypeVar("Item", bound=BaseModel)


class Turn(BaseModel):
    """One message of the conversation history."""

    role: Literal["user", "assistant"]
    content: str = Field(min_length=1)


class Sample(BaseModel):
    """A question to a character, with the keywords that its answer is checked by."""

    character_name: str
    character_profile: dict[str, str]
    conversation_history: list[Turn] = []
    question: str = Field(min_length=1)
    answer: str
    keywords: list[str | list[str]] = []
    question_type: Literal["what", "who", "where", "when", "why", "how"]
    validation_method: Literal["single_term_validation", "multi_term_parsing", "multi_term_dynamic_parsing"]
    difficulty: Literal["easy", "medium", "hard"]
    metadata: dict[str, Any] = {}
    terms: dict[str, str] | None = None

    @property
    def kind(self) -> str:
        """``sbk`` or ``cm``: by its source, else by whether it has a history."""
        source = str(self.metadata.get("source", "")).rpartition("_")[2]
        return source if source in ("sbk", "cm") else "cm" if self.conversation_history else "sbk"

    @property
    def language(self) -> str:
        """The language in its metadata, else that of its texts."""
        known = self.metadata.get("language")
        text = f"{self.question}\n{self.answer}\n{profile_text(self.character_profile)}"
        return known if known in LANGUAGES else detect_language(text)

    def columns(self) -> dict[str, Any]:
        """Return the columns that rewards and metrics read."""
        return {
            "answer": self.answer,
            "keywords": self.keywords,
            "terms": self.terms,
            "language": self.language,
            "validation_method": SINGLE if self.validation_method == SINGLE else MULTI,
            "kind": self.kind,
            "question_type": self.question_type,
            "character": self.character_name,
        }


def read_items(path: Path, model: type[Item]) -> list[Item | BadRow]:
    """Read the items of a JSON list, in order, each checked against a pydantic model; an item that fails is a bad row.

    Raises:
        DataError: no such file, or it is not UTF-8, not JSON, not a list, or an empty one.
    """
    try:
        items = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON in UTF-8: {error}") from None
    if not isinstance(items, list) or not items:
        raise DataError(f"{path} holds no list of items but {'an empty one' if items == [] else type(items).__name__}")
    return [check_item(item, model, f"{path}[{at}]") for at, item in enumerate(items)]


def good_items(path: Path, model: type[Item], limit: int | None = None) -> list[Item]:
    """Read the first ``limit`` items of a JSON list (None: all); raises DataError for an unusable file or item."""
    items = read_items(path, model)[:limit]
    for item in items:
        if isinstance(item, BadRow):
            raise DataError(str(item))
    return [item for item in items if not isinstance(item, BadRow)]


def check_item(item: object, model: type[Item], place: str) -> Item | BadRow:
    """Return the item as an object of the model, or a bad row with the first thing that is wrong."""
    try:
        return model.model_validate(item, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the item"
        got = "" if first["type"] == "missing" else f", not {str(first['input'])[:60]!r}"
        return BadRow(place, f"{where}: {first['msg']}{got}")


def rows(path: str, texts: str | None = None, system_prompt: str | None = None) -> list[dict[str, Any] | BadRow]:
    """Return the rows of a file of samples (a data source: ``{name: ...raiden.data:rows, path: train.json}``).

    Args:
        texts: YAML file with texts that replace the package's.
        system_prompt: replaces the system message in every language.

    Raises:
        DataError: the file cannot be used; a single bad sample is a bad row.
    """
    wording = load_texts(texts)
    return [
        sample
        if isinstance(sample, BadRow)
        else PlacedRow(
            f"{path}[{number}]",
            {"prompt": conversation(sample, wording, system_prompt), "sample": number, **sample.columns()},
        )
        for number, sample in enumerate(read_items(Path(path), Sample))
    ]


def conversation(sample: Sample, wording: Texts, system_prompt: str | None = None) -> list[dict[str, str]]:
    """Return the messages of a sample: system, character, the history as turns, the question and the answer's format."""
    language = sample.language
    system = system_prompt or wording.fill(language, "policy", "system")
    turns = [("user", character_text(sample.character_profile, wording, language))]
    turns += [(turn.role, turn.content) for turn in sample.conversation_history]
    turns += [("user", sample.question), ("user", wording.fill(language, "policy", "format"))]
    return [{"role": "system", "content": system}, *alternating(turns)]


def character_text(profile: dict[str, str], wording: Texts, language: str) -> str:
    """Return a profile as a model reads it."""
    known = {**DEFAULTS, **profile}
    names = {"name": "Name", "gender": "Gender", "introduction": "Introduction", "description": "Detailed Description"}
    return wording.fill(language, "policy", "character", **{name: known[label] for name, label in names.items()})


def alternating(turns: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """Return messages with alternating roles, as many chat templates require; neighbours of one role are joined.

    Args:
        turns: (role, content) of each turn.
    """
    messages: list[dict[str, str]] = []
    for role, content in turns:
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += f"\n\n{content}"
        else:
            messages.append({"role": role, "content": content})
    return messages
