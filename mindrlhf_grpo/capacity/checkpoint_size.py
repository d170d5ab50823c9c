"""The size of a checkpoint of a run, before there is one: from the configuration and the headers of the model's files."""

from __future__ import annotations

from ..config.file import AnyConfig
from ..model_files.families import nearest_architecture
from ..model_files.folder import find_folder, read_model_config, read_shapes
from .memory import checkpoint_bytes
from .model_shape import model_shape
from .prediction import models_beside


def predicted_checkpoint(config: AnyConfig) -> int:
    """Bytes of one checkpoint of a run.

    Raises:
        ConfigError: there is no such model, or its files are broken.
    """
    folder, frozen = find_folder(config.model.path), config.model.freeze.prefixes if config.model.freeze else ()
    shape = model_shape(nearest_architecture(read_model_config(folder)), read_shapes(folder), frozen)
    return checkpoint_bytes(config, shape, critic=models_beside(config)[1])
