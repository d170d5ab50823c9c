"""The PyTorch backend: Hugging Face models as they are, on CPU, CUDA and NPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .checks import check, environment_warning

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from mindrlhf_grpo.backend import BackendConfig, Capability, DeviceListing

    from .backend import TorchBackend

__all__ = [
    "FRAMEWORK", "UNSUPPORTED", "build", "check", "environment_warning", "from_numpy", "list_devices", "no_gradient",
    "to_numpy",
]  # fmt: skip

FRAMEWORK = "torch"
UNSUPPORTED: Mapping[Capability, str] = {}


def build(config: BackendConfig) -> TorchBackend:
    """Build the backend of one run."""
    from .backend import TorchBackend

    return TorchBackend(config)


def list_devices() -> DeviceListing:
    """List what PyTorch can compute on here."""
    from .devices import devices

    return devices()


def from_numpy(array: NDArray[Any], device: Any = None) -> Any:
    """Make a tensor, on a device where one is passed."""
    from . import arrays

    return arrays.from_numpy(array, device)


def to_numpy(array: Any) -> NDArray[Any]:
    """Return the numbers of a tensor."""
    from . import arrays

    return arrays.to_numpy(array)


def no_gradient() -> AbstractContextManager[Any]:
    """Return ``torch.no_grad()``."""
    import torch

    return torch.no_grad()
