"""The table of rewards: broadcast over segments, totals, taking and joining rows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.rewards import RewardTable

NAN = float("nan")


def table(values: object, weights: tuple[float, ...] = (1.0, 0.5), **failures: int) -> RewardTable:
    names = tuple("abc"[: len(weights)])
    return RewardTable(names=names, weights=np.array(weights), values=np.array(values, dtype=float), failures=failures)


def test_total_is_the_weighted_sum():
    np.testing.assert_array_equal(table([[[1.0], [4.0]], [[0.0], [-2.0]]]).total(), [[3.0], [-1.0]])


def test_a_component_that_does_not_apply_adds_nothing():
    np.testing.assert_array_equal(table([[[1.0], [NAN]], [[NAN], [4.0]]]).total(), [[1.0], [2.0]])


def test_total_is_nan_only_where_no_component_applies():
    np.testing.assert_array_equal(table([[[NAN, 1.0], [NAN, NAN]]]).total(), [[NAN, 1.0]])


def test_a_sequence_reward_counts_for_every_segment():
    stacked = RewardTable.stack([("ranks", 1.0, np.array([[1.0, 0.0, 2.0]])), ("format", 0.5, np.array([[4.0]]))])
    np.testing.assert_array_equal(stacked.values, [[[1.0, 0.0, 2.0], [4.0, 4.0, 4.0]]])
    np.testing.assert_array_equal(stacked.total(), [[3.0, 2.0, 4.0]])


def test_two_numbers_of_segments_are_refused():
    with pytest.raises(ConfigError, match="ranks 3, steps 2"):
        RewardTable.stack([("ranks", 1.0, np.ones((1, 3))), ("steps", 1.0, np.ones((1, 2)))])


def test_concat_broadcasts_a_rank_without_segments():
    joined = RewardTable.concat([table([[[1.0], [2.0]]]), table([[[3.0, 4.0], [5.0, 6.0]]])])
    np.testing.assert_array_equal(joined.values, [[[1.0, 1.0], [2.0, 2.0]], [[3.0, 4.0], [5.0, 6.0]]])


def test_concat_refuses_two_numbers_of_segments():
    with pytest.raises(ConfigError, match="table 0 2, table 1 3"):
        RewardTable.concat([table(np.ones((1, 2, 2))), table(np.ones((1, 2, 3)))])


def test_a_component_that_a_table_lacks_does_not_apply_to_its_rows():
    one = RewardTable.stack([("x", 1.0, np.array([[1.0]])), ("y/a", 2.0, np.array([[3.0]]))])
    two = RewardTable.stack([("x", 1.0, np.array([[5.0]])), ("y/b", 2.0, np.array([[7.0]]))])
    joined = RewardTable.concat([one, two])
    assert joined.names == ("x", "y/a", "y/b")
    np.testing.assert_array_equal(joined.values[:, :, 0], [[1.0, 3.0, NAN], [5.0, NAN, 7.0]])
    np.testing.assert_array_equal(joined.total(), [[7.0], [19.0]])


def test_a_rank_without_rows_adds_neither_rows_nor_names():
    empty = RewardTable.stack([("y", 1.0, np.zeros((0, 1)))])
    full = RewardTable.stack([("y/a", 1.0, np.ones((2, 3)))], failures={"y/a": 1})
    joined = RewardTable.concat([empty, full, empty])
    assert (joined.names, joined.values.shape, joined.failures) == (("y/a",), (2, 1, 3), {"y/a": 1})


def test_tables_without_rows_join_to_one_without_rows():
    empty = RewardTable.stack([("y", 1.0, np.zeros((0, 1)))])
    joined = RewardTable.concat([empty, empty])
    assert (len(joined), joined.names, joined.total().shape) == (0, ("y",), (0, 1))


def test_concat_adds_up_failures():
    value = [[[1.0], [1.0]]]
    assert RewardTable.concat([table(value, a=2), table(value), table(value, a=1, b=3)]).failures == {"a": 3, "b": 3}


def test_concat_refuses_one_name_with_two_weights():
    with pytest.raises(ValueError, match=r"'b' has weight 0\.5 in one table and 2\.0 in another"):
        RewardTable.concat([table(np.ones((1, 2, 1))), table(np.ones((1, 2, 1)), weights=(1.0, 2.0))])


def test_names_weights_and_values_must_agree():
    with pytest.raises(ValueError, match="2 reward names need"):
        table(np.ones((4, 3, 1)))


@st.composite
def tables(draw: st.DrawFn) -> RewardTable:
    shape = (draw(st.integers(1, 8)), draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    cells = st.one_of(st.floats(-8, 8, width=16), st.just(NAN))
    return RewardTable(
        names=tuple("abc"[: shape[1]]),
        weights=draw(arrays.arrays(np.float64, shape[1], elements=st.floats(-2, 2, width=16))),
        values=draw(arrays.arrays(np.float64, shape, elements=cells)),
    )


@given(tables(), st.lists(st.integers(0, 8), max_size=4))
def test_the_concat_of_splits_is_the_whole(whole: RewardTable, cuts: list[int]):
    edges = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    parts = [whole.take(range(a, b)) for a, b in pairwise(edges)]
    joined = RewardTable.concat(parts)
    assert joined.names == whole.names
    np.testing.assert_array_equal(joined.values, whole.values)
    np.testing.assert_array_equal(joined.total(), whole.total())


@given(tables(), st.randoms())
def test_totals_follow_the_rows(whole: RewardTable, random: object):
    order = list(range(len(whole)))
    random.shuffle(order)
    np.testing.assert_array_equal(whole.take(order).total(), whole.total()[order])
