"""The environments of one call of ``generate``: each sample has an instance of its own, from ``reset`` to ``get_reward``.

Implements ``backend.Conversations``. Turns are read, tools called and answers tokenised in threads beside generation.
A failing tool is an observation that says what is wrong; an environment that fails (``reset``, ``step``,
``get_reward``) ends its episode without a reward, which the reward component counts as it counts other failures.
"""

from __future__ import annotations

import json
import logging
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..backend import Answer, RolloutEngine
from ..config.environment import EnvironmentConfig
from ..data.messages import check_text
from ..data.prompts import extended_prompt
from ..errors import DataError, RunFailed
from ..tokenizers.tokenizer import Message, Tokenizer
from ..types import Episode, FinishReason, Prompt, Rollout, RolloutGroup, Sampling
from .call_formats import Call, CallFormat, find_format, turn_text
from .environment_class import EnvironmentClass, load_environment_class
from .guarded_call import CallFailed, guarded, in_thread
from .observations import as_message, observation, wrong_arguments, wrong_step
from .turn_template import TurnTemplate, answer_message

LOG = logging.getLogger("mindrlhf_grpo.environments")
AT_ONCE = 64  # environments that are reset or scored at the same time
CHARACTERS = 16  # of an observation for each of its tokens: what is longer is cut before it is tokenised
NO_TOOL = ""  # counts calls that name no tool


@dataclass(slots=True)
class Talk:
    """One conversation as it goes on.

    Attributes:
        instance: of the user's class; None where it could not be built.
        messages: after the prompt.
        hung: a call has not returned: nothing else may be called.
        trouble: why the first of the environment's own calls raised or hung.
    """

    instance: Any = None
    messages: list[Message] = field(default_factory=list)
    turns: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    failed_calls: int = 0
    rewards: list[float] = field(default_factory=list)
    failure: str = ""
    hung: bool = False
    trouble: str = ""
    seconds: float = 0.0


class Environments:
    """The environments of a run.

    Args:
        variables: what the chat template reads besides messages (``data.rendering.chat_template_kwargs``).

    Attributes:
        tools: definitions for the chat template.

    Raises:
        ConfigError: the class or the chat template does not fit.
    """

    def __init__(self, config: EnvironmentConfig, tokenizer: Tokenizer, variables: Mapping[str, Any]) -> None:
        self.config, self.tokenizer, self.variables = config, tokenizer, variables
        self.kind: EnvironmentClass = load_environment_class(config)
        self.tools = list(self.kind.tools.values())
        names = {**variables, "tools": self.tools} if self.tools else dict(variables)
        self.template = TurnTemplate(tokenizer, names, plain=self.kind.plain)
        self.format: CallFormat | None = None
        if not self.kind.plain:
            self.format = find_format(self.template.rendered_call(), response_template(tokenizer))
        self.idle: list[Any] = []  # instances that can be reset again

    def generate(
        self, engine: RolloutEngine, prompts: Sequence[Prompt], sampling: Sampling, *, group_size: int
    ) -> list[RolloutGroup]:
        """``group_size`` completions for each prompt, each with an environment of its own.

        Raises:
            RunFailed: no environment could be reset, or the samples of a prompt were given different texts.
        """
        if not prompts:
            return []
        talks = Talks(self, {(prompt.uid, sample): Talk() for prompt in prompts for sample in range(group_size)})
        opened = talks.reset(prompts, group_size)
        groups = engine.generate(opened, sampling, group_size=group_size, conversations=talks)
        return talks.close(groups)


class Talks:
    """The conversations of one call of ``generate``, by (uid of the prompt, sample); see ``backend.Conversations``."""

    def __init__(self, owner: Environments, talks: dict[tuple[int, int], Talk]) -> None:
        self.owner, self.talks = owner, talks
        self.kind, self.config = owner.kind, owner.config

    def reset(self, prompts: Sequence[Prompt], group_size: int) -> list[Prompt]:
        """Begin every episode; return the prompts with what ``reset`` says at their end."""
        rows = {prompt.uid: {"prompt": prompt.text, **prompt.columns} for prompt in prompts}
        for prompt in prompts:
            if prompt.messages:
                rows[prompt.uid]["prompt"] = [dict(message) for message in prompt.messages]
        said: dict[tuple[int, int], Any] = {}

        def begin(key: tuple[int, int]) -> None:
            talk = self.talks[key]
            try:
                talk.instance = self._call(talk, self._instance)
                said[key] = self._call(talk, lambda: self.kind.reset(talk.instance, rows[key[0]]))
            except CallFailed as error:
                talk.failure = f"reset: {error}"

        each([lambda key=key: begin(key) for key in self.talks])  # type: ignore[misc]
        failures = [talk.failure for talk in self.talks.values() if talk.failure]
        if len(failures) == len(self.talks):
            raise RunFailed(f"{self.kind.label} could not be reset for any of {len(failures)} samples: {failures[0]}")
        return [self._opened(prompt, [said.get((prompt.uid, n)) for n in range(group_size)]) for prompt in prompts]

    def answer(self, prompt: Prompt, sample: int, turn: Sequence[int], *, ended: bool) -> Future[Answer]:
        """Begin to answer a turn; see ``backend.Conversations``."""
        talk = self.talks[prompt.uid, sample]
        ids = list(turn)
        return in_thread(lambda: self._answer(talk, ids, ended), "answer")

    def close(self, groups: Sequence[RolloutGroup]) -> list[RolloutGroup]:
        """Add what happened in each environment to its rollout, and score it."""
        places = [(group.prompt.uid, rollout) for group in groups for rollout in group.rollouts]
        for uid, rollout in places:
            self._complete(self.talks[uid, rollout.sample], rollout)
        each([lambda talk=talk: self._score(talk) for talk in self.talks.values()])  # type: ignore[misc]
        self._report()
        self.owner.idle += [
            talk.instance for talk in self.talks.values() if talk.instance is not None and not talk.hung
        ]
        return [
            replace(group, rollouts=tuple(self._with_episode(group.prompt.uid, rollout) for rollout in group.rollouts))
            for group in groups
        ]

    def _report(self) -> None:
        """Log one line if code of the environment raised or hung; what the model got wrong is a metric alone."""
        troubled = [talk for talk in self.talks.values() if talk.trouble]
        if troubled:
            first = "".join(letter if letter.isprintable() else " " for letter in troubled[0].trouble)
            LOG.warning(
                "%s raised or hung in %d of %d samples; the first: %s",
                self.kind.label,
                len(troubled),
                len(self.talks),
                first,
            )

    def _instance(self) -> Any:
        try:
            return self.owner.idle.pop()
        except IndexError:
            return self.kind.make()

    def _call(self, talk: Talk, function: Callable[[], Any]) -> Any:
        """Call the user's code; its time is counted, and one that hangs is remembered."""
        if talk.hung:
            raise CallFailed("an earlier call has not returned")
        try:
            result, seconds = guarded(function, self.config.timeout, self.kind.file)
        except CallFailed as error:
            talk.hung = error.hung
            talk.seconds += self.config.timeout if error.hung else 0.0
            talk.trouble = talk.trouble or str(error)
            raise
        talk.seconds += seconds
        return result

    def _opened(self, prompt: Prompt, said: Sequence[Any]) -> Prompt:
        """The prompt with the text of ``reset`` at its end."""
        texts = [value for value in said if value is not None]
        if not texts:
            return prompt
        if any(text != texts[0] for text in texts) or not isinstance(texts[0], str):
            what = "different texts" if isinstance(texts[0], str) else f"{type(texts[0]).__name__}, which is no text,"
            raise RunFailed(
                f"{self.kind.label}: reset gave {what} to the samples of row {prompt.row}; a group shares its prompt, so "
                "reset has to give the same text for the same row (a seed belongs into a column of the row), or None"
            )
        if not texts[0]:
            return prompt
        try:
            check_text(texts[0], "the text of reset")
            return extended_prompt(prompt, texts[0], self.owner.tokenizer, self.owner.variables, self.owner.tools)
        except DataError as error:
            raise RunFailed(f"{self.kind.label}: the text of reset for row {prompt.row}: {error}") from error

    def _answer(self, talk: Talk, ids: list[int], ended: bool) -> Answer:
        """Read a turn, act on it, and write what the environment says."""
        talk.turns += 1
        text = self.owner.tokenizer.decode(ids[:-1] if ended else ids)
        turn: Message = {"role": "assistant", "content": text}
        talk.messages.append(turn)
        if talk.failure:
            return Answer(ids=None)
        names: list[str] = []
        if self.owner.format is None:
            answers = self._step(talk, text)
        else:
            calls = self.owner.format.read(turn_text(ids, self.owner.tokenizer), self.kind.tools)
            turn |= {"tool_calls": [as_message(call, number) for number, call in enumerate(calls)]} if calls else {}
            names = [call.name or NO_TOOL for call in calls]
            answers = [self._use(talk, call) for call in calls]
        if not answers:
            return Answer(ids=None)
        if talk.turns >= self.config.max_turns:
            return Answer(ids=None, finish=FinishReason.TURNS)
        shown = [name or "unknown" for name in names]
        messages = [answer_message(shown, number, self._fitted(said)) for number, said in enumerate(answers)]
        try:
            written = self.owner.template.between(shown, messages, ended=ended)
        except DataError as error:
            talk.failed_calls += len(answers)
            refused = f"error: the answer cannot be written: {error}"
            plain = "".join(letter for letter in refused if letter.isprintable() and letter not in "<>[]|")
            messages = [answer_message(shown, number, plain[:200]) for number in range(len(answers))]
            written = self.owner.template.between(shown, messages, ended=ended)
        talk.messages += messages
        return Answer(ids=np.asarray(written, np.int32))

    def _use(self, talk: Talk, call: Call) -> str:
        """The observation of a call: the tool's result, or what is wrong with the call."""
        tools = self.kind.tools
        talk.calls[call.name if call.name in tools else NO_TOOL] += 1
        problem = call.problem
        if not problem and call.name not in tools:
            problem = f"there is no tool {call.name!r}; there are {', '.join(tools)}"
        if not problem:
            method = getattr(talk.instance, call.name)
            problem = wrong_arguments(call, tools[call.name])
        if not problem:
            try:
                return observation(self._call(talk, lambda: method(**dict(call.arguments or {}))))
            except CallFailed as error:
                problem = f"{call.name}: {error}"
        talk.failed_calls += 1
        return f"error: {problem}"

    def _step(self, talk: Talk, text: str) -> list[str]:
        """The observation of a turn; none where the episode is over or the environment has failed."""
        try:
            result = self._call(talk, lambda: talk.instance.step(text))
        except CallFailed as error:
            talk.failure = f"step: {error}"
            return []
        problem = wrong_step(result)
        if problem:
            talk.failure = f"step: {problem}"
            return []
        said, done, reward = result
        talk.rewards.append(float(reward))
        talk.messages[-1]["reward"] = float(reward)
        return [] if done else [observation(said)]

    def _fitted(self, text: str) -> str:
        """An observation of at most ``max_tokens`` tokens, as text that can be encoded."""
        limit, tokenizer = self.config.max_tokens, self.owner.tokenizer
        head = text[: limit * CHARACTERS].encode("utf-8", "replace").decode("utf-8")
        ids = tokenizer.encode(tokenizer.literals.marked(head))
        if len(head) == len(text) and len(ids) <= limit:
            return head
        return f"{tokenizer.decode(ids[:limit])}\n[cut: the first part of {len(text):,} characters]"

    def _complete(self, talk: Talk, rollout: Rollout) -> None:
        """Add the turn that the token budget ended, and take back answers that the model has not read."""
        while talk.messages and talk.messages[-1]["role"] != "assistant":
            talk.messages.pop()
        turns = turns_of(rollout)
        if len(turns) > talk.turns:
            talk.turns += 1
            last = self.owner.tokenizer.decode(rollout.ids[turns[-1]].tolist())
            talk.messages.append({"role": "assistant", "content": last})

    def _score(self, talk: Talk) -> None:
        """The environment's reward of the episode: of ``get_reward``, else the sum of its steps."""
        if talk.failure or not self.kind.scored:
            return
        try:
            reward = self._call(talk, lambda: talk.instance.get_reward())
            value = float(reward)
            if not math.isfinite(value):
                raise CallFailed(f"{value} is not finite")
        except CallFailed as error:
            talk.failure = f"get_reward: {error}"
        except (TypeError, ValueError):
            talk.failure = f"get_reward: it returned {type(reward).__name__}, not a number"
        else:
            talk.rewards = [value]

    def _with_episode(self, uid: int, rollout: Rollout) -> Rollout:
        talk = self.talks[uid, rollout.sample]
        text = str(talk.messages[-1]["content"]) if talk.messages else rollout.text
        return replace(
            rollout,
            text=text,
            episode=Episode(
                messages=tuple(talk.messages),
                turns=talk.turns,
                calls=dict(talk.calls),
                failed_calls=talk.failed_calls,
                reward=sum(talk.rewards) if self.kind.gives_reward and not talk.failure else None,
                failure=talk.failure,
                seconds=talk.seconds,
            ),
        )


def each(functions: Iterable[Callable[[], None]]) -> None:
    """Call functions in threads, ``AT_ONCE`` at a time, and wait for all."""
    places = threading.Semaphore(AT_ONCE)
    futures = []

    def limited(function: Callable[[], None]) -> None:
        try:
            function()
        finally:
            places.release()

    for function in functions:
        places.acquire()
        futures.append(in_thread(lambda function=function: limited(function), "environment"))  # type: ignore[misc]
    for future in futures:
        future.result()


def turns_of(rollout: Rollout) -> list[slice]:
    """The spans of sampled tokens."""
    if rollout.sampled is None:
        return [slice(0, len(rollout.ids))]
    edges = np.flatnonzero(np.diff(np.concatenate([[False], rollout.sampled, [False]]).astype(np.int8)))
    return [slice(int(start), int(end)) for start, end in zip(edges[::2], edges[1::2], strict=True)]


def response_template(tokenizer: Tokenizer) -> Mapping[str, Any] | None:
    """``response_template`` of tokenizer_config.json, by which transformers reads answers; None where it has none."""
    path = tokenizer.folder / "tokenizer_config.json"
    try:
        template = json.loads(path.read_text(encoding="utf-8")).get("response_template")
    except (OSError, ValueError, AttributeError):
        return None
    return template if isinstance(template, dict) else None
