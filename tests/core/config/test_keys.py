"""The keys of a configuration: ``explain`` lists every one, counts them, and each has a description."""

from __future__ import annotations

import re

import pytest

from mindrlhf_grpo.cli.explain import explain
from mindrlhf_grpo.config.keys import catalogue
from mindrlhf_grpo.config.offline import OfflineConfig
from mindrlhf_grpo.config.run import RunConfig

ONLINE, OFFLINE = catalogue(RunConfig), catalogue(OfflineConfig)


def test_explain_lists_every_key_once_and_says_how_many() -> None:
    text = explain()
    listed = re.findall(r"^  ([a-z][\w.N]*)  ", text, re.M)
    paths = {key.path for keys in (ONLINE, OFFLINE) for key in keys.leaves()}
    assert sorted(listed) == sorted(paths)
    counts = [int(number) for number in re.findall(r"\d+", text.splitlines()[1])]
    assert counts == [len(ONLINE.leaves()), len(ONLINE.always_present()), len(OFFLINE.leaves())]


def test_the_number_of_keys() -> None:
    """A new key changes these numbers: is it one that somebody sets?"""
    assert (len(ONLINE.leaves()), len(ONLINE.always_present()), len(OFFLINE.leaves())) == (138, 81, 67)


@pytest.mark.parametrize("keys", [ONLINE, OFFLINE], ids=["online", "offline"])
def test_every_key_is_described(keys: object) -> None:
    records = keys.records.values()
    assert [key.path for key in records if not key.description and key.name != "N"] == []


def test_a_key_of_a_section_that_may_be_null_is_not_always_present() -> None:
    present = {key.path for key in ONLINE.always_present()}
    assert {"backend", "train.learning_rate", "algorithm.name"} <= present
    assert not {"critic.path", "algorithm.entropy.coef", "parallel.fsdp"} & present
