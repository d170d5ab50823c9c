"""A language model beside the policy: what it says and how likely it finds a text are the policy's own numbers."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.batches.online import build_batch
from mindrlhf_grpo.config.run import RunConfig
from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.tokenizers.tokenizer import load_tokenizer
from mindrlhf_grpo.types import Prompt, Sampling
from tests.support import tiny

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_model(tmp_path_factory.mktemp("language") / "model")


def make_backend(folder: Path) -> Any:
    from mindrlhf_grpo_torch import build

    return build(RunConfig.model_validate(tiny.settings(folder.parent, model={"path": str(folder)})))


def prompts_of(tokenizer: Any, *texts: str) -> list[Prompt]:
    return [Prompt(uid=n, ids=np.asarray(tokenizer.encode(text), np.int32), text=text) for n, text in enumerate(texts)]


def test_it_says_and_finds_likely_what_the_policy_does_and_reads_its_folder_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mindrlhf_grpo_torch.models import hf

    backend = make_backend(folder)
    tokenizer = load_tokenizer(str(folder), chat_template="none")
    loads: list[str] = []
    load = hf.load_causal_lm

    def counted(model: Any, device: Any = None) -> Any:
        loads.append(model.path)
        return load(model, device)

    policy = backend.load_policy()
    monkeypatch.setattr(hf, "load_causal_lm", counted)
    model = backend.load_language_model(backend.config.model, tokenizer, slots=3)
    assert loads == []
    prompts = prompts_of(tokenizer, "1+2=", "is it good?")
    sampling = Sampling(max_tokens=6, seed=3)
    groups = model.generate(prompts, sampling, group_size=3)
    expected = backend.load_engine(policy, tokenizer).generate(prompts, sampling, group_size=3)
    assert [r.text for g in groups for r in g.rollouts] == [r.text for g in expected for r in g.rollouts]
    blank = np.zeros((6, max(len(r.ids) for g in groups for r in g.rollouts)), np.float32)
    batch = build_batch(groups, blank, weights=blank, temperature=1.0, mask=blank)
    first = model.logps(batch).logps
    np.testing.assert_allclose(first, policy.logps(batch).logps, rtol=0, atol=2e-6)
    np.testing.assert_allclose(first[0, : batch.lengths[0]], groups[0].rollouts[0].logps, rtol=0, atol=1e-5)
    assert loads == [str(folder)]
    model.release()
    model.release()
    np.testing.assert_array_equal(model.logps(batch).logps, first)
    assert loads == [str(folder)] * 2


def test_release_frees_the_weights(folder: Path) -> None:
    backend = make_backend(folder)
    tokenizer = load_tokenizer(str(folder), chat_template="none")
    before = embeddings()
    model = backend.load_language_model(backend.config.model, tokenizer, slots=2)
    model.generate(prompts_of(tokenizer, "a"), Sampling(max_tokens=2), group_size=1)
    assert embeddings() > before
    model.release()
    assert embeddings() == before


def embeddings() -> int:
    """Count the models in memory, of all tests; by type, because a dead proxy raises when asked for its class."""
    gc.collect()
    return sum(issubclass(type(found), torch.nn.Embedding) for found in gc.get_objects())


def test_a_folder_that_is_none_is_said_at_the_first_call(folder: Path) -> None:
    backend = make_backend(folder)
    tokenizer = load_tokenizer(str(folder), chat_template="none")
    config = backend.config.model.model_copy(update={"path": str(folder / "missing")})
    with pytest.raises(ConfigError, match="missing"):
        backend.load_language_model(config, tokenizer, slots=2).generate(
            prompts_of(tokenizer, "a"), Sampling(max_tokens=2), group_size=1
        )
