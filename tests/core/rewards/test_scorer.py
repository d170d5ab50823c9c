"""A reward model as a reward: template, pooling, squash, and the time its weights are in memory."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.config.offline import OfflineDataConfig
from mindrlhf_grpo.data.row_encoders import encode_pair
from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.model_files.safetensors import write_tensors
from mindrlhf_grpo.rewards.models.reward_model import Scorer, ScorerSettings
from mindrlhf_grpo.tokenizers.tokenizer import load_tokenizer
from mindrlhf_grpo.types import Batch, FinishReason, Prompt, Rollout, RolloutGroup
from tests.support.tiny_tokenizers import write_huggingface


class Values:
    """A value model whose value of a token is its id; it counts loads and live models."""

    def __init__(self, backend: Numbers) -> None:
        self.backend = backend
        self.live = False

    def values(self, batch: Batch) -> np.ndarray:
        if not self.live:
            self.live = True
            self.backend.loads += 1
            self.backend.live += 1
            self.backend.most = max(self.backend.most, self.backend.live)
        self.backend.batches.append(batch)
        return (batch.ids * batch.mask).astype(np.float32)

    def release(self) -> None:
        self.backend.live -= self.live
        self.live = False


class Numbers:
    """A backend with such models."""

    def __init__(self) -> None:
        self.loads = self.live = self.most = 0
        self.batches: list[Batch] = []
        self.asked: list[tuple[str, str]] = []

    def load_value_model(self, model: Any, train: Any, *, read_at: str) -> Values:
        self.asked.append((model.path, read_at))
        return Values(self)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer and a whole file of weights with a head, which is all that a scorer reads itself."""
    folder = write_huggingface(tmp_path_factory.mktemp("scorer"))
    (folder / "config.json").write_text("{}")
    write_tensors(folder / "model.safetensors", {"score.weight": np.ones((1, 4))})
    return folder


def group(text: str, *completions: str, ids: list[list[int]] | None = None) -> RolloutGroup:
    rows = ids or [[number + 1] for number in range(len(completions))]
    rollouts = [
        Rollout(
            sample=i, ids=np.array(row), logps=np.zeros(len(row), np.float32), finish=FinishReason.STOP, text=answer
        )
        for i, (row, answer) in enumerate(zip(rows, completions, strict=True))
    ]
    return RolloutGroup(prompt=Prompt(uid=0, ids=np.array([5, 6]), text=text), rollouts=tuple(rollouts))


GROUPS = [group("what is 12 + 34?", "it is 46.", "how many roads"), group("quick", "fox")]


def texts(folder: Path, batch: Batch) -> list[str]:
    """Return each row as text with special tokens."""
    tokenizer = load_tokenizer(str(folder))
    rows = [[*batch.prompts[m], *ids[:n]] for m, ids, n in zip(batch.prompt_of, batch.ids, batch.lengths, strict=True)]
    return ["".join(tokenizer.piece(int(token)) for token in row) for row in rows]


def test_prompt_and_completion_are_put_into_the_models_own_template(folder: Path) -> None:
    backend = Numbers()
    scores = Scorer(ScorerSettings(model=str(folder)), backend).score(GROUPS)
    (batch,) = backend.batches
    start = "<|im_start|>user\nwhat is 12 + 34?<|im_end|>\n<|im_start|>assistant\n"
    assert texts(folder, batch) == [
        f"{start}it is 46.<|im_end|>", f"{start}how many roads<|im_end|>",
        "<|im_start|>user\nquick<|im_end|>\n<|im_start|>assistant\nfox<|im_end|>",
    ]  # fmt: skip
    assert len(batch.prompts) == 2
    last = load_tokenizer(str(folder)).encode("<|im_end|>")[-1]
    assert scores.dtype == np.float64
    assert scores.tolist() == [last, last, last]
    assert backend.asked == [(str(folder), "token")]


def test_a_score_is_read_where_a_reward_model_is_trained(folder: Path) -> None:
    """With a template that writes a newline after the end token, the value would be read at the newline."""
    row = {"prompt": "quick", "chosen": "fox", "rejected": "how"}
    trained = encode_pair(row, OfflineDataConfig(source="x"), load_tokenizer(str(folder)))
    backend = Numbers()
    Scorer(ScorerSettings(model=str(folder)), backend).score(GROUPS[1:])
    (batch,) = backend.batches
    assert [*batch.prompts[0], *batch.ids[0]] == [*trained.prompt, *trained.completions[0].ids]
    Scorer(ScorerSettings(model=str(folder), end="template"), backend).score(GROUPS[1:])
    assert texts(folder, backend.batches[1]) == [
        "<|im_start|>user\nquick<|im_end|>\n<|im_start|>assistant\nfox<|im_end|>\n"
    ]


def test_without_a_template_the_texts_are_joined_and_cut_at_the_end(folder: Path) -> None:
    backend = Numbers()
    plain = {"model": str(folder), "chat_template": "none"}
    Scorer(ScorerSettings(**plain), backend).score(GROUPS)
    Scorer(ScorerSettings(**plain, end="template", max_tokens=2), backend).score(GROUPS)
    assert texts(folder, backend.batches[0])[0] == "what is 12 + 34?it is 46.<|im_end|>"
    assert [len(m) for m in backend.batches[1].prompts] == [1, 1]
    assert backend.batches[1].lengths.tolist() == [1, 1, 1]


def test_equal_tokenizers_let_ids_pass_as_they_are(folder: Path, tmp_path: Path) -> None:
    backend = Numbers()
    settings = ScorerSettings(model=str(folder), tokens="same")
    scores = Scorer(settings, backend, policy_tokenizer=folder).score([group("x", "a", "b", ids=[[7, 9], [4, 3, 8]])])
    assert scores.tolist() == [9.0, 8.0]
    assert [prompt.tolist() for prompt in backend.batches[0].prompts] == [[5, 6]]
    other = write_huggingface(tmp_path)
    (other / "tokenizer.json").write_text((other / "tokenizer.json").read_text() + " ")
    with pytest.raises(ConfigError, match=r"tokenizer\.json differs .* accepted: tokens: own"):
        Scorer(settings, backend, policy_tokenizer=other)
    with pytest.raises(ConfigError, match="needs the policy's tokenizer folder"):
        Scorer(settings, backend)


@pytest.mark.parametrize(
    ("squash", "sign", "expected"),
    [
        ("identity", 1, 2.0),
        ("identity", -1, -2.0),
        ("neg", 1, -2.0),
        ("sigmoid", 1, 0.880797),
        ("sigmoid", -1, 0.119203),
        ("sigmoid_neg", 1, 0.119203),
        ("sigmoid_neg", -1, 0.880797),
    ],
)
def test_sign_and_squash_of_the_sequences_number(folder: Path, squash: str, sign: int, expected: float) -> None:
    """The score is 2; a sigmoid of every token and of padding would add halves."""
    settings = ScorerSettings(model=str(folder), tokens="same", squash=squash, sign=sign)
    scorer = Scorer(settings, Numbers(), policy_tokenizer=folder)
    (score, _) = scorer.score([group("x", "a", "b", ids=[[9, 2], [1, 1, 1, 1, 1, 1]])])
    assert score == pytest.approx(expected, abs=1e-6)


def test_a_large_number_is_squashed_without_overflow(folder: Path) -> None:
    settings = ScorerSettings(model=str(folder), tokens="same", squash="sigmoid_neg")
    scorer = Scorer(settings, Numbers(), policy_tokenizer=folder)
    assert scorer.score([group("x", "a", ids=[[100000]])]).tolist() == [0.0]


def test_mean_pooling_is_over_the_tokens_after_the_prompt(folder: Path) -> None:
    settings = ScorerSettings(model=str(folder), tokens="same", pooling="mean")
    scorer = Scorer(settings, Numbers(), policy_tokenizer=folder)
    assert scorer.score([group("x", "a", "b", ids=[[3, 9], [1, 2, 3, 2]])]).tolist() == [6.0, 2.0]


def test_a_completion_without_tokens_is_not_applicable(folder: Path) -> None:
    settings = ScorerSettings(model=str(folder), tokens="same", squash="sigmoid")
    backend = Numbers()
    scorer = Scorer(settings, backend, policy_tokenizer=folder)
    empty, full = scorer.score([group("x", "", "b", ids=[[], [1]])])
    assert math.isnan(empty)
    assert full == pytest.approx(0.731059, abs=1e-6)
    assert np.isnan(scorer.score([group("x", "", ids=[[]])])).all()
    assert scorer.score([]).shape == (0,)


def test_several_scorers_never_live_at_once(folder: Path) -> None:
    backend = Numbers()
    scorers = [Scorer(ScorerSettings(model=str(folder)), backend) for _ in range(3)]
    assert backend.loads == 0
    for _ in range(2):
        for scorer in scorers:
            scorer.score(GROUPS)
    assert (backend.loads, backend.live, backend.most) == (6, 0, 1)
    kept = Scorer(ScorerSettings(model=str(folder), keep=True), backend)
    kept.score(GROUPS)
    kept.score(GROUPS)
    assert (backend.loads, backend.live) == (7, 1)
    kept.close()
    assert backend.live == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"squash": "tanh"}, "squash is 'tanh'; accepted: identity, sigmoid, neg, sigmoid_neg"),
        ({"pooling": "first"}, "pooling is 'first'; accepted: last, mean"),
        ({"sign": 2}, "sign is 2; accepted: 1, -1"),
        ({"max_tokens": -1}, "max_tokens -1 must not be negative"),
    ],
)
def test_wrong_settings_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ScorerSettings(model="x", **values)
