"""A valid configuration on disk, with a model folder that has headers and a tokenizer but weights of zeros."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="the configuration names the torch backend")
HIDDEN, INTERMEDIATE, LAYERS, VOCABULARY = 8, 16, 2, 43
CONFIG = """\
# a comment, so that lines are not paragraphs
run_dir: {folder}/run
model:
  path: {folder}/model
  device: cpu
data:
  source: {folder}/rows.jsonl
rewards:
  - function: numeric_match
    weight: 1.0
  - function: {folder}/rewards.py:short
    arguments: {{limit: 3}}
rollout:
  group_size: 4
  max_tokens: 8
algorithm:
  name: grpo
train:
  steps: 3
  prompts_per_step: 2
  learning_rate: 1e-3
eval:
  source: {folder}/rows.jsonl
"""
REWARD = "def short(completions, limit):\n    return [float(len(text) < limit) for text in completions]\n"


def tensors() -> dict[str, np.ndarray]:
    """Zeros under the names and shapes of a Llama with tied embeddings."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        shapes |= {f"{prefix}.self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qo"}
        shapes |= {f"{prefix}.self_attn.{name}_proj.weight": (HIDDEN // 2, HIDDEN) for name in "kv"}
        shapes |= {f"{prefix}.mlp.{name}_proj.weight": (INTERMEDIATE, HIDDEN) for name in ("gate", "up")}
        shapes[f"{prefix}.mlp.down_proj.weight"] = (HIDDEN, INTERMEDIATE)
        shapes |= {f"{prefix}.{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def architecture(context: int = 128) -> dict[str, Any]:
    """``config.json`` of the model."""
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "float32", "tie_word_embeddings": True,
        "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "num_hidden_layers": LAYERS, "eos_token_id": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": VOCABULARY, "max_position_embeddings": context,
    }  # fmt: skip


def write_model(folder: Path, context: int = 128) -> Path:
    """A model folder of a few kB, with a character tokenizer and a context of so many tokens."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    folder.mkdir(parents=True)
    alphabet = ["<pad>", "<eos>", *"0123456789+-= abcdefghijklmnopqrstuvwxyz?"]
    tokenizer = Tokenizer(models.WordLevel({piece: index for index, piece in enumerate(alphabet)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>", "pad_token": "<pad>"}))
    (folder / "config.json").write_text(json.dumps(architecture(context)))
    save_file(tensors(), folder / "model.safetensors")
    return folder


def write_run(folder: Path) -> Path:
    """Model, rows, a reward file and ``config.yaml`` in ``folder``; returns the configuration's path."""
    write_model(folder / "model")
    rows = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(3) for b in range(3)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "rewards.py").write_text(REWARD)
    config = folder / "config.yaml"
    config.write_text(CONFIG.format(folder=folder))
    return config
