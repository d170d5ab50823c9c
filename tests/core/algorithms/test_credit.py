"""Credit assignment: whichever ranks hold the rows, every token gets the same advantage and weight."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.algorithms.completion_table import CompletionTable
from mindrlhf_grpo.algorithms.credit import Credit, CreditRules, TokenTensors, assign_credit
from mindrlhf_grpo.algorithms.plan import resolve
from mindrlhf_grpo.config.algorithm import AlgorithmConfig, ScalingConfig
from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.rewards import RewardTable

# Two prompts with three completions each; the last one is not trained (its mask is 0).
LENGTHS = np.array([3, 1, 2, 2, 3, 1])
ROWS = np.arange(6)
KL_COEF = 0.5


def alone(item: Any) -> list[Any]:
    """The gather of a single rank."""
    return [item]


def table(items: int = 1) -> CompletionTable:
    values = np.random.default_rng(3).normal(size=(6, 2, items)).round(2)
    return CompletionTable(
        rewards=RewardTable(names=("a", "b"), weights=np.array([1.0, 0.5]), values=values),
        prompt=np.array([0, 0, 0, 1, 1, 1]),
        lengths=LENGTHS,
        sampled=LENGTHS,
        truncated=np.zeros(6, bool),
        baselines=np.array([0.1, 0.1, 0.1, 0.4, 0.4, 0.4]),
    )


def tokens() -> TokenTensors:
    """Token tensors of all rows."""
    draw = np.random.default_rng(4)
    mask = (np.arange(3)[None, :] < LENGTHS[:, None]).astype(np.float32)
    mask[5] = 0

    def logps() -> np.ndarray:
        return (-draw.exponential(size=(6, 3)) * (mask + 0.1)).astype(np.float32)

    return TokenTensors(
        lengths=LENGTHS,
        mask=mask,
        rollout_logps=logps(),
        old_logps=logps(),
        ref_logps=logps(),
        entropies=draw.exponential(size=(6, 3)).astype(np.float32),
        values=draw.normal(size=(6, 3)).astype(np.float32),
    )


def rules(algorithm: dict[str, Any], updates: int = 1) -> CreditRules:
    config = AlgorithmConfig.model_validate(algorithm)
    return CreditRules(plan=resolve(config), updates_per_batch=updates, max_tokens=4, scaling=config.scaling)


def needed(of: TokenTensors, settings: CreditRules) -> TokenTensors:
    """Without the tensors that a run of these settings does not compute."""
    plan = settings.plan
    absent: dict[str, Any] = {}
    if plan.top_fraction == 1:
        absent["entropies"] = None
    if "critic" not in plan.needs:
        absent["values"] = None
    if "old_logps" not in plan.needs:
        absent |= {"old_logps": None, "entropies": None}
    return replace(of, **absent)


def take(of: TokenTensors, rows: slice) -> TokenTensors:
    arrays = {spec.name: getattr(of, spec.name) for spec in fields(of)}
    return TokenTensors(**{name: None if array is None else array[rows] for name, array in arrays.items()})


def ranked(settings: CreditRules, parts: list[slice]) -> list[Credit]:
    """The credit of each rank, the ranks being threads that meet where they gather."""
    meeting, items = threading.Barrier(len(parts)), [None] * len(parts)
    credits: list[Any] = [None] * len(parts)

    def gather_of(rank: int) -> Callable[[Any], list[Any]]:
        def gather(item: Any) -> list[Any]:
            items[rank] = item
            meeting.wait(60)
            everything = list(items)
            meeting.wait(60)
            return everything

        return gather

    def run(rank: int) -> None:
        local = needed(take(tokens(), parts[rank]), settings)
        try:
            credits[rank] = assign_credit(
                settings, table(), parts[rank], local, kl_coef=KL_COEF, gather=gather_of(rank)
            )
        except BaseException:
            meeting.abort()
            raise

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(parts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert None not in credits
    return credits


SETTINGS: dict[str, dict[str, Any]] = {
    "same advantage for all tokens": {"name": "grpo"},
    "two optimizer steps": {"name": "grpo", "updates_per_batch": 2},
    "greedy baseline": {"name": "remax"},
    "whitened returns": {"name": "reinforce_pp", "returns": {"whiten": True}},
    "critic and KL in the reward": {"name": "ppo", "kl_coef": 0.1, "kl_in": "reward", "kl_estimator": "k1"},
    "entropy filter on the advantages": {"name": "grpo", "entropy": {"top_fraction": 0.4, "count": "all"}},
    "entropy filter on the mask": {"name": "grpo", "entropy": {"top_fraction": 0.4, "count": "kept"}},
    "correction": {"name": "grpo", "correction": {"level": "sequence", "mode": "truncate", "high": 1.5}},
    "scaled advantages": {"name": "grpo", "scaling": {"whiten": True, "advantage_clip": 1.0}},
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("cuts", [(3,), (1, 5), (0, 2, 4)])
def test_the_credit_of_a_row_does_not_depend_on_the_ranks(name: str, cuts: tuple[int, ...]) -> None:
    settings = rules(SETTINGS[name], SETTINGS[name].get("updates_per_batch", 1))
    whole = assign_credit(settings, table(), slice(0, 6), needed(tokens(), settings), kl_coef=KL_COEF, gather=alone)
    edges = [0, *cuts, 6]
    ranks = ranked(settings, [slice(first, last) for first, last in pairwise(edges)])
    for field in ("mask", "weights", "chunk_of"):
        np.testing.assert_array_equal(np.concatenate([getattr(rank, field) for rank in ranks]), getattr(whole, field))
    joined = np.concatenate([rank.advantages for rank in ranks])
    np.testing.assert_allclose(joined, whole.advantages, rtol=1e-6, atol=1e-7)
    for tensor in whole.tensors:
        np.testing.assert_array_equal(np.concatenate([rank.tensors[tensor] for rank in ranks]), whole.tensors[tensor])
    for rank in ranks:
        assert rank.trained_tokens == whole.trained_tokens
        assert rank.metrics == pytest.approx(whole.metrics, rel=1e-12)
        if whole.kl is not None:
            np.testing.assert_array_equal(rank.kl, whole.kl)


def credit_of(algorithm: dict[str, Any], of: TokenTensors | None = None, *, items: int = 1) -> Credit:
    settings = rules(algorithm, algorithm.get("updates_per_batch", 1))
    local = needed(tokens(), settings) if of is None else of
    return assign_credit(settings, table(items), slice(0, 6), local, kl_coef=KL_COEF, gather=alone)


def test_every_token_of_a_completion_gets_its_advantage_and_untrained_rows_weigh_nothing() -> None:
    credit = credit_of({"name": "dr_grpo"})
    total = table().rewards.total()[:, 0]
    expected = total - np.repeat(total.reshape(2, 3).mean(axis=1), 3)
    inside = np.arange(3)[None, :] < LENGTHS[:, None]
    np.testing.assert_allclose(credit.advantages, expected[:, None] * inside, rtol=1e-6)
    assert credit.weights[5].tolist() == [0, 0, 0]
    assert credit.trained_tokens == (11,)
    assert (credit.tensors, credit.kl, credit.metrics) == ({}, None, {})


def test_each_optimizer_step_has_denominators_of_its_own() -> None:
    credit = credit_of({"name": "grpo", "updates_per_batch": 2, "aggregation": "token_mean"})
    assert credit.chunk_of.tolist() == [0, 0, 0, 1, 1, 1]
    assert credit.trained_tokens == (6, 5)
    np.testing.assert_allclose(credit.weights.sum(axis=1), [3 / 6, 1 / 6, 2 / 6, 2 / 5, 3 / 5, 0], rtol=1e-6)


def test_the_most_uncertain_tokens_of_the_batch_are_selected() -> None:
    most = np.sort(tokens().entropies[tokens().mask > 0])[-4:]
    selected = tokens().mask * (tokens().entropies >= most[0])
    narrowed = credit_of({"name": "grpo", "entropy": {"top_fraction": 0.3, "count": "kept"}})
    np.testing.assert_array_equal(narrowed.mask, selected)
    assert narrowed.trained_tokens == (4,)
    kept_denominators = credit_of({"name": "grpo", "entropy": {"top_fraction": 0.3, "count": "all"}})
    np.testing.assert_array_equal(kept_denominators.mask, tokens().mask)
    assert kept_denominators.trained_tokens == (11,)
    assert (kept_denominators.advantages[(tokens().mask > 0) & (selected == 0)] == 0).all()


def test_items_get_their_own_advantage_and_tokens_outside_get_the_bonus_alone() -> None:
    segments = np.where(tokens().mask > 0, np.array([[0, 1, 2]]), -1).astype(np.int32)  # item 2 is past the last one
    bonus = np.full((6, 3), 0.25, np.float32)
    settings = {"name": "rank_grpo"}
    local = replace(needed(tokens(), rules(settings)), segments=segments, bonus=bonus)
    credit = credit_of(settings, local, items=2)
    plan = rules(settings).plan
    rewards = table(2).rewards
    scores = plan.advantages(rewards.values, rewards.weights, table(2).prompt, LENGTHS)
    assert credit.advantages[0].tolist() == pytest.approx([scores[0, 0] + 0.25, scores[0, 1] + 0.25, 0.25], rel=1e-6)
    assert credit.advantages[5].tolist() == [0.25, 0.25, 0.25]


def test_rewards_per_item_are_refused_by_an_algorithm_of_token_returns() -> None:
    with pytest.raises(ConfigError, match=r"'reinforce_pp' takes one reward per completion, but .* each of 2 items"):
        credit_of({"name": "reinforce_pp"}, items=2)


def test_scaling_settings_reach_the_advantages() -> None:
    credit = credit_of({"name": "grpo", "scaling": ScalingConfig(advantage_clip=0.5).model_dump()})
    assert np.abs(credit.advantages).max() == 0.5
    assert 0 < credit.metrics["advantage/clipped_frac"] < 1
