"""A Llama in NumPy and float64, forward and backward by hand: the truth that needs no framework.

One sequence at a time, nothing cached, nothing padded, so that there is little to get wrong. The backward pass is
itself checked against central differences in the tests. Weights are Hugging Face's by name and shape.
Legend: S tokens of a sequence, E hidden size, H query heads, K key/value heads, D head size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...types import IntArray

Array: TypeAlias = NDArray[np.float64]
Weights: TypeAlias = Mapping[str, Array]
Gradients: TypeAlias = dict[str, Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaShape:
    """The sizes of a Llama, as its config.json has them."""

    vocabulary: int = 61
    hidden: int = 32
    intermediate: int = 48
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    head_size: int = 8
    epsilon: float = 1e-5
    rope_theta: float = 10000.0
    context: int = 128
    tied: bool = False


class NumpyLlama:
    """Logits, and gradients of anything that is a function of them.

    Args:
        weights: name -> array, ``model.embed_tokens.weight`` and so on; held in float64.
    """

    def __init__(self, shape: LlamaShape, weights: Mapping[str, NDArray[Any]]) -> None:
        self.shape = shape
        self.weights: Gradients = {name: np.asarray(array, dtype=np.float64) for name, array in weights.items()}

    def hidden_states(self, ids: IntArray) -> tuple[list[Array], list[LayerTape]]:
        """Hidden states ``[S, E]`` after the embedding and after each layer, and what backward needs of each."""
        ends: list[Array] = [self.weights["model.embed_tokens.weight"][np.asarray(ids, dtype=np.int64)]]
        tapes: list[LayerTape] = []
        for layer in range(self.shape.layers):
            end, tape = layer_forward(self.shape, self.weights, f"model.layers.{layer}.", ends[-1])
            ends.append(end)
            tapes.append(tape)
        return ends, tapes

    def logits(self, hidden: Array) -> Array:
        """``[S, E]`` before the final norm -> ``[S, V]``."""
        scaled, _ = rms_norm(hidden, self.weights["model.norm.weight"], self.shape.epsilon)
        return scaled @ self.weights[self.head].T

    @property
    def head(self) -> str:
        """Name of the output projection's weight."""
        return "model.embed_tokens.weight" if self.shape.tied else "lm_head.weight"

    def backward(self, ids: IntArray, logit_gradient: Array) -> Gradients:
        """Gradient by weight of one sequence, from that of its logits ``[S, V]``."""
        ends, tapes = self.hidden_states(ids)
        norm = self.weights["model.norm.weight"]
        scaled, normed = rms_norm(ends[-1], norm, self.shape.epsilon)
        found: Gradients = {self.head: logit_gradient.T @ scaled}
        flowing, found["model.norm.weight"] = rms_norm_backward(logit_gradient @ self.weights[self.head], normed, norm)
        for layer in reversed(range(self.shape.layers)):
            prefix = f"model.layers.{layer}."
            flowing = layer_backward(self.shape, self.weights, prefix, tapes[layer], flowing, found)
        embedding = found.setdefault(
            "model.embed_tokens.weight", np.zeros_like(self.weights["model.embed_tokens.weight"])
        )
        np.add.at(embedding, np.asarray(ids, dtype=np.int64), flowing)
        return found


@dataclass(frozen=True, slots=True)
class Normed:
    """x / rms(x) ``[S, E]`` and 1 / rms(x) ``[S, 1]``."""

    unit: Array
    inverse: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTape:
    """Intermediate values of one layer's forward pass."""

    input_norm: Normed
    attention_input: Array
    queries: Array  # [H, S, D], rotated
    keys: Array  # [H, S, D], rotated, repeated for the query heads that share them
    values: Array  # [H, S, D]
    probabilities: Array  # [H, S, S]
    mixed: Array  # [S, H * D]
    feed_norm: Normed
    feed_input: Array
    gate: Array
    up: Array


def layer_forward(shape: LlamaShape, weights: Weights, prefix: str, hidden: Array) -> tuple[Array, LayerTape]:
    """One decoder layer, ``[S, E]`` -> ``[S, E]``."""
    attended, input_norm = rms_norm(hidden, weights[prefix + "input_layernorm.weight"], shape.epsilon)
    repeats = shape.heads // shape.kv_heads
    cos, sin = rotation(shape, len(hidden))

    def projected(name: str, heads: int) -> Array:
        flat = attended @ weights[f"{prefix}self_attn.{name}.weight"].T
        return flat.reshape(len(hidden), heads, shape.head_size).transpose(1, 0, 2)

    queries = rotate(projected("q_proj", shape.heads), cos, sin)
    keys = np.repeat(rotate(projected("k_proj", shape.kv_heads), cos, sin), repeats, axis=0)
    values = np.repeat(projected("v_proj", shape.kv_heads), repeats, axis=0)
    scores = queries @ keys.transpose(0, 2, 1) / np.sqrt(shape.head_size)
    scores = np.where(np.tril(np.ones(scores.shape[1:], dtype=bool)), scores, -np.inf)
    probabilities = np.exp(log_softmax(scores))
    mixed = (probabilities @ values).transpose(1, 0, 2).reshape(len(hidden), -1)
    middle = hidden + mixed @ weights[prefix + "self_attn.o_proj.weight"].T
    feed_input, feed_norm = rms_norm(middle, weights[prefix + "post_attention_layernorm.weight"], shape.epsilon)
    gate = feed_input @ weights[prefix + "mlp.gate_proj.weight"].T
    up = feed_input @ weights[prefix + "mlp.up_proj.weight"].T
    end = middle + (gate * sigmoid(gate) * up) @ weights[prefix + "mlp.down_proj.weight"].T
    return end, LayerTape(
        input_norm=input_norm, attention_input=attended, queries=queries, keys=keys, values=values,
        probabilities=probabilities, mixed=mixed, feed_norm=feed_norm, feed_input=feed_input, gate=gate, up=up,
    )  # fmt: skip


def layer_backward(
    shape: LlamaShape, weights: Weights, prefix: str, tape: LayerTape, flowing: Array, found: Gradients
) -> Array:
    """Gradient ``[S, E]`` of a layer's input from that of its output; the weights' gradients go into ``found``."""
    active = tape.gate * sigmoid(tape.gate)
    inner = through(weights, prefix + "mlp.down_proj.weight", active * tape.up, flowing, found)
    slope = sigmoid(tape.gate) * (1.0 + tape.gate * (1.0 - sigmoid(tape.gate)))
    fed = through(weights, prefix + "mlp.gate_proj.weight", tape.feed_input, inner * tape.up * slope, found)
    fed = fed + through(weights, prefix + "mlp.up_proj.weight", tape.feed_input, inner * active, found)
    name = prefix + "post_attention_layernorm.weight"
    through_norm, found[name] = rms_norm_backward(fed, tape.feed_norm, weights[name])
    middle = flowing + through_norm
    mixed = through(weights, prefix + "self_attn.o_proj.weight", tape.mixed, middle, found)
    attended = attention_backward(shape, weights, prefix, tape, mixed, found)
    name = prefix + "input_layernorm.weight"
    through_norm, found[name] = rms_norm_backward(attended, tape.input_norm, weights[name])
    return middle + through_norm


def attention_backward(
    shape: LlamaShape, weights: Weights, prefix: str, tape: LayerTape, mixed: Array, found: Gradients
) -> Array:
    """Gradient ``[S, E]`` of the attention's input from that of its mixed values ``[S, H * D]``."""
    tokens = len(mixed)
    cos, sin = rotation(shape, tokens)
    by_head = mixed.reshape(tokens, shape.heads, shape.head_size).transpose(1, 0, 2)
    weighted = by_head @ tape.values.transpose(0, 2, 1)
    scores = tape.probabilities * (weighted - (weighted * tape.probabilities).sum(-1, keepdims=True))
    scores = scores / np.sqrt(shape.head_size)
    parts = {
        "q_proj": unrotate(scores @ tape.keys, cos, sin),
        "k_proj": unrotate(shared(scores.transpose(0, 2, 1) @ tape.queries, shape), cos, sin),
        "v_proj": shared(tape.probabilities.transpose(0, 2, 1) @ by_head, shape),
    }
    total = np.zeros_like(tape.attention_input)
    for name, part in parts.items():
        flat = part.transpose(1, 0, 2).reshape(tokens, -1)
        total = total + through(weights, f"{prefix}self_attn.{name}.weight", tape.attention_input, flat, found)
    return total


def through(weights: Weights, name: str, inputs: Array, flowing: Array, found: Gradients) -> Array:
    """Backward of ``inputs @ W.T``: adds nothing else than W's gradient to ``found``; returns that of the inputs."""
    found[name] = flowing.T @ inputs
    return flowing @ weights[name]


def shared(by_query_head: Array, shape: LlamaShape) -> Array:
    """Sum over the query heads that read the same key/value head: ``[H, S, D]`` -> ``[K, S, D]``."""
    grouped = by_query_head.reshape(shape.kv_heads, -1, *by_query_head.shape[1:])
    return np.asarray(grouped.sum(axis=1))


def rms_norm(x: Array, weight: Array, epsilon: float) -> tuple[Array, Normed]:
    """``x / sqrt(mean(x²) + epsilon) * weight`` (https://arxiv.org/abs/1910.07467)."""
    inverse = 1.0 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + epsilon)
    return x * inverse * weight, Normed(x * inverse, inverse)


def rms_norm_backward(flowing: Array, normed: Normed, weight: Array) -> tuple[Array, Array]:
    """Gradients of the input ``[S, E]`` and of the weight ``[E]``."""
    unit = flowing * weight
    inputs = normed.inverse * (unit - normed.unit * np.mean(unit * normed.unit, axis=-1, keepdims=True))
    return inputs, np.asarray((flowing * normed.unit).sum(axis=0))


def rotation(shape: LlamaShape, tokens: int) -> tuple[Array, Array]:
    """Cosines and sines ``[S, D]`` of rotary positions, halves alike (https://arxiv.org/abs/2104.09864)."""
    frequencies = shape.rope_theta ** (-np.arange(0, shape.head_size, 2) / shape.head_size)
    angles = np.arange(tokens)[:, None] * np.concatenate([frequencies, frequencies])
    return np.cos(angles), np.sin(angles)


def rotate(x: Array, cos: Array, sin: Array) -> Array:
    """Rotary positions on ``[heads, S, D]``, dimension i paired with i + D/2."""
    first, second = np.split(x, 2, axis=-1)
    return x * cos + np.concatenate([-second, first], axis=-1) * sin


def unrotate(flowing: Array, cos: Array, sin: Array) -> Array:
    """Backward of :func:`rotate`, its transpose."""
    first, second = np.split(flowing * sin, 2, axis=-1)
    return np.asarray(flowing * cos + np.concatenate([second, -first], axis=-1))


def sigmoid(x: Array) -> Array:
    return np.asarray(1.0 / (1.0 + np.exp(-x)))


def log_softmax(x: Array) -> Array:
    """Along the last axis; -inf stays -inf."""
    top = x.max(axis=-1, keepdims=True)
    return np.asarray(x - top - np.log(np.exp(x - top).sum(axis=-1, keepdims=True)))
