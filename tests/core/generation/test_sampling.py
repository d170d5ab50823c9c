"""Counter-based uniforms: literal values, independence of everything but the coordinates, and statistics."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindrlhf_grpo.generation.sampling import FAN, choose, depth, mix, per_level, uniforms

WORD = 2**64


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> None:
    warnings.simplefilter("error")


def plain_mix(word: int) -> int:
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB % WORD
    return word ^ (word >> 31)


def plain(seed: int, uid: int, sample: int, position: int) -> float:
    """The definition in Python's unbounded integers."""
    steps = (0x9E3779B97F4A7C15, 0xD1342543DE82EF95, 0xAEF17502108EF2D9)
    state = plain_mix((seed + steps[0]) % WORD)
    for step, coordinate in zip(steps, (uid, sample, position), strict=True):
        state = plain_mix((state + (coordinate + 1) * step) % WORD)
    return (state >> 11) / 2**53


def test_mixer_is_splitmix64() -> None:
    """The published first outputs of SplitMix64 from seed 1234567."""
    step = 0x9E3779B97F4A7C15
    states = np.array([(1234567 + k * step) % WORD for k in (1, 2, 3)], np.uint64)
    assert mix(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_literal_values() -> None:
    got = uniforms(0, [0, 0, 0, 1], [0, 0, 1, 0], [0, 1, 0, 0])
    assert got.dtype == np.float64
    assert got.tolist() == [0.9178737487864539, 0.09003291718146733, 0.8629748294928584, 0.27122372152444063]
    assert uniforms(42, 7, 3, 9).tolist() == [0.9074284506355423]


integers = st.integers(-(2**70), 2**70)


@given(integers, integers, integers, integers)
def test_equals_its_definition_for_any_integers(seed: int, uid: int, sample: int, position: int) -> None:
    assert uniforms(seed, uid, sample, position)[0] == plain(seed, uid, sample, position)


@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(0, 63), st.integers(0, 4096)), min_size=1))
def test_a_token_does_not_depend_on_its_neighbours(tokens: list[tuple[int, int, int]]) -> None:
    columns = [np.array(column) for column in zip(*tokens, strict=True)]
    together = uniforms(3, *columns)
    alone = [uniforms(3, *token)[0] for token in tokens]
    assert together.tolist() == alone
    assert uniforms(3, *(column[::-1] for column in columns)).tolist() == alone[::-1]


def test_every_integer_type_gives_the_same_numbers() -> None:
    values = [0, 5, 100]
    expected = uniforms(1, values, 2, values).tolist()
    for dtype in (np.int8, np.int32, np.int64, np.uint8, np.uint64):
        assert uniforms(1, np.array(values, dtype), np.int64(2), np.array(values, dtype)).tolist() == expected
    assert uniforms(-1, [-1, WORD - 1], [2**63, 2**63], 0).tolist() == [plain(-1, -1, 2**63, 0)] * 2


def test_other_types_are_refused() -> None:
    for wrong in (1.5, np.array([0.0]), "7", None):
        with pytest.raises(TypeError, match="must be integers"):
            uniforms(0, wrong, 0, 0)


def test_neighbouring_coordinates_never_collide() -> None:
    uids, samples, positions = (axis.ravel() for axis in np.meshgrid(np.arange(40), np.arange(16), np.arange(100)))
    values = np.concatenate([uniforms(seed, uids, samples, positions) for seed in (0, 1, 2)])
    assert len(np.unique(values)) == len(values)


@pytest.mark.parametrize("axis", ["uid", "sample", "position", "seed"])
def test_uniform_along_each_coordinate(axis: str) -> None:
    """Mean, variance and Kolmogorov-Smirnov distance within their 0.1 % bounds, and no serial correlation."""
    n = 50_000
    run, still = np.arange(n), np.zeros(n, np.int64)
    values = {
        "uid": lambda: uniforms(11, run, still, still),
        "sample": lambda: uniforms(11, still, run, still),
        "position": lambda: uniforms(11, still, still, run),
        "seed": lambda: np.concatenate([uniforms(seed, 0, 0, np.arange(100)) for seed in range(n // 100)]),
    }[axis]()
    assert values.min() >= 0
    assert values.max() < 1
    assert abs(values.mean() - 0.5) < 3.3 * (1 / 12 / n) ** 0.5
    assert abs(values.var() - 1 / 12) < 3.3 * (1 / 180 / n) ** 0.5
    ordered = np.sort(values)
    distance = max((np.arange(1, n + 1) / n - ordered).max(), (ordered - np.arange(n) / n).max())
    assert distance < 1.95 / n**0.5
    for lag in (1, 2, 16, 64):
        assert abs(np.corrcoef(values[:-lag], values[lag:])[0, 1]) < 3.3 / n**0.5


def test_every_bit_is_balanced() -> None:
    n = 20_000
    words = (uniforms(5, np.arange(n), 1, 2) * 2**53).astype(np.uint64)
    ones = ((words[:, None] >> np.arange(53, dtype=np.uint64)) & np.uint64(1)).mean(axis=0)
    assert np.abs(ones - 0.5).max() < 4.5 * 0.5 / n**0.5


def descended(weights: np.ndarray, number: float) -> int:
    """One row's choice, walked down from the top with the ids that are left."""
    keys, width = [np.arange(len(weights))], len(weights)
    while width > FAN:
        width = -(-width // FAN)
        keys.append(keys[-1] % width)
    ids = keys[0]
    for uniform, key in zip(per_level(np.array([number]), len(keys))[0], reversed(keys), strict=True):
        nodes = np.unique(key[ids])
        mass = np.array([weights[ids[key[ids] == node]].sum() for node in nodes])
        ids = ids[key[ids] == nodes[np.searchsorted(mass.cumsum(), uniform * mass.sum(), side="right")]]
    return int(ids[0])


@pytest.mark.parametrize(("vocabulary", "levels"), [(3, 1), (16, 1), (17, 2), (256, 2), (300, 3), (49152, 4)])
def test_the_tree_has_as_many_levels_as_the_vocabulary_needs(vocabulary: int, levels: int) -> None:
    assert depth(vocabulary) == levels


def test_levels_draw_different_uniforms_and_the_first_is_the_tokens_own() -> None:
    numbers = uniforms(0, 1, 2, np.arange(4000))
    table = per_level(numbers, 4)
    np.testing.assert_array_equal(table[:, 0], numbers)
    assert ((table >= 0) & (table < 1)).all()
    assert np.abs(np.corrcoef(table.T) - np.eye(4)).max() < 0.06  # 4000 draws: 3.8 standard deviations
    for level in table.T:
        assert ((np.histogram(level, 20, (0, 1))[0] - 200) ** 2 / 200).sum() < 44  # chi-square, 19 degrees: p = 1e-3


def test_literal_choices() -> None:
    narrow = np.array([[0.2, 0.3, 0.0, 0.5]])
    assert [int(choose(narrow, np.array([number]))[0]) for number in (0.0, 0.2, 0.499, 0.5, 0.999)] == [0, 1, 1, 3, 3]


@given(seed=st.integers(0, 10_000), vocabulary=st.sampled_from([5, 16, 40, 256, 700]))
def test_choice_is_that_of_a_walk_down_the_tree(seed: int, vocabulary: int) -> None:
    random = np.random.default_rng(seed)
    weights, number = random.random(vocabulary) ** 8, float(random.random())
    assert int(choose(weights[None], np.array([number]))[0]) == descended(weights, number)


def test_choices_have_the_probabilities_of_the_weights() -> None:
    weights = np.random.default_rng(3).random(40) ** 2
    found = np.bincount(choose(np.repeat(weights[None], 40_000, 0), uniforms(1, 2, 3, np.arange(40_000))), minlength=40)
    expected = weights / weights.sum() * 40_000
    assert float(((found - expected) ** 2 / expected).sum()) < 80  # chi-square, 39 degrees of freedom: p = 1e-4
