"""Names and presets: what each sets, what wins over what, and what is refused."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.algorithms.online.gdpo import gdpo
from mindrlhf_grpo.algorithms.online.grpo import grpo
from mindrlhf_grpo.algorithms.plan import resolve
from mindrlhf_grpo.algorithms.presets import PRESETS
from mindrlhf_grpo.algorithms.registry import ALGORITHMS, POLICY_LOSSES
from mindrlhf_grpo.config.run import AlgorithmConfig
from mindrlhf_grpo.errors import ConfigError, UserError
from mindrlhf_grpo.losses import PolicyLoss


def plan(**keys: Any) -> Any:
    return resolve(AlgorithmConfig(**keys))


def settings(**keys: Any) -> dict[str, Any]:
    filled = plan(**keys).settings
    return {field.name: getattr(filled, field.name) for field in fields(filled)}


DEFAULT = {
    "adv_eps": 1e-4, "std_ddof": 1, "clip_low": 0.2, "clip_high": 0.2, "dual_clip": 0.0, "aggregation": "token_mean",
    "kl_coef": 0.0, "kl_estimator": "k3", "kl_in": "loss", "log_ratio_clamp": 0.0, "kl_clamp": 0.0,
    "count_masked_rows": False, "whitening": "samples", "token_whitening": "verl",
}  # fmt: skip


@pytest.mark.parametrize(
    ("preset", "differs"),
    [
        (None, {}),
        ("trl", {"count_masked_rows": True}),
        ("verl", {"adv_eps": 1e-6, "dual_clip": 3.0, "log_ratio_clamp": 20.0, "kl_clamp": 10.0, "whitening": "tokens"}),
        (
            "openrlhf",
            {
                "adv_eps": 1e-9, "kl_coef": 0.01, "kl_estimator": "k1", "kl_in": "reward", "log_ratio_clamp": 20.0,
                "kl_clamp": 10.0, "token_whitening": "openrlhf",
            },
        ),
        ("mindrlhf", {"adv_eps": 1e-6, "aggregation": "sequence_mean", "kl_coef": 0.01}),
        (
            "lightrft",
            {
                "adv_eps": 1e-9, "aggregation": "sequence_mean", "kl_coef": 0.01, "kl_estimator": "k1",
                "kl_in": "reward", "kl_clamp": 10.0,
            },
        ),
    ],
)  # fmt: skip
def test_preset_sets_the_peers_numbers(preset: str | None, differs: dict[str, Any]) -> None:
    assert settings(preset=preset) == DEFAULT | differs


def test_explicit_keys_win_over_the_preset() -> None:
    got = settings(preset="openrlhf", adv_eps=1e-3, kl_in="loss", kl_coef=0.5, std_ddof=0, dual_clip=2.0)
    assert (got["adv_eps"], got["kl_in"], got["kl_coef"], got["std_ddof"], got["dual_clip"]) == (
        1e-3, "loss", 0.5, 0, 2.0,
    )  # fmt: skip
    assert settings(preset="openrlhf", kl_coef=0)["kl_coef"] == 0
    assert settings(preset="verl", dual_clip=0)["dual_clip"] == 0
    assert settings(preset="mindrlhf", aggregation="token_mean")["aggregation"] == "token_mean"


def test_clip_high_follows_clip_low_where_the_peer_has_one_epsilon() -> None:
    assert settings(clip_low=0.1)["clip_high"] == 0.1
    assert settings(preset="trl", clip_low=0.1)["clip_high"] == 0.1
    assert settings(preset="verl", clip_low=0.1)["clip_high"] == 0.2
    assert settings(preset="trl", clip_low=0.1, clip_high=0.28)["clip_high"] == 0.28


def test_verl_clamps_only_its_k3() -> None:
    assert settings(preset="verl", kl_estimator="k1")["kl_clamp"] == 0
    assert settings(preset="lightrft", kl_estimator="k2")["kl_clamp"] == 10


def test_dr_grpo_has_a_constant_denominator_under_every_preset() -> None:
    for preset in (None, *PRESETS):
        assert settings(name="dr_grpo", preset=preset)["aggregation"] == "constant"
    assert settings(name="dr_grpo", aggregation="token_mean")["aggregation"] == "token_mean"


def test_loss_gets_the_settings() -> None:
    assert plan(preset="verl", kl_coef=0.001).loss == PolicyLoss(
        clip_low=0.2,
        clip_high=0.2,
        dual_clip=3.0,
        kl_coef=0.001,
        kl_estimator="k3",
        log_ratio_clamp=20.0,
        kl_clamp=10.0,
    )
    assert plan(preset="openrlhf").loss.kl_coef == 0


def test_needs() -> None:
    assert plan().needs == frozenset()
    assert plan(kl_coef=0.1).needs == {"reference"}
    assert plan(kl_coef=0.1, kl_in="reward").needs == {"reference", "old_logps"}
    assert plan(inner_epochs=2).needs == {"old_logps"}
    assert plan(updates_per_batch=2).needs == {"old_logps"}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"name": "gpro"}, "algorithm.name 'gpro' is unknown.*did you mean 'grpo'"),
        ({"name": "dr.grpo"}, "did you mean 'dr_grpo'"),
        (
            {"name": "zzz"},
            f"there are {', '.join(ALGORITHMS)}$",
        ),
        ({"preset": "open-rlhf"}, "algorithm.preset 'open-rlhf' is unknown.*did you mean 'openrlhf'"),
        ({"dual_clip": 0.5}, "algorithm.dual_clip is 0.5: it must be above 1, or 0 for off"),
        ({"loss": "cisppo"}, "algorithm.loss 'cisppo' is unknown.*did you mean 'cispo'"),
        ({"loss": {"name": "cispo", "hihg": 2.0}}, "algorithm.loss cispo: hihg is unknown.*did you mean 'high'"),
        ({"loss": {"high": 2.0}}, "algorithm.loss as a mapping needs a name"),
        (
            {"correction": {"low": 5.0, "high": 3.0}},
            "algorithm.correction: low must be 0 or more and below high, not 5.0 and 3.0",
        ),
        ({"kl_control": {}}, "algorithm.kl_control adapts a KL in the reward"),
        (
            {"returns": {}},
            "algorithm.returns has no effect on algorithm.name: grpo.*ppo, reinforce_pp, reinforce_pp_baseline",
        ),
        ({"reference_sync": {}}, "algorithm.reference_sync moves the reference, and there is none"),
        ({"name": "gdpo", "preset": "openrlhf"}, "algorithm.kl_in: reward does not go with algorithm.name: gdpo"),
    ],
)
def test_mistakes_are_named(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(**keys)


def test_groups_of_one_are_refused() -> None:
    for name in ("grpo", "dr_grpo", "rloo", "gdpo", "rank_grpo"):
        with pytest.raises(UserError, match=f"rollout.group_size is 1: algorithm.name '{name}'.*at least 2"):
            plan(name=name).check(1)
        plan(name=name).check(2)


VALUES = np.array([[1.0, 0.0], [0.0, 0.0], [1.0, -0.1], [0.0, -0.1]])[:, :, None]
WEIGHTS, GROUPS, LENGTHS = np.ones(2), np.zeros(4, np.int64), np.array([1, 2, 3, 4])


def test_advantages_use_the_settings() -> None:
    got = plan(adv_eps=0.5, std_ddof=0).advantages(VALUES, WEIGHTS, GROUPS, LENGTHS)
    np.testing.assert_array_equal(got, grpo(VALUES, WEIGHTS, GROUPS, eps=0.5, ddof=0))


def test_gdpo_under_verl_whitens_over_tokens() -> None:
    verl = plan(name="gdpo", preset="verl")
    expected = gdpo(VALUES, WEIGHTS, GROUPS, eps=1e-6, ddof=1, whitening="tokens", lengths=LENGTHS)
    np.testing.assert_array_equal(verl.advantages(VALUES, WEIGHTS, GROUPS, LENGTHS), expected)
    with pytest.raises(ValueError, match="needs the lengths"):
        verl.advantages(VALUES, WEIGHTS, GROUPS)
    trl = plan(name="gdpo", preset="trl").advantages(VALUES, WEIGHTS, GROUPS, LENGTHS)
    np.testing.assert_array_equal(trl, gdpo(VALUES, WEIGHTS, GROUPS, eps=1e-4, ddof=1))


def test_kl_in_the_reward_takes_part_in_the_group_statistics() -> None:
    in_reward = plan(name="dr_grpo", kl_coef=0.5, kl_in="reward")
    got = in_reward.advantages(VALUES[:, :1], np.ones(1), GROUPS, kl_sums=np.array([2.0, 0.0, 0.0, 2.0]))
    np.testing.assert_allclose(got.ravel(), [0, 0, 1, -1], atol=1e-15)  # totals 0, 0, 1, -1
    with pytest.raises(ValueError, match="kl_sums are needed"):
        in_reward.advantages(VALUES, WEIGHTS, GROUPS)


def test_kl_in_the_reward_does_not_score_an_unscored_sample() -> None:
    values = VALUES[:, :1].copy()
    values[3] = np.nan
    in_reward = plan(name="dr_grpo", kl_coef=0.5, kl_in="reward")
    got = in_reward.advantages(values, np.ones(1), GROUPS, kl_sums=np.array([0.0, 0.0, 0.0, 100.0]))
    np.testing.assert_allclose(got.ravel(), [1 / 3, -2 / 3, 1 / 3, 0], atol=1e-15)


def test_kl_of_tokens_stops_at_the_end_of_a_completion() -> None:
    logps, reference = np.array([[-1.0, -1.0, np.nan], [-1.0, -500.0, -1.0]]), np.full((2, 3), -1.5)
    got = plan(preset="openrlhf").kl_tokens(logps, reference, np.array([2, 3]))
    np.testing.assert_allclose(got, [[0.5, 0.5, 0], [0.5, -10.0, 0.5]], rtol=0, atol=1e-15)
    np.testing.assert_allclose(got.sum(axis=1), [1.0, 0.5 - 10.0 + 0.5], atol=1e-15)  # k1, clamped to 10


def test_an_algorithm_brings_its_loss_and_a_preset_the_peers_numbers_for_it() -> None:
    assert plan(name="gspo").loss == POLICY_LOSSES["gspo"](log_ratio_max=10.0)
    assert plan(name="gspo").settings.aggregation == "sequence_mean"
    assert plan(name="gspo", preset="verl").loss.gradient == "token"
    assert plan(name="gspo", preset="trl", clip_high=0.01).loss.clip_high == 0.01
    assert (plan(name="cispo").loss.low, plan(name="cispo").loss.high) == (0.0, 5.0)
    verl = plan(name="cispo", preset="verl").loss
    assert (verl.low, verl.high) == (0.8, 1.2)
    asked = plan(name="rank_grpo", loss={"name": "item", "items": 7}, kl_coef=0.5).loss
    assert (type(asked).__name__, asked.items, asked.kl_coef) == ("ItemPolicyLoss", 7, 0.5)


def test_ppo_needs_a_critic_and_takes_single_completions() -> None:
    ppo = plan(name="ppo", kl_coef=0.1, kl_in="reward")
    assert ppo.needs == {"critic", "reference", "old_logps"}
    ppo.check(1)
    assert ppo.dead_groups(VALUES, WEIGHTS, GROUPS).tolist() == [False]
    assert ppo.advantages(VALUES, WEIGHTS, GROUPS).ravel().tolist() == [1.0, 0.0, 0.9, -0.1]


def test_gdpo_group_is_dead_only_if_every_component_is() -> None:
    opposite = np.array([[1.0, 0.0], [0.0, 1.0]])[:, :, None]
    assert plan(name="grpo").dead_groups(opposite, np.ones(2), np.zeros(2)).tolist() == [True]
    assert plan(name="gdpo").dead_groups(opposite, np.ones(2), np.zeros(2)).tolist() == [False]
