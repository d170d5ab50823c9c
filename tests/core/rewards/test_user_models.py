"""A user-defined reward model class: its inputs, and the outputs it may return."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mindrlhf_grpo.errors import ConfigError, RunFailed
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

class Reads(torch.nn.Module):
    built = []

    def __init__(self):
        super().__init__()
        self.built.append(1)
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, input_ids, attention_mask, *, labels, gold):
        assert not torch.is_grad_enabled()
        return [float(label == wanted) for label, wanted in zip(labels, gold)]

class All(Reads):
    def forward(self, input_ids, attention_mask, **kwargs):
        return [float(len(kwargs)) for _ in kwargs["prompts"]]

class Raises(Reads):
    def forward(self, input_ids, attention_mask):
        raise torch.OutOfMemoryError("CUDA out of memory")

class NeedsConfig(Reads):
    def __init__(self, config):
        super().__init__()

class Nan(Reads):
    def forward(self, input_ids, attention_mask):
        return torch.where(attention_mask.sum(1) > 1, self.weight * float("nan"), 1.0)

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


def scores_of(place: Path, name: str, texts: list[str], **columns: list[object]) -> list[float]:
    model = UserModel(f"{place / 'mine.py'}:{name}", path=str(place / "model"), batch=2)
    return model.scores([[{"role": "user", "content": text}] for text in texts], columns).tolist()


def test_a_class_computes_without_gradients_and_reads_the_columns_that_it_names(place: Path):
    """Finding F10: gradients were on, and kwargs empty."""
    columns = {"prompts": ["p"] * 3, "labels": ["a", "b", "c"], "gold": ["a", "b", "d"], "other": [1, 2, 3]}
    assert scores_of(place, "Reads", ["0", "1", "2"], **columns) == [1.0, 1.0, 0.0]
    assert scores_of(place, "All", ["0", "1", "2"], **columns) == [4.0, 4.0, 4.0]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("Raises", r"'.*mine.py:Raises' failed: OutOfMemoryError: CUDA out of memory \(.*mine.py:40\)"),
        ("NeedsConfig", r"failed: TypeError: .*missing 1 required positional argument: 'config'"),
    ],
)
def test_a_class_that_raises_ends_the_run_with_its_line(place: Path, name: str, problem: str):
    """Finding F1: out of memory, or a constructor that wants a config, trained on zeros."""
    with pytest.raises(RunFailed, match=problem):
        scores_of(place, name, ["0"])


def test_a_number_that_is_not_finite_is_told_and_all_of_them_end_the_run(place: Path):
    """Finding F11: NaN of a custom reward model counted as not applicable, unseen."""
    some = scores_of(place, "Nan", ["0", "123"])
    assert some[0] == 1.0
    assert np.isnan(some[1])
    with pytest.raises(RunFailed, match=r"gave none of 2 completions a finite number: the first got nan"):
        scores_of(place, "Nan", ["12", "123"])


def test_a_class_without_its_file_is_told_how_it_is_written():
    """Finding F11: the seed's own form, a bare name, was answered with an empty module name."""
    with pytest.raises(ConfigError, match=r"'MyCustomRM' names no file; it is written file.py:MyCustomRM"):
        UserModel("MyCustomRM", path="anywhere")


def test_the_policys_tokenizer_stands_in_for_a_missing_one(place: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="has no tokenizer"):
        UserModel(f"{place / 'mine.py'}:Plain", path=str(tmp_path)).scores([[{"role": "user", "content": "0"}]])
    model = UserModel(f"{place / 'mine.py'}:Plain", path=str(tmp_path), policy_folder=place / "model")
    assert model.scores([[{"role": "user", "content": "00"}]]).tolist() == [2.0]
