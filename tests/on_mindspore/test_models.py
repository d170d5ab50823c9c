"""Decoders of every family against transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import MODELS, expected_log_probs, inputs, load, log_probs, make_batch, make_model, save

from mindrlhf_grpo.compiling import CompileLog
from mindrlhf_grpo_mindspore.graph import Compiled

TOLERANCE = 1e-4


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", MODELS)
def test_log_probs_are_those_of_transformers(tmp_path: Path, name: str, seed: int) -> None:
    model = make_model(name, seed=seed)
    decoder = load(save(model, tmp_path))
    for padded in (False, True):
        ids, real = make_batch(padded=padded, seed=seed)
        found = log_probs(decoder, *inputs(ids, real)).asnumpy()[real.ravel()]
        expected = expected_log_probs(model, ids, real)[real.ravel()]
        assert np.abs(expected).max() > 5  # the model is no uniform one
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
