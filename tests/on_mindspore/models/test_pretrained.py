"""Generation with a real model: named by an environment variable, because none is shipped."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from mindrlhf_grpo.tokenizers.tokenizer import load_tokenizer
from mindrlhf_grpo.types import Prompt, Sampling
from tests.support.tiny_generation import assert_equal, make_engine, make_torch_engine

torch = pytest.importorskip("torch")
pytest.importorskip("mindspore")

from mindrlhf_grpo_mindspore.generation.engine import MindSporeEngine  # noqa: E402

FOLDER = os.environ.get("MINDRLHF_GRPO_PRETRAINED", "")
QUESTIONS = (
    "What is the capital of France?", "Write one sentence about the sea.", "What is 2 + 3?", "Name three colours.",
    "Explain gravity to a child.", "Who wrote Hamlet?", "Translate 'good morning' into Spanish.", "What do bees make?",
)  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not Path(FOLDER, "config.json").is_file(), reason="MINDRLHF_GRPO_PRETRAINED names no model folder"
    ),
]


@pytest.fixture(scope="module")
def engine() -> MindSporeEngine:
    return make_engine(Path(FOLDER), slots=16)


def make_prompts() -> list[Prompt]:
    tokenizer = load_tokenizer(FOLDER, chat_template="auto", trust_remote_code=False)
    chats = [[{"role": "user", "content": text}] for text in QUESTIONS]
    return [
        Prompt(uid=number, ids=np.array(tokenizer.chat(chat), np.int32), text="", row=number)
        for number, chat in enumerate(chats)
    ]


def test_greedy_tokens_equal_transformers_generate(engine: MindSporeEngine) -> None:
    prompts = make_prompts()
    model = make_torch_engine(Path(FOLDER), decoder="recompute").model
    ours = engine.generate(prompts, Sampling(max_tokens=64, temperature=0.0), group_size=1)
    for group in ours:
        ids = torch.tensor(group.prompt.ids[None]).long()
        expected = model.generate(
            ids, max_new_tokens=64, do_sample=False, attention_mask=torch.ones_like(ids),
            eos_token_id=list(engine.tokenizer.eos_ids), pad_token_id=0,
        )  # fmt: skip
        assert group.rollouts[0].ids.tolist() == expected[0, len(group.prompt.ids) :].tolist()


@pytest.mark.parametrize("rule", [{}, {"temperature": 0.7, "top_k": 50}], ids=["all", "top_k"])
def test_sampled_tokens_equal_torchs(engine: MindSporeEngine, rule: dict[str, float]) -> None:
    other = make_torch_engine(Path(FOLDER), slots=16)
    sampling = Sampling(max_tokens=64, seed=11, **rule)
    assert_equal(*(one.generate(make_prompts(), sampling, group_size=2) for one in (engine, other)), tolerance=1e-4)
