"""The four languages of the recipe, and the texts of ``texts.yaml``."""

from __future__ import annotations

from ...rewards.builtin.language import letters_by_language
from . import texts

LANGUAGES = ("zh", "ja", "en", "ko")


def detect_language(text: str) -> str:
    """Language of a text by the counts of its letters: any kana is Japanese; little Latin, or nothing, is Chinese."""
    counts = letters_by_language(text)[1]
    if counts["ja"]:
        return "ja"
    if counts["ko"] > max(counts["zh"], counts["en"]):
        return "ko"
    return "en" if counts["en"] > max(counts["zh"], 10) else "zh"


def load_texts(path: str | None = None) -> texts.Texts:
    """The texts by language, those of a YAML file of the user's over them."""
    return texts.load_texts(__package__, "texts.yaml", path)
