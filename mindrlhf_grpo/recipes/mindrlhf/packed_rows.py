"""A batch as MindRLHF's dataset rows: samples packed into rows of fixed width.

The backends pack for themselves and never read these rows. A row holds complete samples, each a prompt with its completion
and one end token that is not trained; a flag marks real samples, never a length.
Legend: S row width, P samples per row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from ...types import Batch

Row = Mapping[str, NDArray[Any]]
FIELDS = {"advantages": "advantages", "old_per_token_logps": "old_logps", "ref_per_token_logps": "ref_logps"}


def pack(batch: Batch, *, width: int, samples: int, pad: int) -> list[Row]:
    """Pack a batch into rows, in the order of its completions; those without prompt or completion are left out.

    Each has ``prompt_completion_ids [S + 1]``, ``responses_mask``, ``sample_index`` and the arrays of ``FIELDS`` ``[S]``
    (the entry at t belongs to token t + 1), ``actual_sequence_length``, ``sample_valid_length`` and ``sample_is_real``
    ``[P]`` (ends of the samples, the last one S; trained tokens; 1 for a sample, 0 for a place that was not filled).

    Args:
        width: S.
        samples: most samples in a row.

    Raises:
        DataError: a sample is longer than a row.
    """
    rows: list[list[int]] = [[]]
    used = 0
    for number in range(len(batch)):
        length = _length(batch, number)
        if not length:
            continue
        if length > width:
            raise DataError(f"completion {number} has {length} tokens with its prompt, a packed row {width}")
        if used + length > width or len(rows[-1]) == samples:
            rows.append([])
            used = 0
        rows[-1].append(number)
        used += length
    return [_row(batch, numbers, width, samples, pad) for numbers in rows if numbers]


def _length(batch: Batch, number: int) -> int:
    """Count the tokens of prompt, completion and end token; 0 where prompt or completion is empty."""
    prompt = len(batch.prompts[int(batch.prompt_of[number])])
    completion = int(batch.lengths[number])
    return prompt + completion + 1 if prompt and completion else 0


def _row(batch: Batch, numbers: Sequence[int], width: int, samples: int, pad: int) -> Row:
    ids = np.full(width + 1, pad, np.int64)
    mask, index = np.zeros(width, np.float32), np.zeros(width, np.int32)
    columns = {name: getattr(batch, field) for name, field in FIELDS.items()}
    arrays = {name: np.zeros(width, np.float32) for name, values in columns.items() if values is not None}
    ends, trained, real = np.zeros(samples, np.int32), np.zeros(samples, np.int32), np.zeros(samples, np.int32)
    at = 0
    for place, number in enumerate(numbers):
        prompt, count = batch.prompts[int(batch.prompt_of[number])], int(batch.lengths[number])
        start = at + len(prompt)
        ids[at:start], ids[start : start + count] = prompt, batch.ids[number, :count]
        mask[start - 1 : start - 1 + count] = batch.mask[number, :count]
        for name, array in arrays.items():
            array[start - 1 : start - 1 + count] = columns[name][number, :count]
        end = start + count + 1
        index[at:end], ends[place], trained[place], real[place] = place, end, int(batch.mask[number].sum()), 1
        at = end
    ends[len(numbers) - 1 :] = width
    index[at:] = len(numbers) - 1
    return {
        "prompt_completion_ids": ids,
        "responses_mask": mask,
        "sample_index": index,
        "actual_sequence_length": ends,
        "sample_valid_length": trained,
        "sample_is_real": real,
        **arrays,
    }
