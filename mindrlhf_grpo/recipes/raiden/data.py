"""Samples: read and checked, as rows of a run, and written with their statistics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from ...data.rows import BadRow
from ...json_lines import digest_of, replace_json
from .languages import LANGUAGES, detect_language, load_texts
from .profiles import DEFAULTS, profile_text
from .rewards import MULTI, SINGLE
from .splitting import split
from .texts import Texts
from .turns import alternating
from .typed_items import read_items

COUNTED = ("validation_method", "difficulty", "question_type", "source", "language")


class Turn(BaseModel):
    """One message of the history."""

    role: Literal["user", "assistant"]
    content: str = Field(min_length=1)


class Sample(BaseModel):
    """A question to a character, with what its answer is checked by."""

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
        """``sbk`` or ``cm``: by its source, else by whether there is a history."""
        named = str(self.metadata.get("source", "")).rpartition("_")[2]
        return named if named in ("sbk", "cm") else "cm" if self.conversation_history else "sbk"

    @property
    def language(self) -> str:
        """As its metadata say, else that of its texts."""
        known = self.metadata.get("language")
        text = f"{self.question}\n{self.answer}\n{profile_text(self.character_profile)}"
        return known if known in LANGUAGES else detect_language(text)

    def columns(self) -> dict[str, Any]:
        """What rewards and metrics read of it."""
        return {
            "answer": self.answer, "keywords": self.keywords, "terms": self.terms, "language": self.language,
            "validation_method": SINGLE if self.validation_method == SINGLE else MULTI, "kind": self.kind,
            "question_type": self.question_type, "character": self.character_name,
        }  # fmt: skip


def statistics(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Total, and how many of each validation method, difficulty, question type, source and language."""
    flat = [{**sample, **sample["metadata"]} for sample in samples]
    counts: dict[str, Any] = {name: dict(Counter(sample[name] for sample in flat)) for name in COUNTED}
    single = counts["validation_method"].get(SINGLE, 0)
    return {"total": len(samples), "single_term": single, "multi_term": len(samples) - single, **counts}


def write_dataset(
    folder: Path, samples: Sequence[Mapping[str, Any]], train_ratio: float, seed: int, by: str
) -> dict[str, int]:
    """Write ``train.json``, ``validation.json`` and ``dataset_stats.json``; returns how many went where."""
    whose = None if by == "sample" else lambda sample: digest_of(sample["character_profile"])
    train, validation = split(samples, train_ratio, seed=seed, together=whose)
    for name, content in (("train", train), ("validation", validation), ("dataset_stats", statistics(samples))):
        replace_json(folder / f"{name}.json", content)
    return {"train": len(train), "validation": len(validation)}


def rows(path: str, texts: str | None = None, system_prompt: str | None = None) -> list[dict[str, Any] | BadRow]:
    """Rows of a file of samples (a data source: ``{name: ...raiden.data:rows, path: train.json}``).

    Args:
        texts: YAML with texts in place of the package's.
        system_prompt: in place of the first sentences, in whatever language the sample is.

    Raises:
        DataError: the file cannot be used; a single bad sample is a bad row.
    """
    wording = load_texts(texts)
    return [
        sample if isinstance(sample, BadRow)
        else {"prompt": conversation(sample, wording, system_prompt), "sample": number, **sample.columns()}
        for number, sample in enumerate(read_items(Path(path), Sample))
    ]  # fmt: skip


def conversation(sample: Sample, wording: Texts, system_prompt: str | None = None) -> list[dict[str, str]]:
    """System message, character, the history as real turns, the question, and the form of the answer."""
    language = sample.language
    system = system_prompt or wording.fill(language, "policy", "system")
    turns = [("user", character_text(sample.character_profile, wording, language))]
    turns += [(turn.role, turn.content) for turn in sample.conversation_history]
    turns += [("user", sample.question), ("user", wording.fill(language, "policy", "format"))]
    return [{"role": "system", "content": system}, *alternating(turns)]


def character_text(profile: dict[str, str], wording: Texts, language: str) -> str:
    """A profile as it is shown to a model."""
    known = {**DEFAULTS, **profile}
    names = {"name": "Name", "gender": "Gender", "introduction": "Introduction", "description": "Detailed Description"}
    return wording.fill(language, "policy", "character", **{name: known[label] for name, label in names.items()})
