"""MindRLHF's rows as ours: GSM8K and openR1-math questions, preference pairs, and the token files made of them.

``keys.yaml`` says from which of their columns each part of our row comes (``question_types``, ``pair_types``). A part is
``{columns: [NAME, ...]}`` (the first column that the row has), with ``after: MARK`` (the text after the mark's last
occurrence), ``turns: true`` (messages of a conversation, ``{from, value}`` or ``{role, content}``) or ``optional: true``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from ...data.line_files import JsonLinesRows, read_json
from ...data.rows import BadRow, ChangedRows, PlacedRow
from ...errors import DataError, did_you_mean
from ...tokenizers.tokenizer import load_tokenizer
from .keys import keys
from .token_files import SUFFIXES, Record, TokenText, before_mask, read_token_file, under_mask, without_padding

Row: TypeAlias = dict[str, Any]
IGNORED = -100  # label of a token that is not trained
ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}


def rows(file: str, dataset_type: str = "other", tokenizer: str = "") -> Iterator[PlacedRow | BadRow]:
    """Yield prompts with solutions: ``{prompt, solution}``.

    Args:
        file: .jsonl, or tokens in .npz or .mindrecord (``prompt_ids``, ``pretrain_ids``, ``loss_mask``).
        dataset_type: gsm8k (the solution follows ``####``), openR1math (problem, answer), other.
        tokenizer: model folder whose tokens a token file holds.

    Raises:
        DataError: an unknown type. A row without question or answer, or with another tokenizer's tokens, is a bad row.
    """
    return read_parts(file, tokenizer, reader(dataset_type, keys()["question_types"]), token_prompt)


def answered(file: str, dataset_type: str = "other", tokenizer: str = "") -> Iterator[PlacedRow | BadRow]:
    """Yield the same rows for a pretraining loss: ``{prompt, completion}``."""
    for row in rows(file, dataset_type, tokenizer):
        if isinstance(row, BadRow):
            yield row
        else:
            yield PlacedRow(row.place, {"prompt": row["prompt"], "completion": row.get("full", row["solution"])})


def examples(
    file: str, dataset_type: str = "other", tokenizer: str = "", most: int | None = None
) -> Iterator[Row | BadRow]:
    """Yield rows for fine-tuning: ``{messages}`` of conversations, else ``{prompt, completion}``.

    Args:
        file: .jsonl or .json with ``messages``, ``conversations``, or question and answer; or tokens (``input_ids``,
            ``labels``).
        most: rows to take; None: all.
    """
    question = reader(dataset_type, keys()["question_types"])

    def example(row: Mapping[str, Any]) -> Row:
        turns = row.get("messages", row.get("conversations"))
        if turns is not None:
            return {"messages": [message(turn) for turn in turns]}
        parts = question(row)
        return {"prompt": parts["prompt"], "completion": parts.get("full", parts["solution"])}

    return islice(read_parts(file, tokenizer, example, token_example), most)


def pairs(file: str, dataset_type: str = "", tokenizer: str = "", most: int | None = None) -> Iterator[Row | BadRow]:
    """Yield preference rows ``{prompt, chosen, rejected}``.

    Args:
        file: .jsonl or .json: cvalues (``prompt, pos_resp, neg_resp``) or dpo (``conversations, chosen, rejected``); or
            tokens (``chosen_input_ids``, ``rejected_input_ids``, masks).
        dataset_type: cvalues or dpo; empty: told by the columns.
        most: rows to take; None: all.
    """
    read = reader(dataset_type, keys()["pair_types"]) if dataset_type else either
    return islice(read_parts(file, tokenizer, read, token_pair), most)


def either(row: Mapping[str, Any]) -> Row:
    """Read a pair of either form."""
    return reader("cvalues" if "pos_resp" in row else "dpo", keys()["pair_types"])(row)


def token_prompt(record: Mapping[str, Any], texts: TokenText) -> Row:
    """Return prompt and solution of a token row; the solution is the marked part, or all tokens where none is marked."""
    answer = under_mask(record, "pretrain_ids", "loss_mask") or without_padding(record, "pretrain_ids", texts)
    return {"prompt": texts.exact(without_padding(record, "prompt_ids", texts)), "solution": texts.text(answer)}


def token_example(record: Mapping[str, Any], texts: TokenText) -> Row:
    """Return prompt and completion of a token row: the completion begins at the first label that is trained."""
    if not {"input_ids", "labels"} <= record.keys():
        raise DataError(f"fine-tuning needs 'input_ids' and 'labels'; the token file has {', '.join(record)}")
    ids, labels = list(record["input_ids"]), list(record["labels"])
    start = next((at for at, label in enumerate(labels) if label != IGNORED), len(ids))
    end = max((at for at, label in enumerate(labels) if label != IGNORED), default=start - 1) + 1
    return {"prompt": texts.exact(ids[:start]), "completion": texts.exact(ids[start:end])}


def token_pair(record: Mapping[str, Any], texts: TokenText) -> Row:
    """Return prompt and completions of a token row: split by their masks, or where the two begin to differ."""
    ids = {
        side: without_padding(record, f"{side}_input_ids", texts, f"{side}_attention_mask")
        for side in ("chosen", "rejected")
    }
    if "chosen_loss_mask" in record:
        start = before_mask(record["chosen_loss_mask"])
    else:
        start = next((at for at, both in enumerate(zip(*ids.values(), strict=False)) if both[0] != both[1]), 0)
    completions = {side: texts.exact(tokens[start:]) for side, tokens in ids.items()}
    return {"prompt": texts.exact(ids["chosen"][:start]), **completions}


def reader(name: str, kinds: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Callable[[Mapping[str, Any]], Row]:
    """Return the function that reads rows of a kind; it raises DataError for a row that lacks a part.

    Raises:
        DataError: there is no such kind.
    """
    if name not in kinds:
        raise DataError(f"dataset_type {name!r} is unknown{did_you_mean(name, kinds)}; there are {', '.join(kinds)}")
    return lambda row: {part: row_part(row, **entry) for part, entry in kinds[name].items() if is_expected(row, entry)}


def is_expected(row: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    """Return whether the row has a part, or must have it."""
    return not entry.get("optional") or row.get(entry["columns"][0]) is not None


def row_part(
    row: Mapping[str, Any], columns: Sequence[str], after: str = "", turns: bool = False, optional: bool = False
) -> Any:
    """Return one part of a row: text, or messages.

    Raises:
        DataError: the row has none of the columns, no mark, or a turn of another form.
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
    """Return a turn ``{from, value}`` or ``{role, content}`` as a message."""
    role = turn.get("from", turn.get("role")) if isinstance(turn, Mapping) else None
    text = turn.get("value", turn.get("content")) if isinstance(turn, Mapping) else None
    if role not in ROLES or not isinstance(text, str):
        raise DataError(f"a turn is {turn!r}; accepted: from ({', '.join(ROLES)}) with value")
    return {"role": ROLES[role], "content": text}


def read_parts(
    file: str,
    tokenizer: str,
    from_json: Callable[[Mapping[str, Any]], Row],
    from_tokens: Callable[[Record, TokenText], Row],
) -> Iterator[PlacedRow | BadRow]:
    """Yield every row of a JSON or token file in our form, or as a bad row with its place.

    Args:
        tokenizer: model folder whose tokens a token file holds.
        from_json, from_tokens: build our row, or raise DataError.
    """
    if not file.endswith(SUFFIXES):
        path = Path(file)
        yield from ChangedRows(JsonLinesRows(path) if path.suffix == ".jsonl" else read_json(path), from_json)
        return
    texts = TokenText(load_tokenizer(tokenizer, chat_template="none"))
    for place, record in read_token_file(Path(file)):
        try:
            yield PlacedRow(place, from_tokens(record, texts))
        except DataError as error:
            yield BadRow(place, str(error))
