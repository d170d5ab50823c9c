"""Checks of a configuration before MindSpore is imported and before any weights are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mindrlhf_grpo.errors import BackendError, ConfigError
from mindrlhf_grpo.model_files.folder import find_folder, read_model_config
from mindrlhf_grpo.model_files.value_head import body_config

if TYPE_CHECKING:
    from mindrlhf_grpo.backend import BackendConfig
    from mindrlhf_grpo.config.parallel import ParallelConfig

DEVICES = ("auto", "cpu", "npu")


def check(config: BackendConfig) -> None:
    """Raise unless this backend can run the configuration, as far as that can be known without MindSpore.

    Raises:
        BackendError: NumPy 2, a device that is neither processor nor Ascend, bfloat16 on the processor.
        ConfigError: a model of a family that has no cells here.
    """
    check_numpy(np.__version__)
    check_device(config.model.device)
    check_dtype(config.model.dtype, config.model.device)
    check_family(config.model.path)
    check_parallel(config.parallel)
    check_tensor(config)
    sharded = config.parallel is not None and config.parallel.strategy != "replicate"
    if sharded and config.train.optimizer.decayed == "matrices":
        raise ConfigError(
            "train.adamw.decayed: backend 'mindspore' steps slices that mix matrices and vectors where the optimizer state "
            "is shared out; accepted with parallel.strategy zero1, zero2: all"
        )
    if config.model.freeze is not None:
        raise ConfigError(
            "model.freeze: backend 'mindspore' trains all weights, or adapters (model.lora_rank); accepted: null"
        )


def check_numpy(version: str) -> None:
    """Raise BackendError for NumPy 2, with which the first operation of MindSpore 2.10 fails."""
    if numpy_2(version):
        raise BackendError(f"backend 'mindspore' needs numpy < 2, here is numpy {version}: pip install 'numpy<2'")


def environment_warning() -> str:
    """Return the remedy for a NumPy with which the first operation of MindSpore 2.10 fails."""
    return numpy_warning(np.__version__)


def numpy_warning(version: str) -> str:
    """Return the remedy for a version of NumPy; empty for one that works."""
    return f"mindspore 2.10 needs numpy < 2, here is {version}: pip install 'numpy<2'" if numpy_2(version) else ""


def numpy_2(version: str) -> bool:
    return int(version.split(".")[0]) >= 2


def check_device(device: str) -> None:
    """Raise BackendError for a device that this backend does not compute on."""
    if device not in DEVICES:
        raise BackendError(
            f"model.device: backend 'mindspore' does not compute on {device!r}; it takes {', '.join(DEVICES)} "
            "(npu is Ascend); for NVIDIA GPUs set backend=torch"
        )


def check_dtype(dtype: str, device: str) -> None:
    """Raise BackendError where the arithmetic is missing: MindSpore multiplies bfloat16 matrices on Ascend only.

    float16 is no type of a run. Parity bundles and tests rehearse 16 bits on the processor with it.
    """
    if device == "cpu" and dtype == "bfloat16":
        raise BackendError(
            f"model.dtype: backend 'mindspore' computes in float32 only on the processor, not in {dtype!r}; "
            "set model.dtype=float32, or model.device=npu on an Ascend machine"
        )


def check_parallel(settings: ParallelConfig | None) -> None:
    """Raise BackendError for weights that would be cut over ranks, or be kept on the host between uses."""
    if settings is None:
        return
    if settings.strategy == "fsdp":
        raise BackendError(
            "parallel.strategy: backend 'mindspore' shares out the optimizer state (zero1, zero2), and every rank holds "
            "all weights; accepted: replicate, zero1, zero2, or backend=torch for 'fsdp'"
        )
    if settings.offload:
        raise BackendError(
            "parallel.offload: backend 'mindspore' keeps shards on the device; accepted: false, or swap: {} for parts "
            "that leave it between phases"
        )


def check_tensor(config: BackendConfig) -> None:
    """Raise ConfigError for what cannot be computed from slices of matrices here."""
    tensor = 1 if config.parallel is None else config.parallel.tensor
    engine = config.rollout.parallel
    apart = tensor if engine is None else engine.tensor
    if max(tensor, apart) > 1 and getattr(config, "environment", None) is not None:
        raise ConfigError(
            "environment: backend 'mindspore' asks it on every rank, and the ranks of a tensor group must get one answer; "
            "accepted: parallel.tensor and rollout.parallel.tensor 1, or no environment"
        )
    if tensor > 1 and config.model.recompute:
        raise ConfigError(
            "model.recompute: backend 'mindspore' does not compute layers again whose matrices are cut over ranks "
            f"(parallel.tensor is {tensor}); accepted: false"
        )


def check_family(path: str) -> None:
    """Raise ConfigError unless the family of the model at ``path`` has cells here; reads config.json only."""
    from .models import supported_architecture

    try:
        supported_architecture(body_config(read_model_config(find_folder(path))))
    except ConfigError as error:
        raise ConfigError(f"model.path {path!r}: {error}") from None
