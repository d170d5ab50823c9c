"""A language model beside the policy on MindSpore: torch's completions and log-probs, before and after release."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support import tiny

pytest.importorskip("mindspore")
pytest.importorskip("torch")

from mindrlhf_grpo.backend import backend_module
from mindrlhf_grpo.batches.online import build_batch
from mindrlhf_grpo.config.run import RunConfig
from mindrlhf_grpo.tokenizers.tokenizer import load_tokenizer
from mindrlhf_grpo.types import Prompt, Sampling


def test_it_equals_torchs_and_reads_its_folder_again(tmp_path: Path) -> None:
    folder = tiny.write_model(tmp_path / "model")
    tokenizer = load_tokenizer(str(folder), chat_template="none")
    texts = ("1+2=", "is it good?")
    prompts = [
        Prompt(uid=n, ids=np.asarray(tokenizer.encode(text), np.int32), text=text) for n, text in enumerate(texts)
    ]
    found = {}
    for name in ("torch", "mindspore"):
        config = RunConfig.model_validate(tiny.settings(tmp_path))
        model = backend_module(name).build(config).load_language_model(config.model, tokenizer, slots=3)
        groups = model.generate(prompts, Sampling(max_tokens=4, seed=3), group_size=2)
        blank = np.zeros((4, max(len(r.ids) for g in groups for r in g.rollouts)), np.float32)
        batch = build_batch(groups, blank, weights=blank, temperature=1.0, mask=blank)
        first = model.logps(batch).logps
        held = getattr(model.model, "weights", {})
        model.release()
        assert all(weight.size == 1 for weight in held.values())
        again = model.generate(prompts, Sampling(max_tokens=4, seed=3), group_size=2)
        assert [r.text for g in again for r in g.rollouts] == [r.text for g in groups for r in g.rollouts]
        found[name] = ([r.text for g in groups for r in g.rollouts], first)
    assert found["mindspore"][0] == found["torch"][0]
    np.testing.assert_allclose(found["mindspore"][1], found["torch"][1], rtol=0, atol=1e-5)
