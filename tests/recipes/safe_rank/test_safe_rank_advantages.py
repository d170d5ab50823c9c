"""Advantages by rank: golden numbers of both modes, what each ignores, and penalties that stay at their rank."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.advantages import to_tokens
from mindrlhf_grpo.algorithms.online.rank_grpo import ItemPolicyLoss
from mindrlhf_grpo.algorithms.plan import resolve
from mindrlhf_grpo.config.algorithm import AlgorithmConfig
from mindrlhf_grpo.recipes.safe_rank import rewards
from mindrlhf_grpo.recipes.safe_rank.spans import ranks

FOUR = np.zeros(4, np.int64)
RELEVANCE, SAFETY = (1.0, 0.0, 1.0, 0.0), (0.0, 0.0, -0.1, -0.1)
TWO = np.stack([RELEVANCE, SAFETY], axis=1)[:, :, None]


def advantages(mode: str, values: np.ndarray, groups: np.ndarray = FOUR) -> np.ndarray:
    """Return the advantages of rewards ``[N, F, K]`` in a mode with its defaults."""
    return resolve(AlgorithmConfig(name=mode)).advantages(values, np.ones(values.shape[1]), groups)


@pytest.mark.row("safe_rank", "grpo/gdpo", backend="none")
@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("grpo", [0.94774, -0.77542, 0.77542, -0.94774]),
        ("gdpo", [1.22466, -0.00096, 0.00096, -1.22466]),
    ],
)
def test_golden_numbers(mode: str, expected: list[float]) -> None:
    np.testing.assert_allclose(advantages(mode, TWO).ravel(), expected, rtol=0, atol=1e-5)


def random_rewards() -> tuple[np.ndarray, np.ndarray]:
    """Two components by six ranks of three prompts with four lists each; the last ranks are empty."""
    draw = np.random.default_rng(1)
    values = np.stack(
        [draw.integers(0, 2, size=(12, 6)).astype(float), -draw.integers(0, 2, size=(12, 6)).astype(float)], axis=1
    )
    values[:, :, 4:] = 0.0
    return values, np.repeat([0, 1, 2], 4)


@pytest.mark.row("safe_rank", "grpo/gdpo", backend="none")
def test_grpo_is_the_plain_loop_over_prompts_and_ranks() -> None:
    values, groups = random_rewards()
    expected = np.zeros((12, 6))
    for prompt in range(3):
        for rank in range(6):
            total = [values[row, 0, rank] + values[row, 1, rank] for row in range(12) if groups[row] == prompt]
            mean = sum(total) / 4
            std = (sum((one - mean) ** 2 for one in total) / 3) ** 0.5
            expected[groups == prompt, rank] = [(one - mean) / (std + 1e-4) for one in total]
    np.testing.assert_allclose(advantages("grpo", values, groups), expected, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(advantages("rank_grpo", values, groups), advantages("grpo", values, groups))


@pytest.mark.row("safe_rank", "grpo/gdpo", backend="none")
def test_gdpo_is_normalised_once_over_all_completions_and_ranks() -> None:
    """Empty ranks take part in the statistics; where no reward differs, the advantage is 0 without a mask."""
    values, groups = random_rewards()
    found = advantages("gdpo", values, groups)
    z = np.zeros((12, 6))
    for part in range(2):
        for prompt in range(3):
            own = values[groups == prompt, part]
            z[groups == prompt] += (own - own.mean(axis=0)) / (own.std(axis=0, ddof=1) + 1e-4)
    np.testing.assert_allclose(found, (z - z.mean()) / (z.std(ddof=1) + 1e-4), rtol=0, atol=1e-12)
    assert np.abs(found[:, 4:]).max() < 1e-15


@pytest.mark.row("safe_rank", "grpo/gdpo", backend="none")
def test_gdpo_does_not_see_lambda_and_grpo_does() -> None:
    values, groups = random_rewards()
    scaled = values * np.array([1.0, 100.0])[None, :, None]
    np.testing.assert_allclose(
        advantages("gdpo", scaled, groups), advantages("gdpo", values, groups), rtol=0, atol=1e-3
    )
    assert np.abs(advantages("grpo", scaled, groups) - advantages("grpo", values, groups)).max() > 0.1


@pytest.mark.row("safe_rank", "grpo/gdpo", backend="none")
def test_a_reward_for_the_whole_list_counts_at_every_rank() -> None:
    from mindrlhf_grpo.rewards import RewardTable

    table = RewardTable.stack(
        [("safety", 1.0, np.zeros((4, 3))), ("format", 2.0, np.array([[1.0], [0.0], [0.0], [1.0]]))]
    )
    assert table.total().tolist() == [[2.0] * 3, [0.0] * 3, [0.0] * 3, [2.0] * 3]
    np.testing.assert_allclose(
        resolve(AlgorithmConfig(name="grpo")).advantages(table.values, table.weights, FOUR)[0],
        [0.86595] * 3,
        rtol=0,
        atol=1e-5,
    )


LISTS = [
    ["A (1990)", "\n", "B (1991)", "\n\n", "C (1992)", "\n", ""],
    ["Sure:\n", "B (1991)", "\n", "A (1990)", ")\nD (", "1993)", ""],
    ["A (1990)\n", "D (1993)", "\n", "B (1991)", "\n", "C (1992)", ""],
]  # the last piece of each is the end token


def tokens_of_lists(penalised: bool) -> tuple[np.ndarray, np.ndarray]:
    """Advantages of the tokens of three lists ``[3, 7]``, with a film at the first list's third rank unsafe or not."""
    from mindrlhf_grpo.recipes.safe_rank.oracle import SafetyOracle
    from mindrlhf_grpo.recipes.safe_rank.titles import lookup_key

    gore = "Anti-gore / squeamish"
    oracle = SafetyOracle(risks={"1": {gore: 0.9 if penalised else 0.1}}, titles={(lookup_key("C"), 1992): "1"})
    catalog = {(title, 1990 + number) for number, title in enumerate("ABCD")}
    function = rewards.make_safe_reward_func(3, catalog, oracle, form="gain")
    texts = ["".join(pieces) for pieces in LISTS]
    values = np.asarray(function(texts, [[["A", 1990], ["C", 1992]]] * 3, None, [{gore: True}] * 3))[:, None, :]
    found = [
        ranks(text, np.cumsum([len(piece) for piece in pieces]).tolist(), True, 3)
        for text, pieces in zip(texts, LISTS, strict=True)
    ]
    items = np.array([own for own, _ in found], np.int32)
    scores = advantages("grpo", values, np.zeros(3, np.int64))
    spread = to_tokens(scores, np.full(3, 7), 7, np.where(items < 3, items, -1))
    return spread + np.array([extra for _, extra in found], np.float32), items


@pytest.mark.row("safe_rank", "Locality")
@pytest.mark.row("safe_rank", "Spans")
def test_a_penalty_at_the_third_rank_leaves_the_first_two_alone_bit_for_bit() -> None:
    """Return the advantages of their tokens and the gradients of the logits there, without KL."""
    torch = pytest.importorskip("torch")
    from mindrlhf_grpo_torch import xp

    draw = np.random.default_rng(3)
    start, old = draw.normal(size=(3, 7, 11)), draw.normal(scale=0.1, size=(3, 7)) - np.log(11)
    ids = torch.tensor(draw.integers(0, 11, size=(3, 7)))
    loss = ItemPolicyLoss(items=3)

    def gradient(of_tokens: np.ndarray, items: np.ndarray) -> np.ndarray:
        logits = torch.tensor(start, dtype=torch.float32, requires_grad=True)
        logps = torch.log_softmax(logits, dim=-1).gather(2, ids[..., None])[..., 0]
        ones = np.ones((3, 7), np.float32)
        arrays: dict[str, Any] = {"mask": ones, "weights": ones / 21, "advantages": of_tokens, "old_logps": old}
        tensors = {name: torch.tensor(array, dtype=torch.float32) for name, array in arrays.items()}
        loss(xp, logps, {**tensors, "segments": torch.tensor(items)})[0].backward()
        slopes: np.ndarray = logits.grad.numpy()
        return slopes

    (before, items), (after, same) = tokens_of_lists(False), tokens_of_lists(True)
    np.testing.assert_array_equal(items, same)
    assert items.tolist() == [[0, 0, 1, 1, 2, 2, 4], [-1, 0, 0, 1, 1, 2, 4], [0, 1, 1, 2, 2, 3, 4]]
    slopes, moved = gradient(before, items), gradient(after, items)
    elsewhere = items != 2
    np.testing.assert_array_equal(before[elsewhere], after[elsewhere])
    np.testing.assert_array_equal(slopes[elsewhere], moved[elsewhere])
    assert np.abs(slopes[items < 2]).max() > 0
    assert (before[items == 2] != after[items == 2]).any()
    assert (slopes[items == 2] != moved[items == 2]).any()


@pytest.mark.row("safe_rank", "Locality", backend="none")
def test_overflow_and_the_end_token_have_ratios_of_their_own() -> None:
    from mindrlhf_grpo.losses.xp import NUMPY

    log_ratio = np.log([[2.0, 4.0, 3.0, 27.0, 5.0, 7.0]])
    tensors = {"mask": np.ones((1, 6)), "segments": np.array([[0, 0, 2, 2, 3, -1]])}
    found = ItemPolicyLoss(items=2).ratio(NUMPY, log_ratio, np.zeros((1, 6)), tensors)
    np.testing.assert_allclose(found, [[8**0.5, 8**0.5, 9.0, 9.0, 5.0, 7.0]], rtol=1e-12)
