"""The models of judges: language models in this process, one in memory at a time, or servers with a chat protocol.

Judges that name the same folder share one model. Legend: N messages, C choices.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from ...chat.chat_server import ChatServer
from ...config.run import ModelConfig
from ...errors import ConfigError, RequestRefused, RunFailed, ServerError, did_you_mean
from ...model_files.folder import find_folder, read_model_config
from ...tokenizers.tokenizer import Tokenizer, encode_prompt_text, load_tokenizer
from ...types import Batch, Prompt, Sampling
from ...user_functions import stopping_the_run

if TYPE_CHECKING:
    from ...backend import Backend, LanguageModel

LOG = logging.getLogger("mindrlhf_grpo.rewards")
Floats = NDArray[np.float64]
PATIENCE = 64  # messages that a server may refuse in a row, as all answers to one over-long question are


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The place of a judge's model.

    Attributes:
        model: folder of a language model, or its name on the server (empty: the one it serves).
        server: address of a server that speaks OpenAI's chat protocol; empty: in this process.
        options: arguments of :class:`ChatServer` for a server, keys of ``model:`` (``dtype``, ...) for a folder.
        slots: messages answered at once in this process.
        keep: keep the weights between calls, for a model that fits beside the policy.
    """

    model: str = ""
    server: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    slots: int = 64
    keep: bool = False

    @property
    def key(self) -> tuple[str, str]:
        return self.server, self.model if self.server else str(find_folder(self.model))


class JudgeModel(Protocol):
    """A model that answers a judge's messages."""

    def answers(self, messages: Sequence[str], max_tokens: int) -> list[str | None]:
        """Return the greedy answer to each message; None for a message that is too long for the model."""
        ...

    def probabilities(self, messages: Sequence[str], choices: Sequence[str]) -> Floats | None:
        """Return ``[N, C]``: probabilities that an answer begins with each choice, normalised; NaN rows for too long messages.

        None where they are not available (a server).
        """
        ...

    def release(self) -> None:
        """Free weights or connections until the next call."""
        ...


class InProcess:
    """Implements ``JudgeModel`` on a backend."""

    def __init__(self, place: Place, backend: Backend) -> None:
        self.folder = find_folder(place.model)
        self.config = ModelConfig.model_validate({"path": str(self.folder), **place.options})
        self.tokenizer: Tokenizer = load_tokenizer(str(self.folder), trust_remote_code=self.config.trust_remote_code)
        self.longest: int = read_model_config(self.folder).get("max_position_embeddings") or 1 << 30
        self.model: LanguageModel = backend.load_language_model(self.config, self.tokenizer, slots=place.slots)

    def answers(self, messages: Sequence[str], max_tokens: int) -> list[str | None]:
        """See ``JudgeModel``."""
        prompts = self.prompts(messages, max_tokens)
        answers: list[str | None] = [None] * len(messages)
        sampling = Sampling(max_tokens=max_tokens, temperature=0.0)
        with stopping_the_run(f"judge {self.folder}"):
            for group in self.model.generate(prompts, sampling, group_size=1) if prompts else ():
                answers[group.prompt.row] = group.rollouts[0].text
        return answers

    def probabilities(self, messages: Sequence[str], choices: Sequence[str]) -> Floats:
        """See ``JudgeModel``."""
        first = first_tokens(self.tokenizer, choices, self.folder.name)
        prompts = self.prompts(messages, 1)
        likelihoods = np.full((len(messages), len(choices)), np.nan)
        if prompts:
            rows = len(prompts) * len(first)
            blank, ones = np.zeros((rows, 1), np.float32), np.ones((rows, 1), np.float32)
            batch = Batch(
                prompts=tuple(prompt.ids for prompt in prompts),
                prompt_of=np.repeat(np.arange(len(prompts), dtype=np.int32), len(first)),
                ids=np.tile(np.asarray(first, np.int64), len(prompts))[:, None],
                lengths=np.ones(rows, np.int64),
                mask=ones,
                weights=blank,
                advantages=blank,
            )
            with stopping_the_run(f"judge {self.folder}"):
                logps = self.model.logps(batch).logps[:, 0].reshape(len(prompts), len(first)).astype(np.float64)
            if not np.isfinite(logps.max(axis=1)).any():
                raise RunFailed(
                    f"judge {self.folder} computed no finite probability for any of {len(prompts)} messages"
                )
            weights = np.exp(logps - logps.max(axis=1, keepdims=True))
            likelihoods[[prompt.row for prompt in prompts]] = weights / weights.sum(axis=1, keepdims=True)
        return likelihoods

    def prompts(self, messages: Sequence[str], max_tokens: int) -> list[Prompt]:
        """Return the messages that fit, in the model's chat template if it has one; ``row`` is the place of each."""
        chat = self.tokenizer.has_chat_template
        prompts = []
        for row, text in enumerate(messages):
            messages_of_row = [{"role": "user", "content": text}]
            ids = self.tokenizer.chat(messages_of_row) if chat else encode_prompt_text(text, self.tokenizer)
            if 0 < len(ids) <= self.longest - max_tokens:
                prompts.append(Prompt(uid=row, row=row, ids=np.asarray(ids, np.int32), text=text))
        return prompts

    def release(self) -> None:
        """Free the weights."""
        self.model.release()


class OnServer:
    """Implements ``JudgeModel`` over HTTP."""

    def __init__(self, place: Place) -> None:
        self.server = ChatServer(place.server, model=place.model or None, **place.options)
        self.refused_in_a_row = PATIENCE  # without any answer so far, one call suffices

    def answers(self, messages: Sequence[str], max_tokens: int) -> list[str | None]:
        """See ``JudgeModel``. A message that the server refuses (too long, for example) has no answer.

        Raises:
            ServerError: the server gives no answer, or refuses every message of a call and has refused all since
                ``PATIENCE`` messages, or from its first.
        """
        conversations = [[{"role": "user", "content": text}] for text in messages]
        replies = self.server.replies(conversations, max_tokens=max_tokens)
        refusals = [reply for reply in replies if isinstance(reply, RequestRefused)]
        self.refused_in_a_row = self.refused_in_a_row + len(refusals) if len(refusals) == len(replies) else 0
        if refusals and self.refused_in_a_row > PATIENCE:
            raise ServerError(f"all of the last {len(refusals)} requests to a judge were refused: {refusals[0]}")
        if refusals:
            LOG.warning(
                "judge: %d of %d requests were refused; the first: %s", len(refusals), len(replies), refusals[0]
            )
        return [None if isinstance(reply, RequestRefused) else reply for reply in replies]

    def probabilities(self, messages: Sequence[str], choices: Sequence[str]) -> None:
        """Return None: a server's answers are read as text."""
        return

    def release(self) -> None:
        """End the connections."""
        self.server.close()


class JudgeModels:
    """The models of all judges of a reward, by place.

    Attributes:
        loads: folder or address -> number of loads; for logs and tests.
    """

    def __init__(self, backend: Backend | None) -> None:
        self.backend = backend
        self.models: dict[tuple[str, str], JudgeModel] = {}
        self.held: dict[tuple[str, str], bool] = {}  # those in memory, and whether to keep them
        self.loads: dict[str, int] = {}

    def use(self, place: Place) -> JudgeModel:
        """Return the model of a place; all others are freed before it is loaded, except those with ``keep``."""
        key = place.key
        model = self.models.get(key) or self.models.setdefault(key, self.build(place))
        if key not in self.held:
            self.release()
            self.held[key] = place.keep
            name = place.server or key[1]
            self.loads[name] = self.loads.get(name, 0) + 1
        return model

    def release(self) -> None:
        """Free every model except those with ``keep``."""
        for key in [key for key, keep in self.held.items() if not keep]:
            self.models[key].release()
            del self.held[key]

    def build(self, place: Place) -> JudgeModel:
        """Build the model of a place."""
        if place.server:
            return OnServer(place)
        if self.backend is None:
            raise ConfigError(f"judge {place.model!r}: a judge in this process needs a backend to compute it")
        return InProcess(place, self.backend)

    def close(self) -> None:
        """Free every model."""
        for model in self.models.values():
            model.release()
        self.models.clear()
        self.held.clear()


def check_place(place: Place) -> None:
    """Raise ConfigError for a folder without a model, an invalid address, or options that do not exist; nothing is loaded."""
    if not isinstance(place.slots, int) or place.slots < 1:
        raise ConfigError(f"slots is {place.slots!r}; a judge answers at least one message at once")
    if place.server:
        check_server_options(place)
        OnServer(place).release()
        return
    if not place.model:
        raise ConfigError("a judge needs a model: a folder, or a server")
    folder = find_folder(place.model)
    read_model_config(folder)
    try:
        ModelConfig.model_validate({"path": str(folder), **place.options})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        hint = did_you_mean(name, ModelConfig.model_fields)
        raise ConfigError(
            f"options of the judge {place.model!r}: {name} is {first['input']!r}: {first['msg']}{hint}"
        ) from None


def check_server_options(place: Place) -> None:
    """Raise ConfigError for an option that a server's client does not have."""
    known = [name for name in inspect.signature(ChatServer).parameters if name not in ("base_url", "model")]
    for name in place.options:
        if name not in known:
            raise ConfigError(
                f"options of the judge on {place.server}: unknown option {name!r}{did_you_mean(name, known)}; it takes "
                f"{', '.join(known)}"
            )


def first_tokens(tokenizer: Tokenizer, choices: Sequence[str], name: str) -> list[int]:
    """Return the first token of each choice; raises ConfigError unless they differ."""
    first = [tokenizer.encode(choice)[:1] for choice in choices]
    flat = [ids[0] for ids in first if ids]
    if len(set(flat)) < len(choices):
        raise ConfigError(
            f"judge {name}: the choices {', '.join(choices)} do not begin with different tokens of its tokenizer"
        )
    return flat
