"""The value head on a language model's body (critic, reward model): one number per token, as a model folder holds it.

``score.weight`` ``[1, E]``, with or without ``score.bias`` (transformers' sequence and token classification), or an
MLP under the names of a Sequential: ``score.0.weight``, ``score.2.weight``, ... with an activation between its layers.
``classifier`` is read as another name for ``score``; heads that a model type stores under other names are in
``NAMED_HEADS``. Both backends read, draw and name heads here. E: hidden size.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from .folder import TensorInfo, read_header, read_model_config, weight_files
from .safetensors import read_tensor

NAME = "score"
SHARED_HEAD = "value_head.safetensors"  # of a critic that shares the policy's body, beside the optimizer
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

    def apply(self, hidden: NDArray[Any]) -> NDArray[np.float64]:
        """Values ``[R]`` of hidden states ``[R, E]`` in float64: the reference of both backends."""
        x = np.asarray(hidden, np.float64)
        for place, layer in enumerate(self.layers):
            x = self.active(x) if place else x
            bias = self.tensors.get(f"{layer}.bias")
            x = x @ self.tensors[f"{layer}.weight"].T.astype(np.float64) + (0.0 if bias is None else bias)
        return x[:, 0]

    def active(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.activation == "leaky_relu":
            return np.maximum(x, x * LEAK)
        return np.tanh(x) if self.activation == "tanh" else np.maximum(x, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedHead:
    """The names under which a model type stores an MLP on a known family's body: ``NAME.layers.I``, ``NAME.output_layer``.

    Attributes:
        family: ``model_type`` of the body, whose other settings are those of this family.
        name: name of the head.
        widths: the key of ``config.json`` with the widths between hidden size and 1, as text: ``"256,64"``.
    """

    family: str
    name: str
    widths: str
    activation: str

    def stored_names(self, depth: int) -> list[tuple[str, str]]:
        """(name in the folder, name here) of each linear layer, for ``depth`` layers before the last."""
        inner = [(f"{self.name}.layers.{i}", f"{NAME}.{2 * i}") for i in range(depth)]
        return [*inner, (f"{self.name}.output_layer", f"{NAME}.{2 * depth}" if depth else NAME)]

    def read_widths(self, folder: Path, config: Mapping[str, Any]) -> list[int]:
        """The widths in ``config.json``. Raises ConfigError where they are not positive integers."""
        written = config.get(self.widths, "")
        try:
            widths = [int(width) for width in str(written).split(",") if width.strip()]
        except ValueError:
            widths = [0]
        if any(width < 1 for width in widths):
            raise ConfigError(f"{folder}: {self.widths} in config.json is {written!r}; accepted: widths like '256,64'")
        return widths


NAMED_HEADS = {"myrm": NamedHead(family="llama", name="myscore", widths="hidden_dim_str", activation="leaky_relu")}


def body_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config.json`` of a model, rewritten as that of its body's family where the model type only names its head."""
    named = NAMED_HEADS.get(str(config.get("model_type")))
    if named is None:
        return dict(config)
    settings = {key: value for key, value in config.items() if key not in ("auto_map", named.widths)}
    kind = named.family.capitalize()
    return {**settings, "model_type": named.family, "architectures": [f"{kind}ForSequenceClassification"]}


def layer_names(names: Mapping[str, object]) -> tuple[str, ...]:
    """Linear layers of a head by the names of its weights: ``score``, or ``score.0``, ``score.2``, ..."""
    layers = [name.removesuffix(".weight") for name in names if name.endswith(".weight")]
    return tuple(sorted(layers, key=lambda name: int(name.partition(".")[2] or 0)))


def is_head(name: str) -> bool:
    """True for a tensor of a model folder that belongs to a value head."""
    return name.partition(".")[0] in (*NAMES, *(named.name for named in NAMED_HEADS.values()))


def load_value_head(folder: Path, hidden: int, *, seed: int) -> ValueHead:
    """Read the head of a model folder; draw a small random one where the folder has none (a causal LM).

    Raises:
        ConfigError: tensors that do not form a head from ``hidden`` numbers to one.
    """
    stored_tensors = {
        name: (path, info) for path in weight_files(folder) for name, info in read_header(path).items() if is_head(name)
    }
    config = read_model_config(folder)
    named = NAMED_HEADS.get(str(config.get("model_type")))
    if named is not None:
        return read_named_head(folder, named, config, hidden, stored_tensors)
    if not stored_tensors:
        return ValueHead(tensors={f"{NAME}.weight": drawn(hidden, seed)})
    check_names(folder, {name: info for name, (_, info) in stored_tensors.items()}, hidden)
    tensors = {
        NAME + name[len(name.partition(".")[0]) :]: read_tensor(*place) for name, place in stored_tensors.items()
    }
    activation = str(config.get(ACTIVATION_KEY, ACTIVATIONS[0]))
    if activation not in ACTIVATIONS:
        raise ConfigError(
            f"{folder}: {ACTIVATION_KEY} in config.json is {activation!r}; accepted: {', '.join(ACTIVATIONS)}"
        )
    return ValueHead(tensors=tensors, activation=activation)


def read_named_head(
    folder: Path,
    named: NamedHead,
    config: Mapping[str, Any],
    hidden: int,
    stored_tensors: Mapping[str, tuple[Path, TensorInfo]],
) -> ValueHead:
    """Read the head of a model type in ``NAMED_HEADS``; other heads in its files are those of the model it was made from.

    Raises:
        ConfigError: weights that are missing or of another shape than ``config.json`` says; no random head replaces them.
    """
    widths = named.read_widths(folder, config)
    sizes = [hidden, *widths, 1]
    tensors: dict[str, Floats] = {}
    wrong: list[str] = []
    for place, (stored, name) in enumerate(named.stored_names(len(widths))):
        for part, shape in (("weight", (sizes[place + 1], sizes[place])), ("bias", sizes[place + 1 : place + 2])):
            where = stored_tensors.get(f"{stored}.{part}")
            if where is None or where[1].shape != tuple(shape):
                wrong.append(f"{stored}.{part} {'is missing' if where is None else list(where[1].shape)}")
            else:
                tensors[f"{name}.{part}"] = read_tensor(*where)
    if wrong:
        raise ConfigError(
            f"{folder}: its head does not fit {named.widths} {config.get(named.widths)!r} over {hidden} numbers: "
            f"{', '.join(wrong)}"
        )
    return ValueHead(tensors=tensors, activation=named.activation)


def drawn(hidden: int, seed: int) -> Floats:
    """``[1, E]`` normal with standard deviation 1 / (E + 1): first values near 0 (arXiv:2009.01325, appendix B)."""
    return (np.random.default_rng(seed).standard_normal((1, hidden)) / (hidden + 1)).astype(np.float32)


def check_names(folder: Path, tensors: Mapping[str, TensorInfo], hidden: int) -> None:
    """Raise ConfigError unless the tensors are a chain of linear layers from ``hidden`` numbers to one, under one name."""
    wrong = [name for name in tensors if not re.fullmatch(r"\w+(\.\d+)?\.(weight|bias)", name)]
    width = hidden
    for layer in [] if wrong else layer_names(tensors):
        shape = tensors[f"{layer}.weight"].shape
        bias = tensors.get(f"{layer}.bias")
        if len(shape) != 2 or shape[1] != width or (bias is not None and bias.shape != shape[:1]):
            wrong.append(f"{layer}.weight")
        width = shape[0]
    if wrong or width != 1 or len({name.partition(".")[0] for name in tensors}) != 1:
        shapes = ", ".join(f"{name} {list(info.shape)}" for name, info in sorted(tensors.items()))
        raise ConfigError(
            f"{folder}: its head is no head of one number over {hidden} numbers: {shapes}; accepted: score.weight "
            f"[1, {hidden}] with or without score.bias, or an MLP score.0, score.2, ... that ends in one number"
        )


def write_head_settings(folder: Path, head: ValueHead) -> None:
    """Record the head in a saved ``config.json``, so that transformers reads a linear one with its weights.

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


def mark_head_in_adapter(folder: Path) -> None:
    """Name the head among peft's ``modules_to_save`` in the settings of an adapter that holds it."""
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**settings, "task_type": "SEQ_CLS", "modules_to_save": [NAME]}, indent=2) + "\n")
