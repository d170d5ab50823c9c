"""The PyTorch backend: Hugging Face models as they are, on CPU, CUDA and NPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mindrlhf_grpo.config.run import RunConfig

    from .backend import TorchBackend

__all__ = ["build"]


def build(config: RunConfig) -> TorchBackend:
    """The backend of one run."""
    from .backend import TorchBackend

    return TorchBackend(config)
