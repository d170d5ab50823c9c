"""A Llama in NumPy and float64, with its backward pass by hand: the reference that needs no framework.

One sequence at a time, nothing cached, nothing padded, so that there is little to get wrong. The backward pass is
itself checked against central differences in the tests. Weights have their Hugging Face names and shapes.
Legend: S tokens of a sequence, E hidden size, H query heads, K key/value heads, D head size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from ...model_files.architecture import Architecture
from ...types import IntArray

Array: TypeAlias = NDArray[np.float64]
Weights: TypeAlias = Mapping[str, Array]
Gradients: TypeAlias = dict[str, Array]


class NumpyLlama:
    """A Llama-like decoder: logits, and gradients of any function of them.

    Args:
        architecture: of the Llama kind: grouped-query attention and a gated feed-forward, with or without biases.
        weights: name -> array, ``model.embed_tokens.weight`` and so on; held in float64.

    Raises:
        ConfigError: an architecture with parts that are not computed here.
    """

    def __init__(self, architecture: Architecture, weights: Mapping[str, NDArray[Any]]) -> None:
        refuse_other_parts(architecture)
        self.architecture = architecture
        self.weights: Gradients = {name: np.asarray(array, dtype=np.float64) for name, array in weights.items()}

    def hidden_states(self, ids: IntArray) -> tuple[list[Array], list[LayerTape]]:
        """Hidden states ``[S, E]`` after the embedding and after each layer, and the tape of each layer."""
        ends: list[Array] = [self.weights["model.embed_tokens.weight"][np.asarray(ids, dtype=np.int64)]]
        tapes: list[LayerTape] = []
        for layer in range(self.architecture.layers):
            end, tape = layer_forward(self.architecture, self.weights, f"model.layers.{layer}.", ends[-1])
            ends.append(end)
            tapes.append(tape)
        return ends, tapes

    def logits(self, hidden: Array) -> Array:
        """``[S, E]`` before the final norm -> ``[S, V]``."""
        scaled, _ = rms_norm(hidden, self.weights["model.norm.weight"], self.architecture.norm_eps)
        return scaled @ self.weights[self.head].T

    @property
    def head(self) -> str:
        """Name of the output projection's weight."""
        return "model.embed_tokens.weight" if self.architecture.tied else "lm_head.weight"

    def backward(self, ids: IntArray, logit_gradient: Array) -> Gradients:
        """Gradient by weight of one sequence, from that of its logits ``[S, V]``."""
        ends, tapes = self.hidden_states(ids)
        norm = self.weights["model.norm.weight"]
        scaled, normed = rms_norm(ends[-1], norm, self.architecture.norm_eps)
        gradients: Gradients = {self.head: logit_gradient.T @ scaled}
        flowing, gradients["model.norm.weight"] = rms_norm_backward(
            logit_gradient @ self.weights[self.head], normed, norm
        )
        for layer in reversed(range(self.architecture.layers)):
            prefix = f"model.layers.{layer}."
            flowing = layer_backward(self.architecture, self.weights, prefix, tapes[layer], flowing, gradients)
        embedding = gradients.setdefault(
            "model.embed_tokens.weight", np.zeros_like(self.weights["model.embed_tokens.weight"])
        )
        np.add.at(embedding, np.asarray(ids, dtype=np.int64), flowing)
        return gradients


def refuse_other_parts(architecture: Architecture) -> None:
    """Raise ConfigError for an architecture that is more than a Llama."""
    parts = {
        "head_norms": architecture.head_norms,
        "sandwich_norms": architecture.sandwich_norms,
        "fused_gate_up": architecture.fused_gate_up,
        "latent attention": architecture.latent,
        "experts": architecture.experts,
        "a vision tower": architecture.vision,
        "interleaved or partial rotation": architecture.rotary.interleaved
        or architecture.rotary.size != architecture.key_size,
        "a score head": architecture.labels,
    }
    parts |= {variant.setting: True for variant in architecture.variants}
    present = [name for name, value in parts.items() if value]
    if present:
        raise ConfigError(f"the NumPy model computes Llama-like decoders without {', '.join(present)}")


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


def layer_forward(architecture: Architecture, weights: Weights, prefix: str, hidden: Array) -> tuple[Array, LayerTape]:
    """One decoder layer, ``[S, E]`` -> ``[S, E]``."""
    attended, input_norm = rms_norm(hidden, weights[prefix + "input_layernorm.weight"], architecture.norm_eps)
    repeats = architecture.heads // architecture.kv_heads
    cos, sin = rotation(architecture, len(hidden))

    def projected(name: str, heads: int) -> Array:
        flat = linear(weights, f"{prefix}self_attn.{name}", attended)
        return flat.reshape(len(hidden), heads, architecture.key_size).transpose(1, 0, 2)

    queries = rotate(projected("q_proj", architecture.heads), cos, sin)
    keys = np.repeat(rotate(projected("k_proj", architecture.kv_heads), cos, sin), repeats, axis=0)
    values = np.repeat(projected("v_proj", architecture.kv_heads), repeats, axis=0)
    scores = queries @ keys.transpose(0, 2, 1) * architecture.attention_scale
    scores = np.where(np.tril(np.ones(scores.shape[1:], dtype=bool)), scores, -np.inf)
    probabilities = np.exp(log_softmax(scores))
    mixed = (probabilities @ values).transpose(1, 0, 2).reshape(len(hidden), -1)
    middle = hidden + linear(weights, prefix + "self_attn.o_proj", mixed)
    feed_input, feed_norm = rms_norm(middle, weights[prefix + "post_attention_layernorm.weight"], architecture.norm_eps)
    gate = linear(weights, prefix + "mlp.gate_proj", feed_input)
    up = linear(weights, prefix + "mlp.up_proj", feed_input)
    end = middle + linear(weights, prefix + "mlp.down_proj", gate * sigmoid(gate) * up)
    return end, LayerTape(
        input_norm=input_norm, attention_input=attended, queries=queries, keys=keys, values=values,
        probabilities=probabilities, mixed=mixed, feed_norm=feed_norm, feed_input=feed_input, gate=gate, up=up,
    )  # fmt: skip


def layer_backward(
    architecture: Architecture, weights: Weights, prefix: str, tape: LayerTape, flowing: Array, gradients: Gradients
) -> Array:
    """Gradient ``[S, E]`` of a layer's input from that of its output; those of its weights go into ``gradients``."""
    active = tape.gate * sigmoid(tape.gate)
    inner = linear_backward(weights, prefix + "mlp.down_proj", active * tape.up, flowing, gradients)
    slope = sigmoid(tape.gate) * (1.0 + tape.gate * (1.0 - sigmoid(tape.gate)))
    fed = linear_backward(weights, prefix + "mlp.gate_proj", tape.feed_input, inner * tape.up * slope, gradients)
    fed = fed + linear_backward(weights, prefix + "mlp.up_proj", tape.feed_input, inner * active, gradients)
    name = prefix + "post_attention_layernorm.weight"
    through_norm, gradients[name] = rms_norm_backward(fed, tape.feed_norm, weights[name])
    middle = flowing + through_norm
    mixed = linear_backward(weights, prefix + "self_attn.o_proj", tape.mixed, middle, gradients)
    attended = attention_backward(architecture, weights, prefix, tape, mixed, gradients)
    name = prefix + "input_layernorm.weight"
    through_norm, gradients[name] = rms_norm_backward(attended, tape.input_norm, weights[name])
    return middle + through_norm


def attention_backward(
    architecture: Architecture, weights: Weights, prefix: str, tape: LayerTape, mixed: Array, gradients: Gradients
) -> Array:
    """Gradient ``[S, E]`` of the attention's input from that of its mixed values ``[S, H * D]``."""
    tokens = len(mixed)
    cos, sin = rotation(architecture, tokens)
    by_head = mixed.reshape(tokens, architecture.heads, architecture.key_size).transpose(1, 0, 2)
    weighted = by_head @ tape.values.transpose(0, 2, 1)
    scores = tape.probabilities * (weighted - (weighted * tape.probabilities).sum(-1, keepdims=True))
    scores = scores * architecture.attention_scale
    parts = {
        "q_proj": unrotate(scores @ tape.keys, cos, sin),
        "k_proj": unrotate(shared(scores.transpose(0, 2, 1) @ tape.queries, architecture), cos, sin),
        "v_proj": shared(tape.probabilities.transpose(0, 2, 1) @ by_head, architecture),
    }
    total = np.zeros_like(tape.attention_input)
    for name, part in parts.items():
        flat = part.transpose(1, 0, 2).reshape(tokens, -1)
        total = total + linear_backward(weights, f"{prefix}self_attn.{name}", tape.attention_input, flat, gradients)
    return total


def linear(weights: Weights, module: str, inputs: Array) -> Array:
    """``inputs @ W.T + b``, the bias where the model has one."""
    outputs = inputs @ weights[f"{module}.weight"].T
    bias = weights.get(f"{module}.bias")
    return outputs if bias is None else outputs + bias


def linear_backward(weights: Weights, module: str, inputs: Array, flowing: Array, gradients: Gradients) -> Array:
    """Gradient of the inputs of :func:`linear`; those of its weight and bias go into ``gradients``."""
    gradients[f"{module}.weight"] = flowing.T @ inputs
    if f"{module}.bias" in weights:
        gradients[f"{module}.bias"] = flowing.sum(axis=0)
    return flowing @ weights[f"{module}.weight"]


def shared(by_query_head: Array, architecture: Architecture) -> Array:
    """Sum over the query heads that read the same key/value head: ``[H, S, D]`` -> ``[K, S, D]``."""
    grouped = by_query_head.reshape(architecture.kv_heads, -1, *by_query_head.shape[1:])
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


def rotation(architecture: Architecture, tokens: int) -> tuple[Array, Array]:
    """Cosines and sines ``[S, D]`` of rotary positions, the halves alike (https://arxiv.org/abs/2104.09864)."""
    rotary = architecture.rotary
    angles = np.arange(tokens)[:, None] * np.tile(np.asarray(rotary.frequencies, np.float64), 2)
    return np.cos(angles) * rotary.amplitude, np.sin(angles) * rotary.amplitude


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
    """Log-softmax along the last axis; -inf stays -inf."""
    top = x.max(axis=-1, keepdims=True)
    return np.asarray(x - top - np.log(np.exp(x - top).sum(axis=-1, keepdims=True)))
