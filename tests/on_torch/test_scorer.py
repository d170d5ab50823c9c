"""Trained reward models as rewards on torch: transformers' numbers, and weights that are gone after scoring."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.rewards.models.reward_model import Scorer, ScorerSettings
from mindrlhf_grpo.types import FinishReason, Prompt, Rollout, RolloutGroup
from tests.support.tiny_policy import FAMILIES, run_config
from tests.support.tiny_tokenizers import write_huggingface

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)

QUESTION, ANSWERS = "what is 12 + 34?", ("it is 46.", "how many roads must a man walk down", "dog")


def write_reward_model(folder: Path, seed: int) -> Path:
    """A random classifier with a tokenizer of its own."""
    write_huggingface(folder)
    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model("llama", **FAMILIES["llama"], vocab_size=320, num_labels=1)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    for parameter in model.parameters():
        parameter.data.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.15)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [write_reward_model(tmp_path_factory.mktemp("model"), seed) for seed in range(3)]


@pytest.fixture
def groups() -> list[RolloutGroup]:
    rollouts = tuple(
        Rollout(sample=i, ids=np.arange(3), logps=np.zeros(3, np.float32), finish=FinishReason.STOP, text=text)
        for i, text in enumerate(ANSWERS)
    )
    return [RolloutGroup(prompt=Prompt(uid=0, ids=np.arange(4), text=QUESTION), rollouts=rollouts)]


def backend(folder: Path) -> Any:
    from mindrlhf_grpo_torch import build

    return build(run_config(folder))


def test_scores_are_transformers_own_whichever_side_it_pads(folders: list[Path], groups: list[RolloutGroup]) -> None:
    folder = folders[0]
    scores = Scorer(ScorerSettings(model=str(folder), end="template"), backend(folder)).score(groups)
    own = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, pad_token="<|endoftext|>")
    own.config.pad_token_id = tokenizer.pad_token_id
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": answer}], tokenize=False
        )
        for answer in ANSWERS
    ]
    for side in ("left", "right"):
        tokenizer.padding_side = side
        inputs = tokenizer(texts, padding=True, add_special_tokens=False, return_tensors="pt")
        positions = inputs["attention_mask"].cumsum(1).sub(1).clamp_min(0)
        with torch.no_grad():
            expected = own(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], position_ids=positions
            ).logits[:, 0]
        assert np.abs(scores - expected.numpy()).max() < 1e-5


def test_of_several_reward_models_one_is_in_memory(folders: list[Path], groups: list[RolloutGroup]) -> None:
    made = backend(folders[0])
    live: list[weakref.ref[Any]] = []
    load = made.load_value_model

    def counted(*arguments: Any, **named: Any) -> Any:
        assert not any(weight() is not None for weight in live)
        model = load(*arguments, **named)
        live.extend(weakref.ref(weight) for weight in model.model.parameters())
        return model

    made.load_value_model = counted
    scorers = [Scorer(ScorerSettings(model=str(folder)), made) for folder in folders]
    first = [scorer.score(groups) for scorer in scorers]
    assert len(live) == 3 * 21
    assert not any(weight() is not None for weight in live)
    assert len({tuple(scores) for scores in first}) == 3
    assert all(np.array_equal(scorer.score(groups), scores) for scorer, scores in zip(scorers, first, strict=True))
