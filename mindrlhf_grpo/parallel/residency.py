"""Swap: in each phase of a step only the parts that compute are on the device; the others wait in host memory.

``NEEDS`` is the one table of phases and parts: the trainer moves memory by it, the memory prediction computes with it,
and ``swap.roles`` accepts its names. The state machine is here; the backend's roles do the moves. On a CPU the device
is a matter of accounting: bytes are counted as if they had left, and a part that a phase did not ask for reads as NaN,
so that a wrong phase shows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from ..config.parallel import RoleName
from ..errors import RunFailed

MB = 2**20

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
    """The memory of one part of a run, which moves as a whole. A part starts on the device."""

    def load(self) -> None:
        """Bring it to the device."""
        ...

    def offload(self) -> None:
        """Bring it to host memory, or free it where it can be made again."""
        ...

    def device_bytes(self) -> int:
        """Bytes that it takes on the device while it is there."""
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
    """A snapshot of the device: bytes by role."""

    phase: str
    resident: Mapping[str, int]

    @property
    def bytes(self) -> int:
        return sum(self.resident.values())


class Residency:
    """The roles of a run, and which of them are on the device now.

    Args:
        needs: phase -> roles it computes with; a phase that is not listed moves nothing.
        swapped: roles that leave when a phase does not need them; the others stay.
        recorded: whether to keep the trace; without it there are no metrics and no summary.

    Attributes:
        trace: a snapshot from before and after the moves of each phase.
    """

    def __init__(
        self,
        roles: Mapping[str, Role],
        needs: Mapping[str, Collection[str]],
        swapped: Collection[str],
        *,
        recorded: bool = True,
    ) -> None:
        self.roles, self.needs, self.recorded = dict(roles), needs, recorded
        self.swapped = [name for name in roles if name in swapped]
        self.loaded = dict.fromkeys(roles, True)
        self.phase = "start"
        self.trace: list[Moment] = []
        self.reported = 0

    def place(self, phase: str) -> None:
        """Bring the roles of a phase to the device, after the others have left it.

        Raises:
            RunFailed: a role would be loaded or offloaded twice, or the device holds another set than the phase needs.
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
        """Bring one role to host memory."""
        self._move(name, to_device=False)

    def _move(self, name: str, *, to_device: bool) -> None:
        if self.loaded[name] == to_device:
            place = "on the device" if to_device else "in host memory"
            raise RunFailed(f"phase {self.phase!r}: {name} is {place} already")
        role = self.roles[name]
        (role.load if to_device else role.offload)()
        self.loaded[name] = to_device

    def check(self, needed: Collection[str]) -> None:
        """Raise RunFailed unless the swapped roles on the device are exactly those that are needed."""
        resident = {name for name in self.swapped if self.loaded[name]}
        required = {name for name in self.swapped if name in needed}
        if resident != required:
            required_names, resident_names = (", ".join(sorted(names)) or "nothing" for names in (required, resident))
            raise RunFailed(
                f"phase {self.phase!r} needs {required_names} on the device, where there is {resident_names}"
            )

    def record(self) -> None:
        """Add a snapshot of the device to the trace."""
        if self.recorded:
            resident = {name: role.device_bytes() for name, role in self.roles.items() if self.loaded[name]}
            self.trace.append(Moment(phase=self.phase, resident=resident))

    def metrics(self) -> dict[str, float]:
        """The peak on the device since the last call, in MB; empty without a trace."""
        recent, self.reported = self.trace[self.reported :], len(self.trace)
        return {"memory/resident_peak_mb": max(moment.bytes for moment in recent) / MB} if recent else {}

    @property
    def peak_bytes(self) -> int:
        """The most bytes that were on the device at once."""
        return max((moment.bytes for moment in self.trace), default=0)

    def largest(self) -> dict[str, int]:
        """The most bytes of each role; their sum is the need of a run that keeps everything on the device."""
        sizes = dict.fromkeys(self.roles, 0)
        for moment in self.trace:
            for name, size in moment.resident.items():
                sizes[name] = max(sizes[name], size)
        return sizes

    def summary(self) -> dict[str, object]:
        """The section ``residency`` of a run's summary: peak and sum in MB, and the roles on the device by phase."""
        if not self.roles or not self.recorded:
            return {}
        phases = {moment.phase: sorted(moment.resident) for moment in self.trace if moment.phase != "start"}
        sizes = self.largest()
        totals = {"peak_mb": self.peak_bytes / MB, "sum_mb": sum(sizes.values()) / MB}
        return {"residency": {**totals, "roles_mb": {n: size / MB for n, size in sizes.items()}, "phases": phases}}
