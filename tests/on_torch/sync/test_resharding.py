"""Weights that change layout on their way from training to the engine, in four processes: the same tokens as in one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.runs import forked, resharded

NAMES = [f"{strategy} {tensor} to {engine} {family}" for strategy, tensor, engine, family, _ in resharded.CASES]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """What one process and four found."""
    from tests.support.tiny_policy import write_model

    folder = tmp_path_factory.mktemp("models")
    for family in {family for *_, family, _ in resharded.CASES}:
        write_model(folder / family, family, num_key_value_heads=4)
    alone = json.loads(json.dumps(resharded.main(folder)))
    output = forked.finish(forked.ranks([resharded.__file__, str(folder)], 4))
    return alone, json.loads(output.strip().splitlines()[-1])


@pytest.mark.parametrize("name", NAMES)
def test_four_processes_generate_the_tokens_of_one(found: Any, name: str) -> None:
    alone, four = (one[name] for one in found)
    assert four["tokens"] == alone["tokens"]
    assert len(four["tokens"]) == 10
    assert four["decoder"] == alone["decoder"]
    assert len(four["fingerprints"]) == 1


@pytest.mark.parametrize("name", NAMES[:3])
def test_as_much_moves_as_the_plan_says_and_every_element_arrives_once(found: Any, name: str) -> None:
    four = found[1][name]
    assert four["kind"] == "ReshardedWeightSync"
    assert four["moved"] == four["planned"]
    assert four["arrived"] == four["held"]
    assert four["buckets"] > 3


@pytest.mark.parametrize("name", NAMES[:3])
def test_a_wrong_element_is_named_on_every_rank(found: Any, name: str) -> None:
    said = found[1][name]["damaged"]
    assert len(said) == 4
    assert len(set(said)) == 1
    assert said[0].startswith(
        "weight model.norm.weight differs between engine and policy after the sync: element [3] of rank 3's part is "
    )


def test_adapters_are_merged_on_their_way_and_equal_layouts_share_memory(found: Any) -> None:
    assert [found[1][name]["kind"] for name in NAMES[3:]] == ["GatheredWeightSync", "TorchWeightSync"]
