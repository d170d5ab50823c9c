"""Rows of another form: a table says from which column each part of ours comes.

A part is ``{columns: [NAME, ...]}`` (the first that is there), with ``after: MARK`` (what follows the mark's last place),
``turns: true`` (messages of a conversation, ``{from, value}`` or ``{role, content}``) or ``optional: true``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from ...data.rows import BadRow, JsonLinesRows
from ...errors import DataError, did_you_mean
from ...tokenizers.tokenizer import load_tokenizer
from .token_files import SUFFIXES, Record, TokenText, read_token_file

Row: TypeAlias = dict[str, Any]
ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}


def reader(name: str, kinds: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Callable[[Mapping[str, Any]], Row]:
    """How rows of a kind are read.

    Raises:
        DataError: there is no such kind; the reader raises it for a row that lacks a part.
    """
    if name not in kinds:
        raise DataError(f"dataset_type {name!r} is unknown{did_you_mean(name, kinds)}; there are {', '.join(kinds)}")
    return lambda row: {part: part_of(row, **entry) for part, entry in kinds[name].items() if there(row, entry)}


def there(row: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    """Whether a part is there, or has to be."""
    return not entry.get("optional") or row.get(entry["columns"][0]) is not None


def part_of(
    row: Mapping[str, Any], columns: Sequence[str], after: str = "", turns: bool = False, optional: bool = False
) -> Any:
    """One part of a row: text, or messages.

    Raises:
        DataError: none of the columns, no mark, or a turn of another form.
    """
    value = next((row[name] for name in columns if row.get(name) is not None), None)
    if value is None:
        raise DataError(
            f"no column {' or '.join(map(repr, columns))}{did_you_mean(columns[0], map(str, row))}; "
            f"columns: {', '.join(map(str, row))}"
        )
    if turns:
        return [message(turn) for turn in (value if isinstance(value, list) else [value])]
    if after and after not in str(value):
        raise DataError(f"{columns[0]} has no {after}, which stands before the solution")
    return str(value).rpartition(after)[2].strip() if after else str(value).strip()


def message(turn: Any) -> dict[str, str]:
    """``{from, value}`` or ``{role, content}`` as ours."""
    role = turn.get("from", turn.get("role")) if isinstance(turn, Mapping) else None
    text = turn.get("value", turn.get("content")) if isinstance(turn, Mapping) else None
    if role not in ROLES or not isinstance(text, str):
        raise DataError(f"a turn is {turn!r}; accepted: from ({', '.join(ROLES)}) with value")
    return {"role": ROLES[role], "content": text}


def read_parts(
    file: str,
    tokenizer: str,
    of_json: Callable[[Mapping[str, Any]], Row],
    of_tokens: Callable[[Record, TokenText], Row],
) -> Iterator[Row | BadRow]:
    """Every row of a JSON or token file in our form, or as a bad row with its place.

    Args:
        tokenizer: model folder whose tokens a token file holds.
        of_json, of_tokens: make our row; DataError where they cannot.
    """
    places: Iterator[tuple[str, Any]]
    made: Callable[[Any], Row]
    if file.endswith(SUFFIXES):
        texts = TokenText(load_tokenizer(tokenizer, chat_template="none"))
        places, made = read_token_file(Path(file)), partial(_from_tokens, of_tokens, texts)
    else:
        places, made = json_rows(Path(file)), of_json
    for place, row in places:
        try:
            yield row if isinstance(row, BadRow) else made(row)
        except DataError as error:
            yield BadRow(place, str(error))


def _from_tokens(make: Callable[[Record, TokenText], Row], texts: TokenText, record: Record) -> Row:
    return make(record, texts)


def json_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Place and row of a JSON-lines file, or of a file that holds one list.

    Raises:
        DataError: a list that is no JSON.
    """
    if path.suffix == ".jsonl" or not path.read_bytes().lstrip().startswith(b"["):
        lines = JsonLinesRows(path)
        yield from ((lines.place(index), lines[index]) for index in range(len(lines)))
        return
    try:
        rows = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path} is no JSON: {error}") from None
    for number, row in enumerate(rows):
        place = f"{path}[{number}]"
        yield place, row if isinstance(row, dict) else BadRow(place, f"not an object but {type(row).__name__}")
