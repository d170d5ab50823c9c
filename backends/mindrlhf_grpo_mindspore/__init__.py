"""The MindSpore backend: its own decoder cells, compiled once for every bucket of shapes, on CPU and Ascend."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from .checks import check, environment_warning
from .record_files import read_records, write_records

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from mindrlhf_grpo.backend import BackendConfig, Capability, DeviceListing

    from .backend import MindSporeBackend

__all__ = [
    "FRAMEWORK", "UNSUPPORTED", "build", "check", "environment_warning", "from_numpy", "list_devices", "no_gradient",
    "read_records", "to_numpy", "write_records",
]  # fmt: skip

FRAMEWORK = "mindspore"
UNSUPPORTED: Mapping[Capability, str] = {
    "remote_code": "the code in model folders is written for torch",
}

os.environ.setdefault("GLOG_v", "3")  # errors only: MindSpore's warnings are meant for its developers
# Where a compilation that fails leaves its graph; MindSpore would put it into the current folder.
os.environ.setdefault("MS_OM_PATH", os.path.join(tempfile.gettempdir(), f"mindspore-{os.getuid()}"))


def build(config: BackendConfig) -> MindSporeBackend:
    """Build the backend of one run.

    Raises:
        BackendError: the NumPy, device or dtype is not one that MindSpore can work with here.
        ConfigError: the model's family is not among those of this backend.
    """
    check(config)
    from .backend import MindSporeBackend

    return MindSporeBackend(config)


def list_devices() -> DeviceListing:
    """List what MindSpore can compute on here."""
    from .devices import devices

    return devices()


def from_numpy(array: NDArray[Any], device: Any = None) -> Any:
    """Make a tensor; MindSpore puts it on the device of the process."""
    from . import arrays

    return arrays.from_numpy(array, device)


def to_numpy(array: Any) -> NDArray[Any]:
    """Return the numbers of a tensor."""
    from . import arrays

    return arrays.to_numpy(array)


def no_gradient() -> AbstractContextManager[Any]:
    """Return a context that does nothing: MindSpore records only inside ``value_and_grad``."""
    return nullcontext()
