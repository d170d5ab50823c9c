"""Samples packed into rows have the same loss as alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.batches.online import denominators, loss_weights
from mindrlhf_grpo.errors import DataError
from mindrlhf_grpo.losses import PolicyLoss
from mindrlhf_grpo.losses.xp import NUMPY
from mindrlhf_grpo.recipes.mindrlhf.packed_rows import Row, pack
from mindrlhf_grpo.types import Batch
from tests.support.tiny_policy import make_batch, make_model, own_logps

torch = pytest.importorskip("torch")

GROUPS = [(5, [3, 7, 1]), (2, [4, 4]), (9, [6])]
LOW, HIGH, BETA = 0.2, 0.28, 0.05


@pytest.fixture(scope="module")
def model() -> Any:
    return make_model("qwen2")


@pytest.fixture(scope="module")
def batch(model: Any) -> Batch:
    """Completions of three prompts, one of a single token, with log-probs before the update and of a reference."""
    plain = make_batch(GROUPS)
    logps, draw = own_logps(model, plain), np.random.default_rng(1)
    tokens, sequences = denominators(plain.lengths.astype(np.int64), count_masked_rows=False)
    weights = loss_weights(plain.mask, "sequence_mean", tokens=tokens, sequences=sequences, max_tokens=8)
    moved = [(logps + draw.normal(0, 0.3, logps.shape) * plain.mask).astype(np.float32) for _ in range(2)]
    return replace(plain, weights=weights, old_logps=moved[0], ref_logps=moved[1])


def packed_logps(model: Any, row: Row) -> np.ndarray:
    """Log-prob of each next token; a token sees only its own sample, and positions restart with each sample."""
    ids, sample = torch.from_numpy(row["prompt_completion_ids"]), torch.from_numpy(row["sample_index"])
    width = len(sample)
    seen = (sample[:, None] == sample[None]) & torch.ones(width, width, dtype=torch.bool).tril()
    starts = [0, *row["actual_sequence_length"][:-1]]
    positions = torch.arange(width) - torch.tensor([starts[int(number)] for number in sample])
    bias = torch.zeros(width, width).masked_fill(~seen, torch.finfo(torch.float32).min)
    with torch.no_grad():
        logits = model(input_ids=ids[None, :-1], attention_mask=bias[None, None], position_ids=positions[None]).logits[
            0
        ]
    return np.asarray(torch.log_softmax(logits, -1).gather(1, ids[1:, None])[:, 0])


def packed_loss(model: Any, rows: list[Row]) -> float:
    """The mean over samples of their tokens' mean loss, computed from the rows only."""
    of_samples = []
    for row in rows:
        logps, mask = packed_logps(model, row), row["responses_mask"]
        ratio = np.exp(logps - row["old_per_token_logps"])
        gains = np.minimum(ratio * row["advantages"], np.clip(ratio, 1 - LOW, 1 + HIGH) * row["advantages"])
        gap = row["ref_per_token_logps"] - logps
        losses = -gains + BETA * (np.exp(gap) - gap - 1)
        sums = np.bincount(row["sample_index"], losses * mask, minlength=len(row["sample_is_real"]))
        real = row["sample_is_real"] == 1
        of_samples += (sums[real] / row["sample_valid_length"][real]).tolist()
    return float(np.mean(of_samples))


@pytest.mark.parametrize(("width", "samples"), [(20, 1), (32, 3), (64, 8)])
@pytest.mark.row("mindrlhf", "GRPO")
def test_packed_equals_unpacked(model: Any, batch: Batch, width: int, samples: int) -> None:
    loss = PolicyLoss(clip_low=LOW, clip_high=HIGH, kl_coef=BETA)
    expected, _ = loss(NUMPY, own_logps(model, batch), batch.loss_tensors())
    rows = pack(batch, width=width, samples=samples, pad=0)
    assert sum(int(row["sample_is_real"].sum()) for row in rows) == 6
    assert packed_loss(model, rows) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.row("mindrlhf", "GRPO", backend="none")
def test_a_row_is_what_its_fields_say() -> None:
    batch = replace(make_batch([(2, [3, 1])]), old_logps=np.ones((2, 3), np.float32))
    order = np.argsort(-batch.lengths)
    (row,) = pack(batch.take(order), width=14, samples=3, pad=9)
    first, second = batch.ids[order[0], :3].tolist(), batch.ids[order[1], :1].tolist()
    prompt = batch.prompts[0].tolist()
    assert row["prompt_completion_ids"].tolist() == [*prompt, *first, 9, *prompt, *second, 9, *[9] * 5]
    assert row["responses_mask"].tolist() == [0, 1, 1, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert row["actual_sequence_length"].tolist() == [6, 14, 14]
    assert row["sample_valid_length"].tolist() == [3, 1, 0]
    assert row["sample_is_real"].tolist() == [1, 1, 0], "a completion of one token is a sample"
    assert row["old_per_token_logps"].tolist() == row["responses_mask"].tolist()


def test_what_does_not_fit_a_row_is_an_error() -> None:
    with pytest.raises(DataError, match="completion 0 has 7 tokens with its prompt, a packed row 6"):
        pack(make_batch([(2, [4])]), width=6, samples=1, pad=0)
