"""A tiny random Llama as a Hugging Face folder, and a tokenizer of numbers: written without a framework."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from ...generation.sampling import uniforms
from ...model_files.safetensors import write_tensors
from .llama import LlamaShape

SPREAD = 0.15  # standard deviation of the matrices: attention strong enough that a mistake in it shows


class NumberTokenizer:
    """Tokens as text: ``<17>``. Enough for what speaks in ids; implements ``data.tokenizer.Tokenizer``."""

    has_chat_template = False

    def __init__(self, vocab_size: int, eos_ids: Sequence[int]) -> None:
        self.vocab_size, self.eos_ids = vocab_size, tuple(eos_ids)
        self.pad_id, self.folder = 0, Path()  # it has no files

    def encode(self, text: str) -> list[int]:
        """Ids of a text that :meth:`decode` could have written."""
        return [int(number) for number in text.strip("<>").split("><") if number]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.piece(int(token)) for token in ids if token not in self.eos_ids)

    def piece(self, token: int) -> str:
        return f"<{token}>"

    def chat(self, messages: Sequence[Mapping[str, str]], *, generation_prompt: bool = True) -> list[int]:
        raise DataError("the tokenizer of numbers has no chat template")


def config_json(shape: LlamaShape, *, end_tokens: Sequence[int]) -> dict[str, Any]:
    """The model's ``config.json``."""
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "float32", "torch_dtype": "float32",
        "vocab_size": shape.vocabulary, "hidden_size": shape.hidden, "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_size, "rms_norm_eps": shape.epsilon, "rope_theta": shape.rope_theta,
        "rope_scaling": None, "max_position_embeddings": shape.context, "tie_word_embeddings": shape.tied,
        "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0,
        "initializer_range": SPREAD, "bos_token_id": 1, "eos_token_id": list(end_tokens), "pad_token_id": 0,
        "use_cache": True,
    }  # fmt: skip


def weight_shapes(shape: LlamaShape) -> dict[str, tuple[int, ...]]:
    """Hugging Face name -> shape, in the order of computation."""
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    layer = {
        "input_layernorm": (shape.hidden,),
        "self_attn.q_proj": (queries, shape.hidden),
        "self_attn.k_proj": (keys, shape.hidden),
        "self_attn.v_proj": (keys, shape.hidden),
        "self_attn.o_proj": (shape.hidden, queries),
        "post_attention_layernorm": (shape.hidden,),
        "mlp.gate_proj": (shape.intermediate, shape.hidden),
        "mlp.up_proj": (shape.intermediate, shape.hidden),
        "mlp.down_proj": (shape.hidden, shape.intermediate),
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape.vocabulary, shape.hidden)}
    for number in range(shape.layers):
        shapes |= {f"model.layers.{number}.{name}.weight": size for name, size in layer.items()}
    shapes["model.norm.weight"] = (shape.hidden,)
    if not shape.tied:
        shapes["lm_head.weight"] = (shape.vocabulary, shape.hidden)
    return shapes


def random_weights(shape: LlamaShape, *, seed: int) -> dict[str, NDArray[np.float32]]:
    """Normal matrices, norms around one; the same numbers with every version of NumPy."""
    return {
        name: (normal(seed, number, size) * SPREAD + (1.0 if len(size) == 1 else 0.0)).astype(np.float32)
        for number, (name, size) in enumerate(weight_shapes(shape).items())
    }


def normal(seed: int, stream: int, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Standard normal numbers from counter-based uniforms (Box and Muller 1958)."""
    places = np.arange(int(np.prod(shape)), dtype=np.int64)
    radius = np.sqrt(-2.0 * np.log1p(-uniforms(seed, stream, 0, places)))
    return np.asarray((radius * np.cos(2.0 * np.pi * uniforms(seed, stream, 1, places))).reshape(shape))


def write_tiny_llama(folder: Path, shape: LlamaShape, *, seed: int, end_tokens: Sequence[int]) -> Path:
    """Write ``config.json`` and ``model.safetensors``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_json(shape, end_tokens=end_tokens), indent=1))
    write_tensors(folder / "model.safetensors", random_weights(shape, seed=seed))
    return folder
