"""VRAR, the verifiable role-awareness reward: accuracy (keywords in the final answer) and format.

The reward of an answer is ``accuracy_weight * accuracy + format_weight * format``: two components of a run. There are
three profiles: ``paper`` (https://arxiv.org/abs/2505.10218), and its public re-implementations ``repo`` and ``easyr1``,
which grade. For a sample that cannot be checked, accuracy does not apply (None) instead of counting as right.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from ...chat.thoughts import final_answer, with_opened_thought
from ...errors import ConfigError
from ...rewards.builtin.format import has_format
from .keywords import contains, normalised, slots_filled
from .languages import Texts, load_texts

Profile: TypeAlias = Literal["paper", "repo", "easyr1"]
Slots: TypeAlias = Sequence[str | Sequence[str]]  # keywords; a list: equivalents
PROFILES = ("paper", "repo", "easyr1")
WEIGHTS = {"paper": (0.7, 0.3), "repo": (0.7, 0.3), "easyr1": (0.5, 0.3)}
SINGLE, MULTI = "single_term_validation", "multi_term_parsing"
STEPS = ((0.8, 0.9), (0.6, 0.7), (0.4, 0.5), (0.2, 0.3))  # easyr1: from this coverage on, this accuracy
LAYOUT = (r"\*\*.+?\*\*", r"\n[ \t]*\n", r"^[ \t]*[-*•][ \t]", r"^[ \t]*\d+[.)、]")
NUMBERED = r"\d[.)、]"
THOUGHT = re.compile(r"\s*[^\s<]")


def accuracy(
    completions: list[Any], answer: list[str], keywords: list[Slots], validation_method: list[str],
    language: list[str], terms: list[Mapping[str, str] | None] | None = None,
    prompts: list[str] | None = None, *, profile: Profile = "paper", partial: bool = False,
) -> list[float | None]:  # fmt: skip
    """Score in 0..1 whether the final answer has the keywords; None without an expected answer or keywords.

    ``paper``: 1 if every keyword (or one of its equivalents) is there, else 0; with ``partial`` a multi-term sample
    gives the share. ``repo``: 1 if equal to the expected answer, 0.7 if that is contained, 0.5 if half of the keywords
    are; a multi-term sample with ``terms`` gives their share. ``easyr1``: graded by the share of keywords.
    """
    _check(profile)
    more = terms or [None] * len(completions)
    texts = [final_answer(text) for text in _texts(completions, prompts)]
    rows = zip(texts, answer, keywords, validation_method, language, more, strict=True)
    return [_accuracy(*row, profile=profile, partial=partial) for row in rows]


def _accuracy(
    text: str, expected: str, slots: Slots, method: str, language: str,
    terms: Mapping[str, str] | None, *, profile: Profile, partial: bool,
) -> float | None:  # fmt: skip
    filled = slots_filled(text, slots or [], language)
    if not filled or not normalised(expected or "", language):
        return None
    share = sum(filled) / len(filled)
    if profile == "paper":
        return share if partial and method != SINGLE else float(share == 1)
    if profile == "repo" and method != SINGLE and terms:
        return sum(contains(text, value, language) for value in terms.values()) / len(terms)
    if normalised(text, language) == normalised(expected, language):
        return 1.0
    if profile == "easyr1":
        return next((value for least, value in STEPS if share >= least), 0.0)
    return 0.7 if contains(text, expected, language) else 0.5 if share >= 0.5 else 0.0


def format(
    completions: list[Any], language: list[str], prompts: list[str] | None = None,
    *, profile: Profile = "paper", texts: str | None = None,
) -> list[float]:  # fmt: skip
    """Score in 0..1 whether the completion has the required format.

    ``paper`` and ``easyr1``: 1 for a thought in its tags and then an answer, in tags or as plain text, once each.
    ``repo``: 0.4 for the look of reasoning, 0.3 for a conclusion, 0.3 for layout, by cues in the sample's language.
    """
    _check(profile)
    if profile == "repo":
        cues = load_texts(texts)
        return [_looks(content_of(text), name, cues) for text, name in zip(completions, language, strict=True)]
    return [float(thinks_then_answers(text)) for text in _texts(completions, prompts)]


def thinking(completions: list[Any], prompts: list[str] | None = None) -> list[float]:
    """Score 1 for a closed thought that is not empty, else 0 (a component of ``easyr1``, weight 0.2)."""
    return [float(has_closed_thought(text)) for text in _texts(completions, prompts)]


def has_closed_thought(text: str) -> bool:
    """Return whether some ``<think>`` is followed by a thought, which is no tag, and anywhere by ``</think>``."""
    last = text.rfind("</think>")
    return any(THOUGHT.match(text, start.end(), last + 1) for start in re.finditer("<think>", text[: last + 1]))


def thinks_then_answers(text: str) -> bool:
    """Return whether a text has the paper's format: a thought, then an answer in tags, or text if there are no answer tags."""
    return has_format(text, "think", "answer" if "answer>" in text else None, False)


def weighted(accuracy: float | None, format: float, *, weights: tuple[float, float] = WEIGHTS["paper"]) -> float:
    """Return the reward of one answer; without an accuracy only the format counts. Raises as ``check_weights`` does."""
    check_weights(*weights)
    return weights[0] * (accuracy or 0.0) + weights[1] * format


def check_weights(accuracy: float, format: float) -> None:
    """Raise ConfigError unless the weights keep the reward in 0..1."""
    if min(accuracy, format) < 0 or accuracy + format > 1 + 1e-9:
        raise ConfigError(
            f"accuracy_weight {accuracy:g} and format_weight {format:g}: they must be at least 0 and at most 1 together"
        )


def _looks(text: str, language: str, cues: Texts) -> float:
    known = [cue for cue in ("ordinal", "causal", "step") if cues.matches(language, "cues", cue, text=text)]
    reasons = len(known) + (re.search(NUMBERED, text) is not None) >= 2
    layout = sum(re.search(pattern, text, re.MULTILINE) is not None for pattern in LAYOUT) >= 2
    return round(0.4 * reasons + 0.3 * cues.matches(language, "cues", "conclusion", text=text) + 0.3 * layout, 9)


def _check(profile: str) -> None:
    if profile not in PROFILES:
        raise ConfigError(
            f"profile {profile!r} of the role-awareness reward is unknown; there are {', '.join(PROFILES)}"
        )


def _texts(completions: Sequence[Any], prompts: Sequence[str] | None) -> list[str]:
    """Return the texts of completions, with the tag of a thought that the prompt opened."""
    opened = prompts or [""] * len(completions)
    return [with_opened_thought(prompt, content_of(text)) for prompt, text in zip(opened, completions, strict=True)]


def content_of(completion: Any) -> str:
    """Return the text of a completion, a message, or the last of a list of messages."""
    if isinstance(completion, Sequence) and not isinstance(completion, str):
        completion = completion[-1] if completion else ""
    return str(completion.get("content") or "") if isinstance(completion, Mapping) else str(completion)
