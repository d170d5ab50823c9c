"""Swap: tensors leave the device for host memory and return into the same storage.

Storages move, not tensors: an engine that computes with views of the policy's weights finds them again. On an
accelerator the storage is freed and its bytes are in pinned host memory. On a processor moving gains nothing: the bytes
are copied and the storage reads as NaN until they are back, so that a wrong use shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, UntypedStorage

from ..models.hf import local


class DeviceMemory:
    """Implements ``residency.Role`` over the current tensors at each move; those on other devices stay.

    Attributes:
        hosts: pinned memory by storage, reused because pinning is slow.
        away: the storages that are not on the device, with their bytes.
    """

    def __init__(self, tensors: Callable[[], Iterable[Tensor]], device: torch.device) -> None:
        self.tensors, self.device = tensors, device
        self.hosts: dict[int, Tensor] = {}
        self.away: list[tuple[UntypedStorage, Tensor]] = []

    def storages(self) -> list[UntypedStorage]:
        """Every storage once."""
        storages = [local(tensor).untyped_storage() for tensor in self.tensors()]
        return list(
            {storage._cdata: storage for storage in storages if storage.device.type == self.device.type}.values()
        )

    def device_bytes(self) -> int:
        return sum(storage.nbytes() for storage in self.storages())

    @torch.no_grad()
    def offload(self) -> None:
        """Copy the bytes to host memory, then free the storages."""
        for storage in self.storages():
            host = self.hosts.get(storage._cdata)
            if host is None or len(host) != storage.nbytes():
                host = torch.empty(storage.nbytes(), dtype=torch.uint8, pin_memory=self.device.type == "cuda")
                self.hosts[storage._cdata] = host
            host.copy_(as_bytes(storage), non_blocking=True)
            self.away.append((storage, host))
        self.wait()
        for storage, _ in self.away:
            if storage.device.type == "cpu":
                as_bytes(storage).fill_(0xFF)  # NaN in every floating type
            else:
                storage.resize_(0)

    @torch.no_grad()
    def load(self) -> None:
        """Allocate the storages again and copy the bytes back."""
        for storage, host in self.away:
            if storage.device.type != "cpu":
                storage.resize_(len(host))
            as_bytes(storage).copy_(host, non_blocking=True)
        self.wait()  # streams that gather shards do not wait for this one
        self.away = []

    def wait(self) -> None:
        if self.device.type != "cpu":
            torch.accelerator.synchronize()


def as_bytes(storage: UntypedStorage) -> Tensor:
    """A storage as a tensor of bytes in the same memory."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
