"""Generation with a real model: named by an environment variable, because none is shipped."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from tiny_generation import assert_equal, make_engine, make_torch_engine

from mindrlhf_grpo.data.tokenizer import load_tokenizer
from mindrlhf_grpo.sampling import uniforms
from mindrlhf_grpo.types import Prompt, Sampling

torch = pytest.importorskip("torch")
pytest.importorskip("mindspore")

from mindrlhf_grpo_mindspore.engine import MindSporeEngine  # noqa: E402

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


def test_sampled_tokens_equal_torchs(engine: MindSporeEngine) -> None:
    other = make_torch_engine(Path(FOLDER), slots=16)
    sampling = Sampling(max_tokens=64, temperature=0.7, top_k=50, seed=11)
    assert_equal(*(one.generate(make_prompts(), sampling, group_size=2) for one in (engine, other)), tolerance=1e-4)


def test_where_tokens_of_the_whole_vocabulary_part_the_uniform_lies_between_them(engine: MindSporeEngine) -> None:
    """Thousands of ids of tiny probability lie at either side of rounding; nothing else may make a difference."""
    other = make_torch_engine(Path(FOLDER), slots=16)
    sampling = Sampling(max_tokens=64, seed=11)
    ours, theirs = (one.generate(make_prompts(), sampling, group_size=4) for one in (engine, other))
    parted = 0
    for mine, its in zip(ours, theirs, strict=True):
        for one, two in zip(mine.rollouts, its.rollouts, strict=True):
            if one.ids.tolist() == two.ids.tolist():
                continue
            parted += 1
            place = next(place for place, pair in enumerate(zip(one.ids, two.ids, strict=False)) if pair[0] != pair[1])
            history = torch.tensor(np.concatenate([mine.prompt.ids, one.ids[:place]])[None]).long()
            with torch.no_grad():
                logits = other.model(input_ids=history).logits[0, -1].double()
            sums = logits.softmax(-1).cumsum(-1)
            uniform = uniforms(sampling.seed, mine.prompt.uid, one.sample, place)[0]
            first, last = sorted((int(one.ids[place]), int(two.ids[place])))
            assert float(sums[first]) - 1e-5 < uniform < float(sums[last - 1]) + 1e-5
    assert parted <= 4
