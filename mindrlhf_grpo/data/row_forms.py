"""Forms in which datasets are published, told by their columns and read as rows of ours.

A form is its columns and a function from a row to the parts of ours (``prompt``, ``completion``, ``messages``,
``chosen``, ``rejected``, ``label``, ``tools``). It applies where the row has none of the parts that it gives: a row in
our own form is read as it is. To add one, add a line to ``FORMS`` and its row in docs/data.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import DataError
from .rows import BadRow, Rows

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowForm:
    """A form of rows.

    Attributes:
        columns: those that tell the form; a row that has them all is of it.
        gives: the parts that ``read`` may return.
        read: from a row to its parts; None for a row that has the columns and is not of the form. Raises DataError.
        templated: whether it gives messages where the row has text, so that it needs a chat template.
    """

    name: str
    columns: tuple[str, ...]
    gives: tuple[str, ...]
    read: Callable[[Row], dict[str, Any] | None]
    templated: bool = False


def in_our_form(row: Row, *, column_of: Callable[[str], str], templated: bool) -> dict[str, Any]:
    """Return the row with the parts that its form gives, under their columns; a row of no known form as it is.

    Raises:
        DataError: the row has the columns of a form, and a value that the form does not allow.
    """
    for form in FORMS:
        if (form.templated and not templated) or not all(column in row for column in form.columns):
            continue
        if any(column_of(part) in row for part in form.gives if part not in form.columns):
            continue
        parts = form.read(row)
        if parts is not None:
            return {**row, **{column_of(part): value for part, value in parts.items()}}
    return dict(row)


# ---- ShareGPT: conversations of {from, value}

ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "assistant": "assistant",
    "model": "assistant", "system": "system", "tool": "tool", "observation": "tool", "function_response": "tool",
}  # fmt: skip


def _sharegpt(row: Row) -> dict[str, Any] | None:
    turns = row["conversations"]
    if not isinstance(turns, Sequence) or isinstance(turns, str):
        raise DataError(f"conversations is {type(turns).__name__}, not a list of {{from, value}}")
    messages = [*_system(row), *(_turn(turn, f"turn {number}") for number, turn in enumerate(turns))]
    if "chosen" in row and "rejected" in row:
        return {"prompt": messages, **{side: _answer(row[side], side) for side in ("chosen", "rejected")}}
    label = {"label": row["kto_tag"]} if "kto_tag" in row and "label" not in row else {}
    return {"messages": messages, **label}


def _answer(value: Any, side: str) -> Any:
    return [_turn(value, side)] if isinstance(value, Mapping) else value


def _turn(turn: Any, place: str) -> dict[str, Any]:
    if not isinstance(turn, Mapping):
        raise DataError(f"{place} is {type(turn).__name__}, not {{from, value}}")
    if "role" in turn and "from" not in turn:
        return dict(turn)
    role, text = turn.get("from"), turn.get("value")
    kept = {key: value for key, value in turn.items() if key in ("weight", "loss") and value is not None}
    if role == "function_call" and isinstance(text, str):
        return {"role": "assistant", "content": "", "tool_calls": [_call(text, place)], **kept}
    if role not in ROLES:
        raise DataError(f"{place} is from {role!r}; accepted: {', '.join(ROLES)}, function_call")
    return {"role": ROLES[role], "content": text, **kept}


def _call(text: str, place: str) -> dict[str, Any]:
    try:
        return {"type": "function", "function": json.loads(text)}
    except ValueError as error:
        raise DataError(f"{place}: the function call {text[:40]!r} is no JSON: {error}") from None


# ---- Alpaca: instruction, input, output


def _instruction(row: Row) -> dict[str, Any]:
    for name in ("instruction", "input"):
        if not isinstance(row.get(name) or "", str):
            raise DataError(f"{name} is {type(row[name]).__name__}, not text")
    asked = "\n\n".join(text for text in (row["instruction"], row.get("input")) if text)
    history = row.get("history") or []
    if not history and not _system(row):
        return {"prompt": asked}
    turns = [
        {"role": role, "content": text}
        for pair in history
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    return {"prompt": [*_system(row), *turns, {"role": "user", "content": asked}]}


def _alpaca(row: Row) -> dict[str, Any]:
    return {**_instruction(row), "completion": row["output"]}


def _system(row: Row) -> list[dict[str, Any]]:
    return [{"role": "system", "content": row["system"]}] if row.get("system") else []


# ---- OpenAI's preference files


def _openai_preference(row: Row) -> dict[str, Any]:
    asked = row["input"]
    if not isinstance(asked, Mapping) or "messages" not in asked:
        raise DataError("input has no messages, beside preferred_output and non_preferred_output")
    tools = {"tools": asked["tools"]} if asked.get("tools") else {}
    return {
        "prompt": asked["messages"],
        "chosen": row["preferred_output"],
        "rejected": row["non_preferred_output"],
        **tools,
    }


# ---- Anthropic's texts: \n\nHuman: ... \n\nAssistant: ...

SPEAKERS = {"Human": "user", "Assistant": "assistant"}
TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")


def spoken(text: Any) -> list[dict[str, str]] | None:
    """Split a text of ``Human:`` and ``Assistant:`` turns into messages; None for any other value."""
    if not isinstance(text, str) or not (first := TURN.match(text)) or first[1] != "Human":
        return None
    _, *parts = TURN.split(text)
    speakers, words = parts[::2], parts[1::2]
    return [{"role": SPEAKERS[who], "content": said.strip()} for who, said in zip(speakers, words, strict=True)]


def _anthropic_pair(row: Row) -> dict[str, Any] | None:
    chosen, rejected = spoken(row["chosen"]), spoken(row["rejected"])
    return None if chosen is None or rejected is None else {"chosen": chosen, "rejected": rejected}


def _anthropic_text(row: Row) -> dict[str, Any] | None:
    messages = spoken(row["text"])
    return None if messages is None else {"messages": messages}


def _steps(row: Row) -> None:
    raise DataError("the row has a label for each step (completions, labels), for which there is no objective")


FORMS = (
    RowForm(
        name="OpenAI preferences", columns=("input", "preferred_output", "non_preferred_output"),
        gives=("prompt", "chosen", "rejected"), read=_openai_preference,
    ),
    RowForm(name="ShareGPT", columns=("conversations",), gives=("messages", "prompt"), read=_sharegpt),
    RowForm(name="Alpaca", columns=("instruction", "output"), gives=("prompt", "completion", "messages"), read=_alpaca),
    RowForm(name="instructions", columns=("instruction",), gives=("prompt", "messages"), read=_instruction),
    RowForm(
        name="Anthropic pairs", columns=("chosen", "rejected"), gives=("chosen", "rejected", "prompt"),
        read=_anthropic_pair, templated=True,
    ),
    RowForm(
        name="Anthropic texts", columns=("text",), gives=("messages", "prompt", "completion"), read=_anthropic_text,
        templated=True,
    ),
    RowForm(name="steps", columns=("completions", "labels"), gives=("completion", "messages"), read=_steps),
)  # fmt: skip


def as_prompt(row: Row, column: str) -> dict[str, Any]:
    """Return a row of prompts: one of another form gets its prompt under ``column``.

    Of a conversation that ends with the assistant, the prompt is what precedes, and ``completion`` has the answer.

    Raises:
        DataError: the row has the columns of a form, and a value that the form does not allow.
    """
    if column in row:
        return dict(row)
    ours = in_our_form(row, column_of=lambda part: column if part == "prompt" else part, templated=True)
    messages = ours.get("messages")
    if column in ours or not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        return ours
    last = messages[-1]
    if not isinstance(last, Mapping) or last.get("role") != "assistant":
        return {**ours, column: messages}
    return {**ours, column: messages[:-1], "completion": last.get("content")}


class LabelledPairs:
    """Rows ``chosen, rejected`` as two labelled rows each: the chosen completion is good, the rejected one is not."""

    def __init__(self, rows: Rows, column_of: Callable[[str], str]) -> None:
        self._rows, self._column_of = rows, column_of

    @staticmethod
    def fit(rows: Rows, column_of: Callable[[str], str]) -> bool:
        """Tell whether the first good row is a pair, and none that has a label."""
        first = next((row for row in map(rows.__getitem__, range(len(rows))) if not isinstance(row, BadRow)), {})
        present = {part for part in ("chosen", "rejected", "completion", "messages") if column_of(part) in first}
        return present == {"chosen", "rejected"}

    @property
    def bad(self) -> Mapping[int, BadRow]:
        return {2 * index + side: row for index, row in self._rows.bad.items() for side in (0, 1)}

    def __len__(self) -> int:
        return 2 * len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any] | BadRow:
        row = self._rows[index // 2]
        if isinstance(row, BadRow):
            return row
        side = ("chosen", "rejected")[index % 2]
        column = self._column_of(side)
        if column not in row:
            return BadRow(self._rows.place(index // 2), f"no column {column!r}, which the first row has")
        value = row[column]
        whole = (
            isinstance(value, list)
            and bool(value)
            and isinstance(value[0], Mapping)
            and value[0].get("role") != "assistant"
        )
        return {
            **row,
            self._column_of("messages" if whole else "completion"): value,
            self._column_of("label"): side == "chosen",
        }

    def place(self, index: int) -> str:
        return f"{self._rows.place(index // 2)}, {('chosen', 'rejected')[index % 2]}"
