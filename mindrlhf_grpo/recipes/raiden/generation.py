"""Samples that a chat server writes from profiles: SBK about the profile, CM about a conversation that is held first.

Each sample is a job with its own random numbers, so that neither order nor restarts change what is asked. An unusable
sample is discarded and counted by its reason, never replaced by a canned text.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from typing import Any

from ...chat.chat_server import ChatModel
from ...errors import RequestRefused
from ...rewards.builtin.language import share_of
from .data import alternating, character_text
from .function_words import content_terms
from .keywords import contains, normalised, read_keywords, shared_terms
from .languages import Texts
from .profiles import profile_text
from .replies import usable_line, yes_or_no
from .rewards import MULTI, SINGLE

AGREEMENT = 0.7  # share of independent answers that must confirm a sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One sample to write: its profile, kind (``sbk``, ``cm``), language, and the seed of its random numbers."""

    profile: dict[str, str]
    kind: str
    language: str
    seed: str


class Discarded(Exception):
    """An attempt whose text from the server cannot be used; the message is the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """Writes samples with a chat model.

    Attributes:
        source: ``sglang`` or ``bedrock``, for the samples' metadata.
        attempts: most attempts at a sample.
        exchanges: exchanges of a CM history, each a visitor's sentence and the character's reply.
        verify_n: number of independent answers that check a sample; 0: none.
        refused: messages of jobs that the server refused.
    """

    model: ChatModel
    texts: Texts
    source: str
    attempts: int = 3
    exchanges: int = 3
    verify_n: int = 0
    max_tokens: int = 512
    temperature: float = 0.7
    refused: list[str]

    def __call__(self, job: Job) -> dict[str, Any] | None:
        """Write one sample: ``{"sample": ..., "discarded": reasons}``, sample None if all attempts failed; None if refused."""
        draw = random.Random(job.seed)
        reasons: list[str] = []
        for _ in range(self.attempts):
            try:
                return {"sample": Draft(self, job, draw).sample(), "discarded": reasons}
            except Discarded as reason:
                reasons.append(str(reason))
            except RequestRefused as error:
                self.refused.append(str(error))
                return None
        return {"sample": None, "discarded": reasons}

    def ask(self, messages: list[dict[str, str]]) -> str:
        """Return the server's reply."""
        return self.model.complete([messages], max_tokens=self.max_tokens, temperature=self.temperature)[0]


class Draft:
    """One attempt at a sample."""

    def __init__(self, writer: Writer, job: Job, draw: random.Random) -> None:
        self.writer, self.job, self.language, self.texts = writer, job, job.language, writer.texts
        self.memory = job.kind == "cm"
        self.difficulty = draw.choice(["medium", "hard"] if self.memory else ["easy", "medium", "hard"])
        self.type = draw.choice(["why", "how"] if self.memory else ["what", "who", "where", "when"])
        self.script = profile_text(job.profile)
        self.shown = {"character": character_text(job.profile, self.texts, self.language)}
        self.history: list[tuple[str, str]] = []

    def sample(self) -> dict[str, Any]:
        """Write the sample; raises Discarded."""
        for _ in range(self.writer.exchanges if self.memory else 0):
            self.history.append(("user", self.line("visitor", "visitor", history=self.transcript())))
            self.history.append(("assistant", self.reply(self.history)))
        words = {"type": self.type, "difficulty": self.difficulty}
        named = {name: self.texts.fill(self.language, "words", word) for name, word in words.items()}
        task = "memory_question" if self.memory else "script_question"
        question = self.line(task, "question", history=self.transcript(), **named)
        if not self.cue("question", question):
            raise Discarded("no question")
        answer = self.reply([*self.history, ("user", question)])
        keywords = self.keywords(question, answer)
        self.verify(question, answer, keywords)
        return {
            "character_name": self.job.profile["Name"], "character_profile": self.job.profile,
            "conversation_history": [{"role": role, "content": content} for role, content in self.history],
            "question": question, "answer": answer, "keywords": keywords, "question_type": self.type,
            "validation_method": MULTI if self.memory or len(keywords) > 1 else SINGLE, "difficulty": self.difficulty,
            "metadata": {
                "source": f"{self.writer.source}_{self.job.kind}", "model": self.writer.model.model,
                "language": self.language, "focus": "conversation_memory" if self.memory else "script_knowledge",
                "generated_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            },
        }  # fmt: skip

    def line(self, task: str, what: str, **values: str) -> str:
        """Return one line that the server writes for a task."""
        return self.usable(self.writer.ask(self.request(task, **self.shown, **values)), what)

    def reply(self, turns: Sequence[tuple[str, str]]) -> str:
        """Return the character's answer to the last turn as one line."""
        system = {"role": "system", "content": self.texts.fill(self.language, "writer", "reply", **self.shown)}
        return self.usable(self.writer.ask([system, *alternating(turns)]), "answer")

    def usable(self, reply: str, what: str) -> str:
        """Return the usable line of a reply: for a question one that asks, else one in the first person."""
        asks = what == "question"
        fits = partial(self.cue, "question" if asks else "first_person")
        line = usable_line(reply, self.language, fits=fits, single=asks)
        if line is None:
            raise Discarded(f"no {what}")
        if (share_of(line, self.language) or 0) < 0.5:
            raise Discarded("other language")
        return line

    def keywords(self, question: str, answer: str) -> list[str]:
        """Return one to three keywords in both answer and source that the question does not give away.

        The server proposes them; else they are the longest terms that answer and source share.
        """
        source = f"{self.script}\n{self.transcript()}"
        proposed = read_keywords(self.writer.ask(self.request("keywords", question=question, answer=answer)))
        for words in (proposed, shared_terms(answer, source, self.language, without=question)):
            content = [word for word in words if content_terms(word, self.language)]
            sound = {normalised(word, self.language): word for word in content if not self.has(question, word)}
            usable = [word for word in sound.values() if self.has(answer, word) and self.has(source, word)]
            if usable:
                break
        else:
            raise Discarded("no keyword")
        if self.memory and all(self.has(self.script, word) for word in usable):
            raise Discarded("no memory")  # the profile alone answers it
        return usable[:3]

    def verify(self, question: str, answer: str, keywords: list[str]) -> None:
        """Raise Discarded unless ``verify_n`` independent answers confirm the sample.

        A single keyword must be in more than 70 % of them; with several, keywords and a judge must agree that often.
        """
        others = [self.reply([*self.history, ("user", question)]) for _ in range(self.writer.verify_n)]
        agreed = [all(self.has(other, word) for word in keywords) for other in others]
        if self.memory or len(keywords) > 1:
            judge = partial(same_answer, self.writer.model, self.texts, self.language, question, answer)
            agreed = [judge(other) is matches for other, matches in zip(others, agreed, strict=True)]
        if others and sum(agreed) <= AGREEMENT * len(others):
            raise Discarded("references disagree")

    def transcript(self) -> str:
        """Return the conversation so far as the server reads it."""
        visitor = self.texts.fill(self.language, "writer", "visitor_name")
        names = {"user": visitor, "assistant": self.job.profile["Name"]}
        return "\n".join(f"{names[role]}: {content}" for role, content in self.history)

    def request(self, task: str, **values: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.texts.fill(self.language, "writer", task, **values)}]

    def cue(self, name: str, text: str) -> bool:
        return self.texts.matches(self.language, "cues", name, text=text)

    def has(self, text: str, word: str) -> bool:
        return contains(text, word, self.language)


def same_answer(
    model: ChatModel, texts: Texts, language: str, question: str, answer: str, response: str
) -> bool | None:
    """Ask a chat model whether a response says the same as the reference answer; None for neither yes nor no."""
    asked = texts.fill(language, "writer", "judge", question=question, answer=answer, response=response)
    reply = model.complete([[{"role": "user", "content": asked}]], max_tokens=512)[0]
    yes, no = (lambda text, word=word: texts.matches(language, "cues", word, text=text) for word in ("yes", "no"))
    return yes_or_no(reply, yes=yes, no=no)
