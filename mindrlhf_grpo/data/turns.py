"""Conversations read as one example per assistant message (``data.turns: apart``).

Each example is the conversation up to one assistant message, of which only that message is trained. It is the
conversation as the model was, or will be, sampled: a template that drops earlier thoughts drops them from the prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .rows import BadRow, Rows


class TurnRows:
    """Rows of a source in which a row with ``k`` assistant messages counts ``k`` times, cut after each in turn.

    Every row is read once at the start. Rows without a list of messages, and bad rows, count once and are unchanged.
    """

    def __init__(self, rows: Rows, column: str) -> None:
        self._rows, self._column = rows, column
        self._places = [(row, end) for row in range(len(rows)) for end in _ends_of_turns(rows[row], column) or [None]]
        self.bad: Mapping[int, BadRow] = {
            index: rows.bad[row] for index, (row, _) in enumerate(self._places) if row in rows.bad
        }

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> dict[str, Any] | BadRow:
        row, end = self._places[index]
        content = self._rows[row]
        if end is None or isinstance(content, BadRow):
            return content
        return {**content, self._column: list(content[self._column])[:end]}

    def place(self, index: int) -> str:
        row, end = self._places[index]
        return self._rows.place(row) + ("" if end is None else f", up to message {end - 1}")


def _ends_of_turns(row: Mapping[str, Any] | BadRow, column: str) -> list[int | None]:
    """Return, for each assistant message, the number of messages up to it and with it."""
    messages = None if isinstance(row, BadRow) else row.get(column)
    if not isinstance(messages, (list, tuple)):
        return []
    return [
        number
        for number, message in enumerate(messages, start=1)
        if isinstance(message, Mapping)
        and message.get("role") == "assistant"
        and message.get("weight") != 0
        and message.get("loss") is not False
    ]
