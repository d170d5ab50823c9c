"""Hugging Face models in and out: load, adapters, save, and the weights by their Hugging Face names.

Only safetensors are read and written: nothing is unpickled. ``hf_tensors`` is the one view of the weights that
trainer, engine and export agree on: adapters merged, names as in the Hugging Face layout.
"""

from __future__ import annotations

from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor

from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.model_files import TensorInfo, read_header, weight_files
from mindrlhf_grpo.tensor_files import read_tensor

from .models.architecture import Architecture
from .models.weight_names import weight_shapes

DTYPES = {"float32": ms.float32, "bfloat16": ms.bfloat16, "float16": ms.float16}
Found = dict[str, tuple[Path, TensorInfo]]


def load_weights(folder: Path, architecture: Architecture, dtype: str = "float32") -> dict[str, Parameter]:
    """The weights of a model folder by Hugging Face name, all trainable.

    Raises:
        ConfigError: weights that are missing, unknown or of another shape; names them.
    """
    found: Found = {name: (path, info) for path in weight_files(folder) for name, info in read_header(path).items()}
    expected = weight_shapes(architecture)
    missing = sorted(set(expected) - set(found))
    if missing:
        raise ConfigError(f"{folder}: weights are missing: {missing[:3]}")
    return {name: parameter(name, read_tensor(*found[name]), dtype) for name in expected}


def parameter(name: str, values: np.ndarray, dtype: str) -> Parameter:
    tensor = Tensor(np.ascontiguousarray(values))
    return Parameter(tensor if dtype == "float32" else tensor.astype(DTYPES[dtype]), name=name)
