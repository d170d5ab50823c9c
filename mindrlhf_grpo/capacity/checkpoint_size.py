"""The size of a checkpoint on disk, from the configuration and the headers of the model's files."""

from __future__ import annotations

from ..config.file import AnyConfig
from ..model_files.families import nearest_architecture
from ..model_files.folder import find_folder, read_model_config, read_shapes
from .memory import BYTES, adapter_parameters, optimizer_bytes
from .model_shape import model_shape
from .prediction import models_beside


def checkpoint_bytes(config: AnyConfig) -> int:
    """Bytes of one checkpoint of a run: weights (or adapters) and optimizer, and a critic's of its own.

    Raises:
        ConfigError: there is no such model, or its files are broken.
    """
    folder, model = find_folder(config.model.path), config.model
    frozen = model.freeze.prefixes if model.freeze else ()
    shape = model_shape(nearest_architecture(read_model_config(folder)), read_shapes(folder), frozen)
    adapters, (_, critic) = adapter_parameters(shape, model.lora_rank), models_beside(config)
    policy = (
        4 * adapters + optimizer_bytes(adapters, "float32")
        if adapters
        else BYTES[model.dtype] * shape.parameters + optimizer_bytes(sum(shape.trained), model.dtype)
    )
    beside = BYTES[model.dtype] * shape.parameters + optimizer_bytes(shape.parameters, model.dtype)
    return policy + (beside if critic else 0)
