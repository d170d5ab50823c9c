"""Math accuracy by math-verify, and reasoning-gym tasks by their own verifiers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from mindrlhf_grpo.config.run import RewardConfig
from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.rewards import Rewards
from mindrlhf_grpo.rewards import resolve as resolve_module
from mindrlhf_grpo.rewards.builtin.math_accuracy import math_accuracy
from mindrlhf_grpo.rewards.builtin.reasoning_gym import reasoning_gym

Score = Callable[..., Any]

CASES = [
    (r"\boxed{\frac{1}{2}}", r"\frac12", 1),
    (r"\boxed{0.5}", r"$\frac{1}{2}$", 1),
    (r"so $x^2+2x+1$ is it: \boxed{(x+1)^2}", "x^2+2x+1", 1),
    (r"\boxed{3} is wrong. It must be \boxed{4}", "4", 1),
    (r"\boxed{3} and \boxed{4}", "4", 1),  # the last of several boxes counts
    (r"\boxed{3} and \boxed{4}", "3", 0),
    (r"\boxed{3} and \boxed{4}", r"\{3, 4\}", 1),
    ("The answer is 42.", "42", 1),
    ("42", 42, 1),
    ("1,234", "1234", 1),
    ("72", "48 + 24 = 72 clips\n#### 72", 1),
    (r"\boxed{7}", r"Thus \boxed{7}", 1),
    (r"\boxed{\frac{1}{3}}", r"\frac12", 0),
    ("-3", "3", 0),
    ("I do not know", "3", 0),
    ("", "3", 0),
]


def test_math_accuracy_compares_expressions(score: Score):
    completions, answers, expected = (list(column) for column in zip(*CASES, strict=True))
    assert score(math_accuracy, completions, {"answer": answers}) == expected


def test_math_accuracy_reads_the_named_column(score: Score):
    assert score(math_accuracy, ["3"], {"answer": ["4"], "gold": ["3"], "column": "gold"}) == [1]


def test_math_accuracy_in_a_tag_ignores_the_thought(score: Score):
    texts = [r"<think>\boxed{3}</think><answer>4</answer>", r"\boxed{4}"]
    assert score(math_accuracy, texts, {"answer": ["4", "4"], "tag": "answer"}) == [1, 0]


def test_a_row_without_reference_is_not_applicable(score: Score):
    assert score(math_accuracy, ["3"], {"solution": [None]}) == [None]


def test_a_reference_that_is_no_mathematics_fails_that_sample_only(score: Score):
    first, second = score(math_accuracy, ["3", "3"], {"answer": ["", "3"]})
    assert "the reference answer '' cannot be read as mathematics" in str(first)
    assert second == 1


def test_math_accuracy_works_outside_the_main_thread(score: Score):
    found = []
    thread = threading.Thread(target=lambda: found.append(score(math_accuracy, ["3"], {"answer": ["3"]})))
    thread.start()
    thread.join()
    assert found == [[1]]


def test_math_accuracy_in_a_process_stops_a_computation_without_end(group: Callable[..., Any]):
    config = RewardConfig(function="math_accuracy", timeout=2, on_failure=-1)
    endless = r"\boxed{9^{9^{9^{9}}}}"
    with Rewards([config]) as rewards:
        table = rewards.score([group([r"\boxed{3}", endless, "4"], answer="3")])
    assert table.values[[0, 2], 0, 0].tolist() == [1, 0]
    assert table.values[1, 0, 0] in (-1, 0)  # killed, or math-verify saw that it is hopeless


def test_very_long_completions_are_verified_within_seconds(score: Score):
    start = time.process_time()
    hostile = ["$" * 50_000, "1 + 2 = 3. " * 5_000, r"\boxed{" * 5_000, "(" * 50_000]
    assert len(score(math_accuracy, hostile, {"answer": ["7"] * 4})) == 4
    assert time.process_time() - start < 60  # about 1


def test_a_library_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(resolve_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the library reasoning_gym: pip install 'mindrlhf-grpo\[tasks\]'"):
        Rewards([RewardConfig(function="reasoning_gym")])


@pytest.fixture(scope="module")
def chain_sum() -> Any:
    library = pytest.importorskip("reasoning_gym")
    return library.create_dataset("chain_sum", size=2, seed=1)[0]


def test_reasoning_gym_asks_the_verifier_of_the_task(score: Score, chain_sum: Any):
    right = chain_sum["answer"]
    texts = [right, "no idea", f"<answer>{right}</answer>"]
    columns = {"task": ["chain_sum"] * 3, "entry": [chain_sum] * 3}
    assert score(reasoning_gym, texts, columns)[0] == 1.0
    assert score(reasoning_gym, texts, columns)[1] < 0.1
    assert score(reasoning_gym, texts, {**columns, "tag": "answer"}) == [0.0, 0.0, 1.0]


def test_a_reasoning_gym_entry_may_be_json(score: Score, chain_sum: Any):
    columns = {"task": ["chain_sum"], "entry": [json.dumps(chain_sum)]}
    assert score(reasoning_gym, [chain_sum["answer"]], columns) == [1.0]


def test_rows_of_no_task_are_not_applicable(score: Score):
    assert score(reasoning_gym, ["1"], {"task": [None], "entry": [None]}) == [None]
