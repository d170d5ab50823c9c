"""Held-out rows with the model's log-probs or values, in the files that the report's browser reads, token by token.

They take the places of completions: ``logps`` of a policy; ``advantages`` hold its log-ratio to the reference policy,
or the value that a reward model gives at each token; ``reward`` is the row's score; ``finish`` is ``chosen``,
``rejected`` or ``given``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..batches.reference_logps import StoredLogProbs
from ..data.examples import Example
from ..json_lines import replace_file, to_json
from ..losses.xp import NUMPY
from ..run.rollout_log import numbers, rollout_path
from ..tokenizers.tokenizer import Tokenizer
from ..types import Batch, FloatArray
from .offline_steps import Steps

SHOWN = 16  # held-out rows written per evaluation


def write_samples(
    run_dir: Path,
    step: int,
    steps: Steps,
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    stored: StoredLogProbs | None = None,
) -> None:
    """Write the first held-out rows as ``RUN/rollouts/step_N.jsonl``; every rank calls it, rank 0 writes."""
    shown = examples[:SHOWN]
    batch = steps.batch(shown, stored)
    outputs = steps.outputs(batch)
    scores = steps.task.scores(NUMPY, outputs, batch.loss_tensors())
    ranks = steps.rows.gather_objects((batch, outputs, scores))
    if not steps.main:
        return
    rows = [row for rank in ranks for row in describe_outputs(*rank, policy=steps.policy is not None)]
    names = ("chosen", "rejected") if steps.task.pairs else ("given",)
    completions = [(example, number) for example in shown for number in range(len(example.completions))]
    lines = [
        to_json({"step": step, **describe_completion(example, number, tokenizer), "finish": names[number], **row})
        for (example, number), row in zip(completions, rows, strict=True)
    ]
    path = rollout_path(run_dir, step)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, "".join(line + "\n" for line in lines).encode())


def describe_outputs(
    batch: Batch, outputs: FloatArray, scores: FloatArray | None, *, policy: bool
) -> Iterator[dict[str, Any]]:
    """The model's outputs on each row of a rank, under the names of a rollout file."""
    for row, length in enumerate(batch.lengths):
        seen = outputs[row, :length]
        credit = np.full(length, np.nan)
        if not policy:
            credit = seen
        elif batch.ref_logps is not None:
            credit = np.where(batch.mask[row, :length] > 0, seen - batch.ref_logps[row, :length], np.nan)
        trained = credit[np.isfinite(credit)]
        yield {
            "logps": numbers(seen if policy else np.full(length, np.nan)),
            "advantages": numbers(credit),
            "advantage": float(trained.mean()) if len(trained) else None,
            "components": {},
            "reward": None if scores is None else float(scores[row]),
        }


def describe_completion(example: Example, number: int, tokenizer: Tokenizer) -> dict[str, Any]:
    """One completion of an example, as text and tokens."""
    ids = [int(token) for token in example.completions[number].ids]
    return {
        "uid": example.row,
        "sample": number,
        "prompt": "".join(tokenizer.piece(int(token)) for token in example.prompt),
        "completion": tokenizer.decode(ids),
        "tokens": [tokenizer.piece(token) for token in ids],
        "ids": ids,
        "columns": {name: f"{value:g}" for name, value in example.numbers.items()},
    }
