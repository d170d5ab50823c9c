"""Rows with one completion and a label: true or false, 1 or 0, or how good it is between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config.offline import OfflineDataConfig
from ..errors import DataError
from ..tokenizers.tokenizer import Tokenizer
from .examples import Encoded, column_of, encode_answer, number, read_text


def encode_labelled(row: Mapping[str, Any], config: OfflineDataConfig, tokenizer: Tokenizer) -> Encoded:
    """Prompt, (completion,) and ``label``.

    Raises:
        DataError: a part that is missing or empty, or a label outside 0..1.
    """
    label = number(row, config, "label")
    if not 0 <= label <= 1:
        raise DataError(f"{column_of(config, 'label')} is {label:g}; accepted: true, false, or a number from 0 to 1")
    prompt, completion = encode_answer(
        read_text(row, config, "prompt"), read_text(row, config, "completion"), config, tokenizer
    )
    return Encoded(prompt=prompt, completions=(completion,), numbers={"label": label})
