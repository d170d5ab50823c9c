"""The MindSpore backend: own decoder cells, compiled once for every bucket of shapes, on the processor and on Ascend."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING

from .checks import check
from .record_files import read_records, write_records

if TYPE_CHECKING:
    from mindrlhf_grpo.config.run import RunConfig

    from .backend import MindSporeBackend

__all__ = ["build", "check", "read_records", "write_records"]

os.environ.setdefault("GLOG_v", "3")  # errors only: MindSpore's warnings are meant for its developers
# Where a compilation that fails leaves its graph; MindSpore would put it into the current folder.
os.environ.setdefault("MS_OM_PATH", os.path.join(tempfile.gettempdir(), f"mindspore-{os.getuid()}"))


def build(config: RunConfig) -> MindSporeBackend:
    """The backend of one run.

    Raises:
        BackendError: the NumPy, device or dtype is not one that MindSpore can work with here.
        ConfigError: the model's family is not among those of this backend.
    """
    check(config)
    from .backend import MindSporeBackend

    return MindSporeBackend(config)
