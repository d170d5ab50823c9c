"""Engines of both backends on one tiny model, and prompts for them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import tiny

pytest.importorskip("mindspore")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from mindrlhf_grpo_mindspore.generation.decoder_steps import Model  # noqa: E402
from mindrlhf_grpo_mindspore.generation.engine import MindSporeEngine  # noqa: E402
from mindrlhf_grpo_mindspore.models import hf  # noqa: E402
from mindrlhf_grpo_torch.generation.engine import TorchEngine  # noqa: E402

from mindrlhf_grpo.backend import CompileLog  # noqa: E402
from mindrlhf_grpo.tokenizers.tokenizer import Tokenizer, load_tokenizer  # noqa: E402
from mindrlhf_grpo.types import Prompt, Rollout, RolloutGroup, Sampling  # noqa: E402

VOCABULARY = len(tiny.SPECIAL) + len(tiny.ALPHABET)
END = 1


def write_model(folder: Path, *, context: int = 512) -> Path:
    """A tiny Llama; a context longer than the shortest bucket, so that caches grow."""
    tiny.write_model(folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "max_position_embeddings": context}))
    return folder


def load_model(folder: Path) -> Model:
    architecture = hf.load_architecture(folder)
    return Model(architecture=architecture, weights=hf.load_weights(folder, architecture))


def tokenizer_of(folder: Path) -> Tokenizer:
    return load_tokenizer(str(folder), chat_template="none", trust_remote_code=False)


def make_engine(folder: Path, *, model: Model | None = None, slots: int = 32, **settings: Any) -> MindSporeEngine:
    log = settings.pop("compile_log", None) or CompileLog()
    return MindSporeEngine(model or load_model(folder), tokenizer_of(folder), slots=slots, compile_log=log, **settings)


def make_torch_engine(folder: Path, *, slots: int = 8, decoder: str | None = None) -> TorchEngine:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval().requires_grad_(False)
    return TorchEngine(model, tokenizer_of(folder), slots=slots, decoder=decoder)


def make_prompts(lengths: Sequence[int] = (5, 3, 9, 3, 12), *, seed: int = 0) -> list[Prompt]:
    random = np.random.default_rng(seed)
    return [
        Prompt(uid=100 + index, ids=random.integers(2, VOCABULARY, length).astype(np.int32), text="", row=index)
        for index, length in enumerate(lengths)
    ]


def sampling(**settings: Any) -> Sampling:
    return Sampling(**{"max_tokens": 20, "seed": 5, **settings})


def by_request(groups: Sequence[RolloutGroup]) -> dict[tuple[int, int], Rollout]:
    return {(group.prompt.uid, rollout.sample): rollout for group in groups for rollout in group.rollouts}


def tokens(groups: Sequence[RolloutGroup]) -> dict[tuple[int, int], list[int]]:
    return {request: rollout.ids.tolist() for request, rollout in by_request(groups).items()}


def assert_equal(ours: Sequence[RolloutGroup], theirs: Sequence[RolloutGroup], *, tolerance: float = 1e-5) -> None:
    """Identical tokens, endings and texts; log-probs within the tolerance."""
    assert tokens(ours) == tokens(theirs)
    others = by_request(theirs)
    for request, rollout in by_request(ours).items():
        assert (rollout.finish, rollout.text) == (others[request].finish, others[request].text)
        np.testing.assert_allclose(rollout.logps, others[request].logps, rtol=0, atol=tolerance)
