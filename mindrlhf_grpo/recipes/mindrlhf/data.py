"""MindRLHF's rows as ours: GSM8K and openR1-math questions, preference pairs, and the token files made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...data.rows import BadRow
from .row_parts import Row, read_parts, reader
from .tables import keys
from .token_files import TokenText, before_mask, under_mask, without_padding


def rows(file: str, dataset_type: str = "other", tokenizer: str = "") -> Iterator[Row | BadRow]:
    """Prompts with solutions: ``{prompt, solution}``.

    Args:
        file: .jsonl, or tokens in .npz or .mindrecord (``prompt_ids``, ``pretrain_ids``, ``loss_mask``).
        dataset_type: gsm8k (the solution follows ``####``), openR1math (problem, answer), other.
        tokenizer: model folder whose tokens a token file holds.

    Raises:
        DataError: no such type. Rows without question or answer, or with tokens that are not the tokenizer's, are bad rows.
    """
    return read_parts(file, tokenizer, reader(dataset_type, keys()["question_types"]), token_prompt)


def answered(file: str, dataset_type: str = "other", tokenizer: str = "") -> Iterator[Row | BadRow]:
    """The same rows for a pretraining loss: ``{prompt, completion}``."""
    for row in rows(file, dataset_type, tokenizer):
        yield (
            row
            if isinstance(row, BadRow)
            else {"prompt": row["prompt"], "completion": row.get("full", row["solution"])}
        )


def pairs(file: str, dataset_type: str = "", tokenizer: str = "") -> Iterator[Row | BadRow]:
    """Preference rows ``{prompt, chosen, rejected}``.

    Args:
        file: .jsonl or .json: cvalues (``prompt, pos_resp, neg_resp``) or dpo (``conversations, chosen, rejected``); or
            tokens (``chosen_input_ids``, ``rejected_input_ids``, masks).
        dataset_type: cvalues or dpo; empty: seen from the columns.
    """
    return read_parts(
        file, tokenizer, reader(dataset_type, keys()["pair_types"]) if dataset_type else either, token_pair
    )


def either(row: Mapping[str, Any]) -> Row:
    """A pair of either form."""
    return reader("cvalues" if "pos_resp" in row else "dpo", keys()["pair_types"])(row)


def token_prompt(record: Mapping[str, Any], texts: TokenText) -> Row:
    """Prompt and solution of tokens; the solution is what the mask marks, or all where it marks none."""
    answer = under_mask(record, "pretrain_ids", "loss_mask") or without_padding(record, "pretrain_ids", texts)
    return {"prompt": texts.exact(without_padding(record, "prompt_ids", texts)), "solution": texts.text(answer)}


def token_pair(record: Mapping[str, Any], texts: TokenText) -> Row:
    """Prompt and completions of tokens: by their masks, or from where the two differ."""
    ids = {
        side: without_padding(record, f"{side}_input_ids", texts, f"{side}_attention_mask")
        for side in ("chosen", "rejected")
    }
    if "chosen_loss_mask" in record:
        start = before_mask(record["chosen_loss_mask"])
    else:
        start = next((at for at, both in enumerate(zip(*ids.values(), strict=False)) if both[0] != both[1]), 0)
    found = {side: texts.exact(tokens[start:]) for side, tokens in ids.items()}
    return {"prompt": texts.exact(ids["chosen"][:start]), **found}
