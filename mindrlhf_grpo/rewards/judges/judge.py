"""Generative judges as rewards: a language model is asked about a completion, and its answer becomes a score.

A judge is a template, decoding settings and a reader of answers. An unreadable answer is counted and gets a configured
score. Legend: N completions.
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
    """The question to a judge, and how to read its answer.

    Attributes:
        template: the message; ``variants`` replace it for exchanges that name one.
        max_tokens: longest answer.
        reader: function from the answer's text to a score; None for an unreadable one.
        choices: for a model in this process, the score comes from the probability that its first token begins each of
            these choices, the first being the good one; ``read`` and ``threshold``: see :func:`judged_choice`.
        empty: score of an empty response, without asking; None: ask.
        on_nonsense: score of an unreadable answer.
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
        """Return scores ``[N]`` of exchanges (template values, optionally ``variant``), and the number of unreadable answers."""
        scores = np.full(len(exchanges), np.nan)
        asked = []
        for row, exchange in enumerate(exchanges):
            if self.empty is not None and not str(exchange["response"]).strip():
                scores[row] = self.empty
            else:
                asked.append(row)
        if not asked:
            return scores, 0
        messages = [self.message(exchanges[row]) for row in asked]
        read = self.ask(model, messages)
        scores[asked] = [self.on_nonsense if score is None else score for score in read]
        return scores, sum(score is None for score in read)

    def message(self, exchange: Mapping[str, Any]) -> str:
        """Return the message about one exchange."""
        template = self.variants.get(str(exchange.get("variant", "")), self.template)
        return template.render({name: value for name, value in exchange.items() if name != "variant"})

    def ask(self, model: JudgeModel, messages: Sequence[str]) -> list[float | None]:
        """Return the score of each message's answer; None where it is unreadable."""
        likely = model.probabilities(messages, self.choices) if self.choices else None
        if likely is not None:
            return [
                None if np.isnan(good) else judged_choice(float(good), self.read, self.threshold)
                for good in likely[:, 0]
            ]
        answers = model.answers(messages, self.max_tokens)
        return [None if text is None else self.reader(text) for text in answers]


def build_judge(settings: Mapping[str, Any], *, label: str) -> Judge:
    """Build a judge from plain settings, as in a YAML file.

    Keys are those of :class:`Judge`, with ``template`` and ``variants`` as files (or files by language), and instead of
    ``reader`` either ``verdicts`` (text -> score, with ``match: anywhere | start``) or ``numbers`` (scores).

    Raises:
        ConfigError: an unknown key, a wrong value, or an unreadable file.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        checked = TypeAdapter(JudgeSettings).validate_python(dict(settings))
        verdicts = checked.verdicts or {choice: float(not n) for n, choice in enumerate(checked.choices)}
        if bool(verdicts) == bool(checked.numbers):
            raise ConfigError("it needs verdicts (or choices), or numbers: one way to read what the judge says")
        return Judge(
            template=load_template(checked.template),
            variants={name: load_template(source) for name, source in checked.variants.items()},
            reader=number_reader(checked.numbers) if checked.numbers else verdict_reader(verdicts, checked.match),
            max_tokens=checked.max_tokens,
            choices=tuple(checked.choices),
            read=checked.read,
            threshold=checked.threshold,
            empty=checked.empty,
            on_nonsense=checked.on_nonsense,
        )
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{label}: {place} is {first['input']!r}: {first['msg']}") from error
    except ConfigError as error:
        raise ConfigError(f"{label}: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeSettings:
    """A judge as written in YAML, see :func:`build_judge`."""

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

    It is asked about the user's last message and the part of the completion after its thoughts.

    Args:
        model, server: folder of a language model, or its name at a server's address.
        judge: settings, see :func:`build_judge`.
        reference: column of reference answers, ``reference`` in the template.
        options, slots, keep: see :class:`~.models.Place`.

    Raises:
        ConfigError: wrong settings, or a missing file or folder.
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
        self.judge = build_judge(judge, label="judge")
        self.reference = reference
        self.models = JudgeModels(backend)
        self.unread = 0

    def check(self, columns: Iterable[str]) -> None:
        """Raise ConfigError unless the data has the column of references."""
        if self.reference is not None and self.reference not in columns:
            raise ConfigError(f"the judge's reference {self.reference!r} is no column; there are {', '.join(columns)}")

    def score(self, groups: Sequence[RolloutGroup]) -> dict[str, Floats]:
        """Return the judge's score of every completion."""
        exchanges = [
            exchange(group.prompt, rollout.text, self.reference) for group in groups for rollout in group.rollouts
        ]
        try:
            scores, self.unread = self.judge.scores(self.models.use(self.place), exchanges)
        finally:
            self.models.release()
        return {"": scores}

    def rehearse(self, group: RolloutGroup) -> None:
        """Load a judge of this process and let it judge a literal completion; a server is asked when there is need."""
        if not self.place.server:
            self.score([group])

    def failures(self) -> dict[str, int]:
        """Return the number of unreadable answers in the last call."""
        return {"unreadable": self.unread} if self.unread else {}

    def close(self) -> None:
        """Free the judge."""
        self.models.close()


def exchange(prompt: Prompt, completion: str, reference: str | None) -> dict[str, Any]:
    """Return the values that a template may name, for one completion."""
    asked = [message["content"] for message in prompt.messages if message["role"] == "user"]
    return {
        **prompt.columns,
        "question": asked[-1] if asked else prompt.text,
        "response": without_special(without_thoughts(completion, prompt.text)),
        "completion": without_special(completion),
        "reference": "" if reference is None else prompt.columns.get(reference),
    }
