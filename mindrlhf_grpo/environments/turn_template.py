"""What a chat template writes between two turns of the assistant, as the difference that it makes.

A stand-in conversation is rendered twice, with the answers of the environment and without; what is added is tokenised
alone. Nothing that was sampled is decoded and encoded again. That is right only where a template keeps what it wrote
before: one that drops the thoughts of earlier turns would show a served model another text than the trained one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from ..errors import ConfigError, DataError
from ..tokenizers.literals import unmarked
from ..tokenizers.tokenizer import Conversation, Message, Tokenizer
from ..tokenizers.traces import forms

PROBE_TOOL = "probe_tool"
THOUGHT = "<think>\nprobe thought\n</think>\n\n"
WAYS_OUT = (
    "accepted: a training variant of the template, which keeps earlier turns as they were (data.chat_template: FILE.jinja; "
    "the package trl has such files for many models, chat_templates/*_training.jinja), or rows of one turn each that "
    "hold the earlier turns, without environment"
)


class TurnTemplate:
    """Writes answers of an environment in a tokenizer's chat template.

    Args:
        variables: further names that the template reads, ``tools`` among them.
        plain: answers are messages of the user, else of tools.

    Raises:
        ConfigError: there is no template, it does not write calls or answers, or it is not prefix-preserving.
    """

    def __init__(self, tokenizer: Tokenizer, variables: Mapping[str, Any], *, plain: bool) -> None:
        if not tokenizer.has_chat_template:
            raise ConfigError(
                "environment needs a chat template, and the tokenizer has none (or data.chat_template is none); "
                "accepted: data.chat_template: FILE.jinja"
            )
        self.tokenizer, self.variables, self.plain = tokenizer, dict(variables), plain
        self.ends = [tokenizer.piece(token) for token in tokenizer.eos_ids]
        self.form = self._find_form()
        self._check_prefix()

    def between(self, names: Sequence[str], answers: Sequence[Message], *, ended: bool) -> list[int]:
        """The tokens from the end of a turn up to the beginning of the next one.

        Args:
            names: the tools that the turn called, one for each answer; empty for plain answers.
            ended: whether an end token was sampled; else it is written too.

        Raises:
            DataError: the template refuses the answers, or a special token in them cannot be text.
        """
        turn = self._turn(names)
        finished = self._render([QUESTION, turn])
        whole = self._render([QUESTION, turn, *answers], generation_prompt=True)
        if not whole.startswith(finished):
            raise DataError("the chat template rewrites a turn when it is answered")
        added = whole[len(finished) :]
        end, rest = self._split_end(finished)
        if end:
            return self.tokenizer.encode(rest + added if ended else end + rest + added)
        if ended:  # a template that ends a turn with the beginning of the next one
            for text in self.ends:
                if added.startswith(text):
                    return self.tokenizer.encode(added[len(text) :])
        return self.tokenizer.encode(added)

    def rendered_call(self) -> str:
        """What the template writes for one call of ``probe_tool``."""
        before = self._render([QUESTION], generation_prompt=True)
        text = unmarked(self._render([QUESTION, self._turn([PROBE_TOOL])]))
        shared = 0
        while shared < min(len(before), len(text)) and before[shared] == text[shared]:
            shared += 1
        return text[shared:]

    def _split_end(self, finished: str) -> tuple[str, str]:
        """The end token of the last turn, and what stands after it; empty texts where it has none."""
        start = len(self._render([QUESTION]))
        places = [(finished.rfind(end), end) for end in self.ends if end]
        at, end = max(places, default=(-1, ""))
        return (end, finished[at + len(end) :]) if at >= start else ("", "")

    def _find_form(self) -> int:
        """The number of the form of messages in which the template writes every part of a conversation."""
        conversation = self._conversation(1)
        problem = ""
        for number, form in enumerate(forms(conversation)):
            try:
                text = unmarked(self._rendered(form, generation_prompt=True))
            except DataError as error:
                problem = problem or str(error)
                continue
            problem = "the template leaves them out"
            wanted = ["probe answer 0"] if self.plain else ["probe answer 0", PROBE_TOOL, "probe value"]
            tools = self.variables.get("tools")
            if all(part in text for part in wanted) and (not tools or self._writes_tools(form, text)):
                return number
        what = "answers of the user" if self.plain else "tools, tool calls and answers of tools"
        raise ConfigError(
            f"data.chat_template does not write {what}: {problem}; accepted: a template with tools "
            "(data.chat_template: FILE.jinja)"
        )

    def _writes_tools(self, form: Conversation, text: str) -> bool:
        without = self.tokenizer.render(form, generation_prompt=True, variables={**self.variables, "tools": None})
        return unmarked(without) != text

    def _check_prefix(self) -> None:
        for thought in ("", THOUGHT):
            earlier = ""
            for turns in (1, 2):
                conversation = self._conversation(turns, thought)
                finished = self._render(conversation[:-1])
                whole = self._render(conversation, generation_prompt=True)
                for before, after in ((finished, whole), (earlier, finished)):
                    if not after.startswith(before):
                        dropped = "an earlier turn" if not thought else "the thoughts of an earlier turn"
                        raise ConfigError(
                            f"data.chat_template is not prefix-preserving: it rewrites {dropped} when the conversation "
                            f"goes on, so that the model would be trained on another text than it reads later; {WAYS_OUT}"
                        )
                earlier = self._render(conversation)

    def _conversation(self, turns: int, thought: str = "") -> Conversation:
        """A question, and turns that each have an answer."""
        messages: Conversation = [QUESTION]
        for number in range(turns):
            names = [] if self.plain else [PROBE_TOOL]
            messages += [self._turn(names, thought), answer_message(names, 0, f"probe answer {number}")]
        return messages

    def _turn(self, names: Sequence[str], thought: str = "") -> Message:
        """A turn that calls tools, or says something."""
        if not names:
            return {"role": "assistant", "content": f"{thought}probe turn"}
        calls = [
            {
                "id": call_id(n),
                "type": "function",
                "function": {"name": name, "arguments": {"probe_key": "probe value"}},
            }
            for n, name in enumerate(names)
        ]
        return {"role": "assistant", "content": thought, "tool_calls": calls}

    def _render(self, messages: Conversation, *, generation_prompt: bool = False) -> str:
        probe = self._conversation(1)  # decides how many forms there are, whatever the messages are
        chosen = next(islice(forms([*probe, *messages]), self.form, None))
        return self._rendered(chosen[len(probe) :], generation_prompt=generation_prompt)

    def _rendered(self, messages: Conversation, *, generation_prompt: bool) -> str:
        return self.tokenizer.render(messages, generation_prompt=generation_prompt, variables=self.variables)


QUESTION: Message = {"role": "user", "content": "probe question"}


def call_id(number: int) -> str:
    """The id of a call in its turn, nine characters as Mistral's templates want it."""
    return f"call{number:05d}"


def answer_message(names: Sequence[str], number: int, text: str) -> Message:
    """The message of one answer: of the tool that was called, or of the user where none was."""
    if not names:
        return {"role": "user", "content": text}
    return {"role": "tool", "name": names[number], "tool_call_id": call_id(number), "content": text}
