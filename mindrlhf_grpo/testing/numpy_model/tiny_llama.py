"""A tiny random Llama as a Hugging Face folder, and a tokenizer of numbers: written without a framework."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...generation.sampling import uniforms
from ...model_files.architecture import Architecture
from ...model_files.families import read_architecture
from ...model_files.safetensors import write_tensors
from ...model_files.weights import Weight, weights
from ...tokenizers.templated import TemplatedTokenizer

ROLES = (
    "input_layernorm", "q_proj", "k_proj", "v_proj", "o_proj", "post_attention_layernorm", "gate_proj", "up_proj",
    "down_proj",
)  # fmt: skip
SPREAD = 0.15  # standard deviation of the matrices: attention strong enough that a mistake in it shows


class NumberTokenizer(TemplatedTokenizer):
    """A tokenizer that writes ids as text, ``<17>``; it has neither files nor a chat template."""

    def __init__(self, vocab_size: int, eos_ids: Sequence[int]) -> None:
        super().__init__("of numbers", Path(), None)
        self.vocab_size, self.eos_ids, self.pad_id = vocab_size, tuple(eos_ids), 0

    def encode_marked(self, text: str) -> list[int]:
        """Ids of a text that :meth:`decode` could have written."""
        return [int(number) for number in text.strip("<>").split("><") if number]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.piece(int(token)) for token in ids if token not in self.eos_ids)

    def piece(self, token: int) -> str:
        return f"<{token}>"


def tiny_llama_config(
    *,
    vocabulary: int = 61,
    hidden: int = 32,
    intermediate: int = 48,
    layers: int = 3,
    heads: int = 4,
    kv_heads: int = 2,
    head_size: int = 8,
    context: int = 128,
    tied: bool = False,
    end_tokens: Sequence[int] = (2, 3),
) -> dict[str, Any]:
    """The ``config.json`` of a tiny Llama."""
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "float32", "torch_dtype": "float32",
        "vocab_size": vocabulary, "hidden_size": hidden, "intermediate_size": intermediate,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "head_dim": head_size, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "rope_scaling": None, "max_position_embeddings": context, "tie_word_embeddings": tied,
        "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0,
        "initializer_range": SPREAD, "bos_token_id": 1, "eos_token_id": list(end_tokens), "pad_token_id": 0,
        "use_cache": True,
    }  # fmt: skip


def random_weights(architecture: Architecture, *, seed: int) -> dict[str, NDArray[np.float32]]:
    """Normal matrices, vectors around one; the same numbers with every version of NumPy."""
    return {
        weight.name: (normal(seed, number, weight.shape) * SPREAD + (1.0 if len(weight.shape) == 1 else 0.0)).astype(
            np.float32
        )
        for number, weight in enumerate(in_order_of_computation(architecture))
    }


def in_order_of_computation(architecture: Architecture) -> list[Weight]:
    """The weights of a Llama-like decoder, each layer's as its forward pass takes them."""
    listed = weights(architecture)
    layers = [weight for weight in listed if weight.layer is not None]
    first = listed.index(layers[0])
    layers.sort(key=lambda weight: (weight.layer, ROLES.index(weight.role), weight.name.endswith(".bias")))
    return [*listed[:first], *layers, *listed[first + len(layers) :]]


def normal(seed: int, stream: int, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Standard normal numbers from counter-based uniforms (Box and Muller 1958)."""
    places = np.arange(int(np.prod(shape)), dtype=np.int64)
    radius = np.sqrt(-2.0 * np.log1p(-uniforms(seed, stream, 0, places)))
    return np.asarray((radius * np.cos(2.0 * np.pi * uniforms(seed, stream, 1, places))).reshape(shape))


def write_tiny_llama(folder: Path, config: Mapping[str, Any], *, seed: int) -> Path:
    """Write ``config.json`` and random weights in ``model.safetensors``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    write_tensors(folder / "model.safetensors", random_weights(read_architecture(config), seed=seed))
    return folder
