"""Parts of a run take turns on the device: the state machine, what it refuses, and what it remembers."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from mindrlhf_grpo.errors import RunFailed
from mindrlhf_grpo.parallel.residency import MB, KeyValueCache, Residency

NEEDS = {
    "generate": ("policy", "cache"),
    "logps": ("policy", "reference"),
    "update": ("policy", "optimizer"),
    "reward": (),
}
SIZES = {"policy": 4 * MB, "cache": 3 * MB, "reference": 4 * MB, "optimizer": 8 * MB}


@dataclass
class Arena:
    """The device as a matter of accounting."""

    size: int
    moves: list[str] = field(default_factory=list)

    def load(self) -> None:
        self.moves.append("load")

    def offload(self) -> None:
        self.moves.append("offload")

    def device_bytes(self) -> int:
        return self.size


def residency(swapped: tuple[str, ...] = tuple(SIZES)) -> Residency:
    return Residency({name: Arena(size) for name, size in SIZES.items()}, NEEDS, swapped)


@pytest.mark.row("mindrlhf", "Incremental/reshard/swap/resume", backend="none")
def test_only_what_a_phase_names_is_on_the_device_and_the_peak_is_below_the_sum() -> None:
    found = residency()
    for phase in ("generate", "reward", "logps", "update", "generate"):
        found.place(phase)
        assert set(found.trace[-1].resident) == set(NEEDS[phase])
    assert [moment.bytes // MB for moment in found.trace] == [19, 7, 7, 0, 0, 8, 8, 12, 12, 7]
    steady = [moment for moment in found.trace if moment.phase != "start"]
    assert max(moment.bytes for moment in steady) == 12 * MB
    assert sum(found.largest().values()) == 19 * MB
    assert found.roles["policy"].moves == ["offload", "load"]
    assert found.roles["cache"].moves == ["offload", "load"]


@pytest.mark.row("mindrlhf", "Incremental/reshard/swap/resume", backend="none")
def test_loading_or_offloading_twice_and_a_wrong_set_stop_the_run() -> None:
    found = residency()
    found.offload("cache")
    with pytest.raises(RunFailed, match=r"cache is in host memory already"):
        found.offload("cache")
    with pytest.raises(RunFailed, match=r"policy is on the device already"):
        found.load("policy")
    with pytest.raises(RunFailed, match=r"needs policy on the device, where there is optimizer, policy, reference"):
        found.check(("policy",))


def test_roles_that_are_not_swapped_stay() -> None:
    found = residency(swapped=("optimizer",))
    found.place("generate")
    assert set(found.trace[-1].resident) == {"policy", "cache", "reference"}
    found.place("update")
    assert set(found.trace[-1].resident) == set(SIZES)


def test_phases_without_needs_move_nothing_and_a_run_without_roles_says_nothing() -> None:
    found = residency()
    found.place("save")
    assert found.trace == []
    nothing = Residency({}, NEEDS, SIZES)
    nothing.place("generate")
    assert (nothing.metrics(), nothing.summary()) == ({}, {})


def test_metrics_are_the_peak_since_the_last_call() -> None:
    found = residency()
    found.place("update")
    assert found.metrics() == {"memory/resident_peak_mb": 19.0}
    found.place("logps")
    assert found.metrics() == {"memory/resident_peak_mb": 12.0}
    assert found.summary()["residency"]["phases"]["logps"] == ["policy", "reference"]


@pytest.mark.row("mindrlhf", "Incremental/reshard/swap/resume", backend="none")
def test_the_cache_is_put_to_sleep_and_woken_in_order() -> None:
    calls: list[str] = []
    cache = KeyValueCache(lambda: calls.append("sleep"), lambda: calls.append("wake_up"), lambda: 5)
    found = Residency({"cache": cache}, NEEDS, ("cache",))
    for phase in ("generate", "update", "logps", "generate"):
        found.place(phase)
    assert calls == ["sleep", "wake_up"]
    assert found.peak_bytes == 5
