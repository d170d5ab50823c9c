"""Tensors that leave the device and come back into the same storage.

Storages move, not tensors: an engine that computes with views of the policy's weights finds them again. On an
accelerator the storage is freed and its bytes lie in pinned host memory. On a processor there is nothing to gain by
moving: the bytes are set aside and the storage reads as NaN until they are back, so that a wrong use shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, UntypedStorage

from ..models.hf import local


class DeviceMemory:
    """Implements ``residency.Role`` over the tensors that there are when it moves; those of other devices stay.

    Attributes:
        hosts: pinned memory by storage, kept between moves because pinning is slow.
        away: what is not on the device.
    """

    def __init__(self, tensors: Callable[[], Iterable[Tensor]], device: torch.device) -> None:
        self.tensors, self.device = tensors, device
        self.hosts: dict[int, Tensor] = {}
        self.away: list[tuple[UntypedStorage, Tensor]] = []

    def storages(self) -> list[UntypedStorage]:
        """Every storage once."""
        found = [local(tensor).untyped_storage() for tensor in self.tensors()]
        return list({storage._cdata: storage for storage in found if storage.device.type == self.device.type}.values())

    def device_bytes(self) -> int:
        return sum(storage.nbytes() for storage in self.storages())

    @torch.no_grad()
    def offload(self) -> None:
        """Copy to host memory, then free."""
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
        """Take memory again and copy back."""
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
