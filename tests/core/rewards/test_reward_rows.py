"""Return values of reward functions, and those that count as failures."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from mindrlhf_grpo.rewards.rows import Failure, WrongResult, concat_rows, read_result


def test_numbers_of_every_kind_are_read():
    assert read_result([1, True, 0.5, np.float32(0.25), np.array(2.0)], 5) == {"": [1.0, 1.0, 0.5, 0.25, 2.0]}
    assert read_result([Decimal("0.1"), Fraction(1, 4), np.True_, np.int8(-3)], 4) == {"": [0.1, 0.25, 1.0, -3.0]}


def test_tensors_of_any_type_with_a_gradient_or_not_are_read():
    """Finding D4: bfloat16 or a gradient failed every sample of every step."""
    torch = pytest.importorskip("torch")
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        assert read_result(torch.tensor([0.5, -2.0], dtype=dtype), 2) == {"": [0.5, -2.0]}
    trained = torch.tensor([[0.5, 1.0], [2.0, 4.0]], requires_grad=True)
    assert read_result(trained, 2) == {"": [(0.5, 1.0), (2.0, 4.0)]}
    assert read_result(list(torch.tensor([0.5, 1.0], dtype=torch.bfloat16, requires_grad=True)), 2) == {"": [0.5, 1.0]}
    assert read_result([[trained[0, 0], 1], [trained[1, 1], 2.0]], 2) == {"": [(0.5, 1.0), (4.0, 2.0)]}
    assert read_result(torch.tensor([0.1], dtype=torch.float64), 1) == {"": [0.1]}, "digits of float64 are kept"


def test_an_array_and_a_tuple_are_read_like_a_list():
    assert read_result(np.array([1.0, 2.0]), 2) == read_result((1.0, 2.0), 2) == {"": [1.0, 2.0]}


def test_none_alone_is_not_applicable():
    """Finding F11, P3.8: NaN counted as not applicable, unseen; a value that is not finite fails its sample."""
    none, nan = read_result([None, math.nan], 2)[""]
    assert isinstance(none, float)
    assert math.isnan(none)
    assert nan == Failure("the value nan, which is not finite; None means that the reward does not apply")


def test_an_entry_that_is_masked_in_an_array_is_not_applicable():
    one, masked = read_result(np.ma.masked_invalid([0.5, np.nan]), 2)[""]
    assert one == 0.5
    assert isinstance(masked, float)
    assert math.isnan(masked)


def test_segment_rewards_are_read_as_tuples():
    assert read_result(np.arange(4.0).reshape(2, 2), 2) == {"": [(0.0, 1.0), (2.0, 3.0)]}


def test_a_dict_becomes_named_components():
    assert read_result({"a": [1.0], "b": np.array([[2.0, 3.0]])}, 1) == {"a": [1.0], "b": [(2.0, 3.0)]}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (math.inf, "the value inf, which is not finite"),
        ("1.0", "a value of type str, not a number"),
        (1j, "a value of type complex, not a number"),
        ([], "an empty list of segment values"),
        ([1.0, -math.inf], "the value -inf, which is not finite"),
        (10**400, "a value that is not a number: OverflowError"),
        (ValueError("no gold"), "ValueError: no gold"),
    ],
)
def test_only_the_bad_value_fails(value: object, reason: str):
    good, bad = read_result([0.5, value], 2)[""]
    assert good == 0.5
    assert isinstance(bad, Failure)
    assert bad.reason.startswith(reason)


def test_a_ragged_row_fails_alone():
    rows = read_result([[1.0, 2.0], [1.0], 5.0, None], 4)[""]
    assert rows[:3] == [
        (1.0, 2.0),
        Failure("1 segment values where another sample has 2 segment values"),
        Failure("one value where another sample has 2 segment values"),
    ]
    assert math.isnan(rows[3])


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ([1.0], "it has 1 entries for 2 samples"),
        ([1.0, 2.0, 3.0], "it has 3 entries for 2 samples"),
        ("ab", "it is a str, not a list"),
        (None, "it is a NoneType, not a list"),
        (1.0, "it is a float, not a list"),
        (np.array(1.0), "it is a float, not a list"),
        ((x for x in [1.0, 2.0]), "it is a generator, not a list"),
        ({}, "it returned an empty dict"),
        ({"a": [1.0, 2.0], "b": [1.0]}, "component 'b' has 1 entries for 2 samples"),
    ],
)
def test_an_answer_that_does_not_match_the_samples_fails_them_all(result: object, reason: str):
    with pytest.raises(WrongResult, match=reason):
        read_result(result, 2)


def test_calls_are_joined_with_failures_in_every_component():
    joined = concat_rows([(1, {"a": [1.0], "b": [2.0]}), (2, Failure("hung")), (1, {"a": [3.0]})])
    assert joined["a"] == [1.0, Failure("hung"), Failure("hung"), 3.0]
    assert joined["b"][:3] == [2.0, Failure("hung"), Failure("hung")]
    assert math.isnan(joined["b"][3])


def test_joined_calls_with_different_segments_fail_where_they_differ():
    joined = concat_rows([(1, {"": [(1.0, 2.0)]}), (1, {"": [(1.0, 2.0, 3.0)]})])[""]
    assert joined == [(1.0, 2.0), Failure("3 segment values where another sample has 2 segment values")]


def test_of_rewards_with_parsed_answers_the_rewards_count() -> None:
    assert read_result(([1.0, 0.0, 1.0], ["a", None, "b"]), 3) == {"": [1.0, 0.0, 1.0]}
    assert read_result(([1.0, 0.0], ["a", None]), 2) == {"": [1.0, 0.0]}
    assert read_result(([1.0, 0.0], [2.0, 3.0]), 2) == {"": [(1.0, 0.0), (2.0, 3.0)]}, "rows of two samples"
