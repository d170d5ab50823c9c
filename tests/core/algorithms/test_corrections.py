"""Train/rollout correction, the entropy filter and the KL controller, against numbers worked out by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindrlhf_grpo.algorithms.corrections import CORRECTIONS, LEVELS, MODES, Correction, entropy_mask
from mindrlhf_grpo.algorithms.kl_control import KlControl
from mindrlhf_grpo.errors import CheckpointError

NAN = float("nan")
# ratios 2, 2, 1/2 | 4, 1/2 and a masked token
LOG_RATIO = np.log([[2.0, 2.0, 0.5], [4.0, 0.5, 1.0]]) + np.array([[0, 0, 0], [0, 0, NAN]])
MASK = np.array([[1.0, 1, 1], [1, 1, 0]])
CUBE = 2 ** (1 / 3)
ROOT = 2**0.5

CASES: dict[str, tuple[Correction, list[list[float]]]] = {
    "tokens truncated": (Correction(high=3), [[2, 2, 0.5], [3, 0.5, 1]]),
    "tokens brought to both bounds": (Correction(low=1, high=3), [[2, 2, 1], [3, 1, 1]]),
    "tokens masked": (Correction(mode="mask", low=0.6, high=3), [[2, 2, 0], [0, 0, 1]]),
    "product truncated": (Correction(level="sequence", high=1.5), [[1.5] * 3, [1.5, 1.5, 1]]),
    "product kept": (Correction(level="sequence", high=5), [[2] * 3, [2, 2, 1]]),
    "product masked": (Correction(level="sequence", mode="mask", high=1.5), [[0] * 3, [0, 0, 1]]),
    "geometric mean": (Correction(level="geometric", high=5), [[CUBE] * 3, [ROOT, ROOT, 1]]),
    "geometric mean masked": (Correction(level="geometric", mode="mask", high=1.3), [[CUBE] * 3, [0, 0, 1]]),
    "tokens where the geometric mean is in range": (
        Correction(level="geometric", mode="mask_tokens", high=1.3),
        [[2, 2, 0.5], [0, 0, 1]],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_weights(case: str) -> None:
    correction, expected = CASES[case]
    for masked in (NAN, 7.0):
        log_ratio = np.where(MASK > 0, LOG_RATIO, masked)
        np.testing.assert_allclose(correction.weights(log_ratio, MASK), expected, rtol=1e-12)


def test_logarithms_are_bounded_by_twenty() -> None:
    far = np.array([[400.0, 400.0], [-400.0, -400.0]])
    for level in LEVELS:
        got = Correction(level=level, high=1e300).unbounded(far, np.ones((2, 2)))
        np.testing.assert_allclose(got, [[math.exp(20)] * 2, [math.exp(-20)] * 2], rtol=1e-12)


def test_equal_log_probs_weigh_one() -> None:
    for name, correction in ((name, named.correction) for name, named in CORRECTIONS.items()):
        assert (correction.weights(np.zeros((2, 3)), np.ones((2, 3))) == 1).all(), name


def test_statistics_are_sums_over_trained_tokens() -> None:
    got = Correction(mode="mask", low=0.6, high=3).statistics(LOG_RATIO, MASK)
    assert got == pytest.approx(
        {"correction": 4.0, "correction_unbounded": 9.0, "correction_changed": 3.0, "max/correction": 4.0}
    )
    assert Correction().statistics(LOG_RATIO, 0 * MASK)["max/correction"] == 0


@given(st.integers(0, 2**32), st.sampled_from(LEVELS), st.sampled_from(MODES))
def test_weights_are_never_negative_and_parts_of_a_batch_weigh_the_same(seed: int, level: str, mode: str) -> None:
    random = np.random.default_rng(seed)
    log_ratio, mask = random.normal(size=(5, 4)), (random.random((5, 4)) < 0.7).astype(np.float64)
    correction = Correction(level=level, mode=mode, low=0.5, high=2)
    whole = correction.weights(log_ratio, mask)
    assert (whole >= 0).all()
    np.testing.assert_array_equal(whole[2:], correction.weights(log_ratio[2:], mask[2:]))
    parts = [correction.statistics(log_ratio[rows], mask[rows]) for rows in (slice(0, 2), slice(2, 5))]
    total = correction.statistics(log_ratio, mask)
    assert parts[0]["correction"] + parts[1]["correction"] == pytest.approx(total["correction"])


def test_what_a_correction_cannot_be() -> None:
    with pytest.raises(ValueError, match="below high, not 3 and 2"):
        Correction(low=3, high=2)
    with pytest.raises(ValueError, match="level must be one of"):
        Correction(level="row")
    with pytest.raises(ValueError, match="alike"):
        Correction().weights(LOG_RATIO, MASK[:1])


ENTROPIES = np.array([[0.1, 0.9, 0.3, 0.5], [2.0, 3.0, NAN, NAN]])
TRAINED = np.array([[1.0, 1, 1, 1], [1, 1, 0, 0]])


def test_entropy_filter_keeps_the_most_uncertain_tokens_of_the_batch() -> None:
    # sorted .1 .3 .5 .9 2 3: the 0.5 quantile is .7
    np.testing.assert_array_equal(entropy_mask(ENTROPIES, TRAINED, 0.5), [[0, 1, 0, 0], [1, 1, 0, 0]])
    np.testing.assert_array_equal(entropy_mask(ENTROPIES, TRAINED, 0.0), TRAINED)
    np.testing.assert_array_equal(entropy_mask(ENTROPIES, TRAINED, 1.0), [[0, 0, 0, 0], [0, 1, 0, 0]])


def test_entropy_filter_by_completion() -> None:
    got = entropy_mask(ENTROPIES, TRAINED, 0.5, by_row=True)
    np.testing.assert_array_equal(got, [[0, 1, 0, 1], [0, 1, 0, 0]])
    assert got.dtype == np.float32


def test_entropy_filter_of_ranks_is_that_of_the_batch() -> None:
    gathered = ENTROPIES[TRAINED > 0]
    parts = [
        entropy_mask(ENTROPIES[rows], TRAINED[rows], 0.5, gathered=gathered) for rows in (slice(0, 1), slice(1, 2))
    ]
    np.testing.assert_array_equal(np.concatenate(parts), [[0, 1, 0, 0], [1, 1, 0, 0]])


def test_entropy_filter_of_nothing_and_of_bad_numbers() -> None:
    assert entropy_mask(ENTROPIES, 0 * TRAINED, 0.5).sum() == 0
    with pytest.raises(ValueError, match=r"quantile must be in 0\.\.1"):
        entropy_mask(ENTROPIES, TRAINED, 1.2)
    with pytest.raises(ValueError, match="not finite"):
        entropy_mask(ENTROPIES, np.ones((2, 4)), 0.5)


def test_adaptive_coefficient_follows_the_target_by_at_most_a_fifth() -> None:
    control = KlControl(coef=0.1, target=6.0, horizon=10000)
    control.update(6.6, 1000)  # a tenth above
    assert control.coef == pytest.approx(0.1 * (1 + 0.1 * 0.1), rel=1e-14)
    control.update(600.0, 1000)
    assert control.coef == pytest.approx(0.101 * 1.02, rel=1e-14)
    control.update(0.0, 1000)
    assert control.coef == pytest.approx(0.101 * 1.02 * 0.98, rel=1e-14)


def test_fixed_coefficient_stays() -> None:
    control = KlControl(coef=0.1)
    control.update(1e9, 1000)
    assert control.coef == 0.1


def test_a_kl_that_is_not_finite_changes_nothing() -> None:
    control = KlControl(coef=0.1, target=1.0)
    control.update(NAN, 1000)
    assert control.coef == 0.1


def test_coefficient_survives_a_resume() -> None:
    control = KlControl(coef=0.1, target=6.0)
    control.update(600.0, 1000)
    resumed = KlControl(coef=0.1, target=6.0)
    resumed.restore(json.loads(json.dumps(control.state())))
    assert resumed == control
    with pytest.raises(CheckpointError, match="no coefficient"):
        resumed.restore({})
    with pytest.raises(ValueError, match="0 or more"):
        KlControl(coef=-0.1)
