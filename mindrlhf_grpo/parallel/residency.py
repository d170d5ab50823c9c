"""Swap: in each phase of a step only the parts that compute are on the device; the others wait in host memory.

``NEEDS`` is the one table of phases and parts: the trainer moves memory by it, the memory prediction computes with it,
and ``swap.roles`` accepts its names. The state machine is here; the backend's roles do the moves. On a CPU the device
is a matter of accounting: bytes are counted as if they had left, and a part that a phase did not ask for reads as NaN,
so that a wrong phase shows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from ..errors import RunFailed

MB = 2**20
RoleName = Literal["policy", "optimizer", "reference", "critic", "critic_optimizer", "engine", "kv_cache"]

# Phase of an online step -> the parts that it computes with.
NEEDS: dict[str, tuple[RoleName, ...]] = {
    "generate": ("policy", "engine", "kv_cache"),
    "reward": (),  # reward models bring their own memory
    "logps": ("policy", "reference"),
    "values": ("critic",),
    "update critic": ("critic", "critic_optimizer"),
    "update": ("policy", "optimizer"),
    "move reference": ("policy", "reference"),
    "sync": ("policy", "engine"),
    "eval": ("policy", "engine", "kv_cache"),
    "checkpoint": ("policy", "optimizer", "reference"),
    "checkpoint critic": ("critic", "critic_optimizer"),
}


class Role(Protocol):
    """The memory of one part of a run, which moves as a whole. A part begins on the device."""

    def load(self) -> None:
        """Bring it to the device."""
        ...

    def offload(self) -> None:
        """Bring it to host memory, or free what can be made again."""
        ...

    def device_bytes(self) -> int:
        """What it takes on the device while it is there."""
        ...


@dataclass(frozen=True, slots=True)
class KeyValueCache:
    """A role that is freed by putting an engine to sleep, and made again by the next prompts."""

    sleep: Callable[[], None]
    wake_up: Callable[[], None]
    size: Callable[[], int]

    def load(self) -> None:
        self.wake_up()

    def offload(self) -> None:
        self.sleep()

    def device_bytes(self) -> int:
        return self.size()


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What was on the device at one time: bytes by role."""

    phase: str
    resident: Mapping[str, int]

    @property
    def bytes(self) -> int:
        return sum(self.resident.values())


class Residency:
    """The roles of a run and where they are.

    Args:
        needs: phase -> roles it computes with; other phases change nothing.
        swapped: roles that leave when a phase does not need them; the others stay.

    Attributes:
        trace: what was there when each phase began, and when it ended.
    """

    def __init__(
        self, roles: Mapping[str, Role], needs: Mapping[str, Collection[str]], swapped: Collection[str]
    ) -> None:
        self.roles, self.needs = dict(roles), needs
        self.swapped = [name for name in roles if name in swapped]
        self.loaded = dict.fromkeys(roles, True)
        self.phase = "start"
        self.trace: list[Moment] = []
        self.seen = 0

    def enter(self, phase: str) -> None:
        """The roles of a phase come to the device, after the others have left.

        Raises:
            RunFailed: a role would be loaded or offloaded twice, or the device holds another set than the phase's.
        """
        if not self.roles or phase not in self.needs:
            return
        self.record()
        self.phase, needed = phase, self.needs[phase]
        for name in self.swapped:
            if self.loaded[name] and name not in needed:
                self.offload(name)
        for name in self.swapped:
            if not self.loaded[name] and name in needed:
                self.load(name)
        self.check(needed)
        self.record()

    def load(self, name: str) -> None:
        """Bring one role to the device."""
        self._move(name, to_device=True)

    def offload(self, name: str) -> None:
        """Bring one role away."""
        self._move(name, to_device=False)

    def _move(self, name: str, *, to_device: bool) -> None:
        if self.loaded[name] == to_device:
            place = "on the device" if to_device else "in host memory"
            raise RunFailed(f"phase {self.phase!r}: {name} is {place} already")
        role = self.roles[name]
        (role.load if to_device else role.offload)()
        self.loaded[name] = to_device

    def check(self, needed: Collection[str]) -> None:
        """Only what is needed, and what never leaves, may be on the device.

        Raises:
            RunFailed: another set is.
        """
        found = {name for name in self.swapped if self.loaded[name]}
        wanted = {name for name in self.swapped if name in needed}
        if found != wanted:
            names = [", ".join(sorted(each)) or "nothing" for each in (wanted, found)]
            raise RunFailed(f"phase {self.phase!r} needs {names[0]} on the device, where there is {names[1]}")

    def record(self) -> None:
        """Note what is on the device now."""
        there = {name: role.device_bytes() for name, role in self.roles.items() if self.loaded[name]}
        self.trace.append(Moment(phase=self.phase, resident=there))

    def figures(self) -> dict[str, float]:
        """The most that was on the device since the last call, in MB; nothing without roles."""
        recent, self.seen = self.trace[self.seen :], len(self.trace)
        return {"memory/resident_peak_mb": max(moment.bytes for moment in recent) / MB} if recent else {}

    @property
    def peak_bytes(self) -> int:
        """The most that was on the device at once."""
        return max((moment.bytes for moment in self.trace), default=0)

    def largest(self) -> dict[str, int]:
        """Of each role the most bytes it had; their sum is what a run needs that keeps everything."""
        sizes = dict.fromkeys(self.roles, 0)
        for moment in self.trace:
            for name, size in moment.resident.items():
                sizes[name] = max(sizes[name], size)
        return sizes

    def summary(self) -> dict[str, object]:
        """For the summary of a run: peak and sum in MB, and which roles each phase had on the device."""
        if not self.roles:
            return {}
        phases = {moment.phase: sorted(moment.resident) for moment in self.trace if moment.phase != "start"}
        sizes = self.largest()
        figures = {"peak_mb": self.peak_bytes / MB, "sum_mb": sum(sizes.values()) / MB}
        return {"residency": {**figures, "roles_mb": {n: size / MB for n, size in sizes.items()}, "phases": phases}}
