"""A user-defined reward model class: its inputs, and the outputs it may return."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.rewards.models.user_class import UserModel
from tests.support import tiny

torch = pytest.importorskip("torch")

SOURCE = """
import numpy as np
import torch

class Mean(torch.nn.Module):
    def __init__(self, path):
        super().__init__()
        self.path, self.scale = path, torch.nn.Parameter(torch.ones(()))

    def forward(self, input_ids, attention_mask, **kwargs):
        assert not self.training and input_ids.dtype == torch.int64
        return self.scale * (input_ids * attention_mask).sum(1) / attention_mask.sum(1)

class Mapped(Mean):
    def forward(self, input_ids, attention_mask, **kwargs):
        return {"score": super().forward(input_ids, attention_mask)[:, None].bfloat16().float()}

class Plain:
    def __call__(self, input_ids, attention_mask):
        return [float(row.sum()) for row in attention_mask]

class Few(Plain):
    def __call__(self, input_ids, attention_mask):
        return [1.0]

def function():
    pass
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("user")
    tiny.write_model(folder / "model")
    (folder / "mine.py").write_text(SOURCE)
    return folder


def ask(place: Path, name: str) -> list[float]:
    model = UserModel(f"{place / 'mine.py'}:{name}", path=str(place / "model"), batch=2)
    texts = ["0", "123", "1"]
    found = model.scores([[{"role": "user", "content": text}] for text in texts])
    model.release()
    np.testing.assert_array_equal(model.scores([[{"role": "user", "content": "0"}]]), found[:1])
    return found.tolist()


def test_tensors_of_its_framework_come_in_and_scores_or_a_mapping_come_out(place: Path):
    assert ask(place, "Mean") == [2.0, 4.0, 3.0]  # two special tokens come before the digits
    assert ask(place, "Mapped") == [2.0, 4.0, 3.0]
    assert ask(place, "Plain") == [1.0, 3.0, 1.0]


@pytest.mark.parametrize(
    ("name", "problem"),
    [("Few", "returned 1 numbers for 2"), ("function", "must be a class"), ("Mine", "has no function 'Mine'")],
)
def test_what_is_no_reward_model_is_said(place: Path, name: str, problem: str):
    with pytest.raises(ConfigError, match=problem):
        ask(place, name)


def test_the_policys_tokenizer_stands_in_for_a_missing_one(place: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="has no tokenizer"):
        UserModel(f"{place / 'mine.py'}:Plain", path=str(tmp_path)).scores([[{"role": "user", "content": "0"}]])
    model = UserModel(f"{place / 'mine.py'}:Plain", path=str(tmp_path), policy_folder=place / "model")
    assert model.scores([[{"role": "user", "content": "00"}]]).tolist() == [2.0]
