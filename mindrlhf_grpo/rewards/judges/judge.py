"""Generative judges as rewards: a language model is asked about an answer, and what it says becomes a score.

A judge is a template, how its model decodes, and a reader of what it says. An answer that cannot be read is counted and
scored with a configured value. Legend: N completions.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ...chat.thoughts import without_thoughts
from ...errors import ConfigError
from ...types import Prompt, RolloutGroup
from .answers import Match, Reader, judged_choice, number_reader, verdict_reader
from .chat_text import without_special
from .models import JudgeModel, JudgeModels, Place, check_place
from .templates import JudgeTemplate, Source, load_template

if TYPE_CHECKING:
    from ...backend import Backend

LOG = logging.getLogger("mindrlhf_grpo.rewards")
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """What is asked of a judge and how its answer is read.

    Attributes:
        template: the message; ``variants`` replace it for exchanges that name one.
        max_tokens: of the judge's answer.
        reader: of what it says.
        choices: where its model is in this process, the score comes from how likely its first token begins each of
            these, the first being the good one; ``read`` and ``threshold``: see :func:`judged_choice`.
        empty: score of an empty response, which is not asked about; None: it is.
        on_nonsense: score where the judge's answer cannot be read.
    """

    template: JudgeTemplate
    reader: Reader
    max_tokens: int = 16
    choices: tuple[str, ...] = ()
    read: Literal["prob", "hard", "both"] = "prob"
    threshold: float = 0.5
    empty: float | None = None
    on_nonsense: float = 0.0
    variants: Mapping[str, JudgeTemplate] = field(default_factory=dict)

    def scores(self, model: JudgeModel, exchanges: Sequence[Mapping[str, Any]]) -> tuple[Floats, int]:
        """Scores ``[N]`` of exchanges (values of the template, and perhaps ``variant``), and how many were unreadable."""
        found = np.full(len(exchanges), np.nan)
        asked = []
        for row, exchange in enumerate(exchanges):
            if self.empty is not None and not str(exchange["response"]).strip():
                found[row] = self.empty
            else:
                asked.append(row)
        if not asked:
            return found, 0
        messages = [self.message(exchanges[row]) for row in asked]
        read = self.ask(model, messages)
        found[asked] = [self.on_nonsense if score is None else score for score in read]
        return found, sum(score is None for score in read)

    def message(self, exchange: Mapping[str, Any]) -> str:
        """The message about one exchange."""
        template = self.variants.get(str(exchange.get("variant", "")), self.template)
        return template.render({name: value for name, value in exchange.items() if name != "variant"})

    def ask(self, model: JudgeModel, messages: Sequence[str]) -> list[float | None]:
        """The score of each message's answer; None where it cannot be read."""
        likely = model.probabilities(messages, self.choices) if self.choices else None
        if likely is not None:
            return [
                None if np.isnan(good) else judged_choice(float(good), self.read, self.threshold)
                for good in likely[:, 0]
            ]
        said = model.answers(messages, self.max_tokens)
        return [None if text is None else self.reader(text) for text in said]


def judge_of(settings: Mapping[str, Any], *, label: str) -> Judge:
    """A judge from plain settings, as in a YAML file.

    Keys are those of :class:`Judge`, with ``template`` and ``variants`` as files (or files by language), and in place
    of ``reader`` one of ``verdicts`` (text -> score, with ``match: anywhere | start``) and ``numbers`` (scores).

    Raises:
        ConfigError: an unknown key, a wrong value, or a file that cannot be read.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        asked = TypeAdapter(JudgeSettings).validate_python(dict(settings))
        readable = asked.verdicts or {choice: float(not n) for n, choice in enumerate(asked.choices)}
        if bool(readable) == bool(asked.numbers):
            raise ConfigError("it needs verdicts (or choices), or numbers: one way to read what the judge says")
        return Judge(
            template=load_template(asked.template),
            variants={name: load_template(source) for name, source in asked.variants.items()},
            reader=number_reader(asked.numbers) if asked.numbers else verdict_reader(readable, asked.match),
            max_tokens=asked.max_tokens, choices=tuple(asked.choices), read=asked.read, threshold=asked.threshold,
            empty=asked.empty, on_nonsense=asked.on_nonsense,
        )  # fmt: skip
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{label}: {place} is {first['input']!r}: {first['msg']}") from error
    except ConfigError as error:
        raise ConfigError(f"{label}: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeSettings:
    """A judge as it is written down, see :func:`judge_of`."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    template: Source
    variants: Mapping[str, Source] = field(default_factory=dict)
    verdicts: Mapping[str, float] = field(default_factory=dict)
    match: Match = "anywhere"
    numbers: tuple[float, ...] = ()
    max_tokens: int = 16
    choices: tuple[str, ...] = ()
    read: Literal["prob", "hard", "both"] = "prob"
    threshold: float = 0.5
    empty: float | None = None
    on_nonsense: float = 0.0


class JudgeReward:
    """One judge as a reward component (``function: mindrlhf_grpo.rewards.judges:JudgeReward``).

    It is asked about the user's last words and what the completion says after its thoughts.

    Args:
        model, server: folder of a language model, or its name at a server's address.
        judge: settings, see :func:`judge_of`.
        reference: column of reference answers, ``reference`` in the template.
        options, slots, keep: see :class:`judge_models.Place`.

    Raises:
        ConfigError: wrong settings, a file or folder that is not there.
    """

    uses_models: ClassVar[bool] = True

    def __init__(
        self,
        backend: Backend | None,
        policy_folder: Path | None,
        *,
        judge: Mapping[str, Any],
        model: str = "",
        server: str = "",
        reference: str | None = None,
        options: Mapping[str, Any] | None = None,
        slots: int = 64,
        keep: bool = False,
    ) -> None:
        self.place = Place(model=model, server=server, options=options or {}, slots=slots, keep=keep)
        check_place(self.place)
        self.judge = judge_of(judge, label="judge")
        self.reference = reference
        self.models = JudgeModels(backend)
        self.unread = 0

    def check(self, columns: Iterable[str]) -> None:
        """Raise ConfigError unless the data has the column of references."""
        if self.reference is not None and self.reference not in columns:
            raise ConfigError(f"the judge's reference {self.reference!r} is no column; there are {', '.join(columns)}")

    def score(self, groups: Sequence[RolloutGroup]) -> dict[str, Floats]:
        """The judge's score of every completion."""
        exchanges = [
            exchange_of(group.prompt, rollout.text, self.reference) for group in groups for rollout in group.rollouts
        ]
        try:
            scores, self.unread = self.judge.scores(self.models.use(self.place), exchanges)
        finally:
            self.models.release()
        return {"": scores}

    def failures(self) -> dict[str, int]:
        """Answers of the last call that could not be read."""
        return {"unreadable": self.unread} if self.unread else {}

    def close(self) -> None:
        """Free the judge."""
        self.models.close()


def exchange_of(prompt: Prompt, completion: str, reference: str | None) -> dict[str, Any]:
    """What a template may name, for one completion."""
    asked = [message["content"] for message in prompt.messages if message["role"] == "user"]
    return {
        **prompt.columns,
        "question": asked[-1] if asked else prompt.text,
        "response": without_special(without_thoughts(completion)),
        "completion": without_special(completion),
        "reference": "" if reference is None else prompt.columns.get(reference),
    }
