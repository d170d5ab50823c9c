"""From configured components and rollouts to the table."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mindrlhf_grpo.config.run import RewardConfig
from mindrlhf_grpo.errors import ConfigError, RunFailed
from mindrlhf_grpo.rewards import Rewards, RewardTable
from mindrlhf_grpo.types import RolloutGroup

Groups = Callable[..., RolloutGroup]

USER = """
def see(prompts, completions, completion_ids, **columns):
    assert len({len(prompts), len(completions), len(completion_ids), *map(len, columns.values())}) == 1
    return [float(len(ids)) for ids in completion_ids]

def level(completions, level):
    return [None if x is None else float(x) for x in level]

def parts(completions):
    return {"long": [float(len(text) > 2) for text in completions], "ranks": [[1.0, 2.0]] * len(completions)}

def ranks(completions):
    return [[1.0, 2.0, 3.0]] * len(completions)

def odd_parts(completions):
    if len(completions) > 1 or "bad" in completions:
        raise ValueError
    return {"a": [1.0], "b": [2.0]}
"""


@pytest.fixture
def user(source: Callable[[str], str]) -> str:
    return source(USER)


def table_of(configs: list[RewardConfig], groups: list[RolloutGroup]) -> RewardTable:
    with Rewards(configs) as rewards:
        return rewards.score(groups)


def test_rows_come_group_by_group_and_sample_by_sample(group: Groups, user: str):
    groups = [group(["a", "bb"], level=1), group(["cccc"], level=2), group(["d", "ee", "fff"], level=3)]
    table = table_of([RewardConfig(function=f"{user}:see"), RewardConfig(function=f"{user}:level", weight=10)], groups)
    assert table.names == ("see", "level")
    assert table.values[:, 0, 0].tolist() == [1, 2, 4, 1, 2, 3]
    assert table.values[:, 1, 0].tolist() == [1, 1, 2, 3, 3, 3]
    assert table.total()[:, 0].tolist() == [11, 12, 24, 31, 32, 33]


def test_a_column_that_a_row_lacks_is_none_there(group: Groups, user: str):
    table = table_of([RewardConfig(function=f"{user}:level")], [group(["a"], level=1), group(["b"])])
    np.testing.assert_array_equal(table.values[:, 0, 0], [1.0, np.nan])


def test_a_dict_becomes_components_that_share_the_weight(group: Groups, user: str):
    table = table_of([RewardConfig(function=f"{user}:parts", name="p", weight=0.5)], [group(["abc", "d"])])
    assert table.names == ("p/long", "p/ranks")
    assert table.weights.tolist() == [0.5, 0.5]
    assert table.values.tolist() == [[[1.0, 1.0], [1.0, 2.0]], [[0.0, 0.0], [1.0, 2.0]]]


def test_a_failed_sample_fails_in_every_part(group: Groups, user: str):
    config = RewardConfig(function=f"{user}:odd_parts", name="p", on_failure=-1)
    table = table_of([config], [group(["good", "bad"])])
    assert table.values[:, :, 0].tolist() == [[1.0, 2.0], [-1.0, -1.0]]
    assert table.failures == {"p/a": 1, "p/b": 1}


def test_components_with_different_segments_are_refused(group: Groups, user: str):
    configs = [RewardConfig(function=f"{user}:ranks"), RewardConfig(function=f"{user}:parts")]
    with pytest.raises(ConfigError, match="ranks 3, parts/ranks 2"):
        table_of(configs, [group(["a"])])


def test_a_batch_without_completions_gives_a_table_without_rows(user: str):
    table = table_of([RewardConfig(function=f"{user}:level"), RewardConfig(function="numeric_match")], [])
    assert (table.names, table.values.shape) == (("level", "numeric_match"), (0, 2, 1))


def test_a_missing_column_stops_before_anything_is_scored(group: Groups, user: str):
    with Rewards([RewardConfig(function=f"{user}:level")]) as rewards:
        for act in (lambda: rewards.check(["answer"]), lambda: rewards.score([group(["a"], answer="1")])):
            with pytest.raises(ConfigError, match=r"reward 'level' needs 'level'.*columns there are: answer"):
                act()


def test_a_missing_reference_column_is_found_before_anything_is_scored():
    with Rewards([RewardConfig(function="numeric_match", arguments={"column": "gold"})]) as rewards:
        rewards.check(["gold", "answer"])
        with pytest.raises(ConfigError, match=r"reward 'numeric_match': no column 'gold' .* there are: answer, level"):
            rewards.check(["answer", "level"])


def test_two_components_of_one_name_are_refused(user: str):
    configs = [
        RewardConfig(function="regex", name="see", arguments={"pattern": "a"}),
        RewardConfig(function=f"{user}:see"),
    ]
    with pytest.raises(ConfigError, match="'see' is the name of two components"):
        Rewards(configs)


@pytest.mark.parametrize("timeout", [0, 30])
def test_built_ins_score_alike_here_and_in_a_process(group: Groups, timeout: float):
    configs = [
        RewardConfig(function="numeric_match", timeout=timeout),
        RewardConfig(function="regex", arguments={"pattern": "(?i)^the"}, timeout=timeout),
        RewardConfig(function="overlong", arguments={"max_tokens": 20, "buffer": 10}, timeout=timeout),
    ]
    table = table_of(configs, [group(["The answer is 4", "four"], answer="4.0")])
    assert table.values[:, :, 0].tolist() == [[1.0, 1.0, -0.5], [0.0, 0.0, 0.0]]


def test_splits_of_a_batch_join_to_the_same_table(group: Groups, user: str):
    groups = [group(["a", "bb"], level=1), group(["cccc", "d"]), group(["eee"], level=0)]
    with Rewards([RewardConfig(function=f"{user}:parts"), RewardConfig(function=f"{user}:level")]) as rewards:
        whole = rewards.score(groups)
        joined = RewardTable.concat([rewards.score(groups[:1]), rewards.score([]), rewards.score(groups[1:])])
    assert joined.names == whole.names
    np.testing.assert_array_equal(joined.values, whole.values)


TRL = """
def first(prompts, completions, **columns):
    return [float(p[-1]["content"] == "prompt" and c[0] == {"role": "assistant", "content": "a"}) for p, c in zip(prompts, completions)]

def get(completions):
    return [float(c.get("content") == "a") for c in completions]
"""


def test_messages_are_given_as_trl_gives_them_and_text_taken_for_them_is_told(
    group: Groups, source: Callable[[str], str]
):
    """Newcomer P1: ``completion[0]["content"]``, the usual reward of TRL, failed on every sample without a hint."""
    path = source(TRL)
    table = table_of([RewardConfig(function=f"{path}:first", completions="messages")], [group(["a", "b"], level=1)])
    assert (table.values[:, 0, 0].tolist(), table.failures) == ([1.0, 0.0], {})
    for name in ("first", "get"):
        table = table_of([RewardConfig(function=f"{path}:{name}")], [group(["a"])])
        assert table.reasons[name].endswith("with completions: messages a reward gets lists of messages, as in TRL")


@pytest.mark.parametrize("function", ["numeric_match", "model:folder"])
def test_messages_are_refused_where_texts_are_read(function: str):
    with pytest.raises(ConfigError, match="accepted: completions: text"):
        Rewards([RewardConfig(function=function, completions="messages")])


def test_a_component_that_failed_for_every_row_has_no_mean(group: Groups, source: Callable[[str], str]):
    """Newcomer P1, of its kind: ``evaluate`` and held-out problems gave such a reward the mean 0."""
    path = source("def never(completions):\n    raise ValueError('no gold')")
    table = table_of([RewardConfig(function=f"{path}:never")], [group(["a", "b"])])
    with pytest.raises(RunFailed, match=r"reward never failed for all of 2 completions: ValueError: no gold \(.*:2\)"):
        table.refuse_failed("completions")
    assert RewardTable.concat([table, table]).reasons == table.reasons
