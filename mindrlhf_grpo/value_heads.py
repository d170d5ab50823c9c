"""The head of one number on a language model's body (critic, reward model), as it lies in a model folder.

``score.weight`` ``[1, E]``, with or without ``score.bias`` (transformers' sequence and token classification), or an
MLP under the names of a Sequential: ``score.0.weight``, ``score.2.weight``, ... with an activation between its layers.
``classifier`` is read as another name for ``score``. Both backends read, draw and name heads here. E: hidden size.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .errors import ConfigError
from .model_files import TensorInfo, read_header, read_model_config, weight_files
from .tensor_files import read_tensor

NAME = "score"
NAMES = (NAME, "classifier")
ACTIVATIONS = ("relu", "leaky_relu", "tanh")
ACTIVATION_KEY = "score_activation"  # in config.json; only an MLP head reads it
LEAK = 0.01  # slope of leaky_relu below 0

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueHead:
    """Weights by name, ``score...``, in float32; ``activation`` stands between layers where there are several."""

    tensors: Mapping[str, Floats]
    activation: str = "relu"

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the linear layers, first to last."""
        return layer_names(self.tensors)


def layer_names(names: Mapping[str, object]) -> tuple[str, ...]:
    """Linear layers of a head by the names of its weights: ``score``, or ``score.0``, ``score.2``, ..."""
    found = [name.removesuffix(".weight") for name in names if name.endswith(".weight")]
    return tuple(sorted(found, key=lambda name: int(name.partition(".")[2] or 0)))


def is_head(name: str) -> bool:
    """Whether a tensor of a model folder belongs to a head of one number."""
    return name.partition(".")[0] in NAMES


def load_value_head(folder: Path, hidden: int, *, seed: int) -> ValueHead:
    """The head of a model folder; a small random one where the folder has none (a causal LM).

    Raises:
        ConfigError: tensors that are no head of one number over ``hidden`` numbers.
    """
    found = {
        name: (path, info) for path in weight_files(folder) for name, info in read_header(path).items() if is_head(name)
    }
    if not found:
        return ValueHead(tensors={f"{NAME}.weight": drawn(hidden, seed)})
    check_names(folder, {name: info for name, (_, info) in found.items()}, hidden)
    tensors = {NAME + name[len(name.partition(".")[0]) :]: read_tensor(*place) for name, place in found.items()}
    activation = str(read_model_config(folder).get(ACTIVATION_KEY, ACTIVATIONS[0]))
    if activation not in ACTIVATIONS:
        raise ConfigError(
            f"{folder}: {ACTIVATION_KEY} in config.json is {activation!r}; accepted: {', '.join(ACTIVATIONS)}"
        )
    return ValueHead(tensors=tensors, activation=activation)


def drawn(hidden: int, seed: int) -> Floats:
    """``[1, E]`` normal with standard deviation 1 / (E + 1): first values near 0 (arXiv:2009.01325, appendix B)."""
    return (np.random.default_rng(seed).standard_normal((1, hidden)) / (hidden + 1)).astype(np.float32)


def check_names(folder: Path, found: Mapping[str, TensorInfo], hidden: int) -> None:
    """Refuse what is no chain of linear layers from ``hidden`` to one number under one name."""
    wrong = [name for name in found if not re.fullmatch(r"\w+(\.\d+)?\.(weight|bias)", name)]
    width = hidden
    for layer in [] if wrong else layer_names(found):
        shape = found[f"{layer}.weight"].shape
        bias = found.get(f"{layer}.bias")
        if len(shape) != 2 or shape[1] != width or (bias is not None and bias.shape != shape[:1]):
            wrong.append(f"{layer}.weight")
        width = shape[0]
    if wrong or width != 1 or len({name.partition(".")[0] for name in found}) != 1:
        shapes = ", ".join(f"{name} {list(info.shape)}" for name, info in sorted(found.items()))
        raise ConfigError(
            f"{folder}: its head is no head of one number over {hidden} numbers: {shapes}; accepted: score.weight "
            f"[1, {hidden}] with or without score.bias, or an MLP score.0, score.2, ... that ends in one number"
        )


def write_head_settings(folder: Path, head: ValueHead) -> None:
    """Let a saved ``config.json`` say what head its weights hold, so that transformers reads a linear one whole.

    A bias exists in transformers' token classification only, so the architecture is called that then.
    """
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    names = [re.sub(r"For\w+$", "", name) for name in config.get("architectures") or ()]
    kind = "ForTokenClassification" if f"{NAME}.bias" in head.tensors else "ForSequenceClassification"
    config["architectures"] = [name + kind for name in names]
    config["id2label"], config["label2id"] = {"0": "LABEL_0"}, {"LABEL_0": 0}
    if len(head.layers) > 1:
        config[ACTIVATION_KEY] = head.activation
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
