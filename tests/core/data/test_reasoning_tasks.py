from __future__ import annotations

import pytest

from mindrlhf_grpo.data.sources import read_rows
from mindrlhf_grpo.errors import DataError

reasoning_gym = pytest.importorskip("reasoning_gym")


def prompts(**arguments: object) -> list[str]:
    rows = read_rows({"name": "reasoning_gym:chain_sum", **arguments})
    return [rows[i]["prompt"] for i in range(len(rows))]


def test_rows_carry_what_a_reward_needs_to_score() -> None:
    row = read_rows({"name": "reasoning_gym:chain_sum", "size": 3, "seed": 1})[0]
    assert set(row) == {"prompt", "answer", "metadata", "task", "entry"}
    score = reasoning_gym.get_score_answer_fn(row["task"])
    assert score(row["answer"], row["entry"]) == 1.0
    assert score("nothing", row["entry"]) < 1.0


def test_rows_depend_on_the_seed_alone() -> None:
    assert prompts(size=20, seed=5) == prompts(size=30, seed=5)[:20]
    assert prompts(size=20) == prompts(size=20, seed=0)


def test_neighbouring_seeds_share_no_rows() -> None:
    """With reasoning-gym's own seeds, 49 of these 50 long sums would be the same problems."""
    long = {"min_terms": 5, "max_terms": 6, "min_digits": 3, "size": 50}
    assert not set(prompts(seed=1, **long)) & set(prompts(seed=2, **long))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("reasoning_gym:chain_sm", r"task 'chain_sm' is unknown \(did you mean 'chain_sum'\?\)"),
        (
            {"name": "reasoning_gym:chain_sum", "max_term": 3},
            r"setting 'max_term' is unknown \(did you mean 'max_terms'\?\)",
        ),
        ({"name": "reasoning_gym:chain_sum", "min_terms": 5, "max_terms": 2}, "refuses"),
        ({"name": "reasoning_gym:chain_sum", "size": "many"}, "refuses"),
        ({"name": "reasoning_gym:chain_sum", "seed": "x"}, "seed 'x' is no whole number"),
    ],
)
def test_wrong_settings(source: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_rows(source)


def test_a_task_that_differs_between_processes_needs_a_fixed_hash_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    with pytest.raises(DataError, match="gives other rows in every process; start with PYTHONHASHSEED=0"):
        read_rows("reasoning_gym:ransom_note")
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    assert len(read_rows({"name": "reasoning_gym:ransom_note", "size": 3})) == 3
