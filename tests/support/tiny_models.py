"""Tiny random models of every family, a plain causal attention, and log-probs by both sides, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.seeds import shifted

ms = pytest.importorskip("mindspore")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from mindrlhf_grpo_mindspore import ops  # noqa: E402
from mindrlhf_grpo_mindspore.models import Decoder, hf  # noqa: E402
from mindspore import Tensor, nn  # noqa: E402
from mindspore import ops as native  # noqa: E402

VOCABULARY = 61
PADDING = -1e9
SMALL = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0,
    "mscale_all_dim": 0.8, "original_max_position_embeddings": 16,
}  # fmt: skip
DEEPSEEK = {
    **SMALL, "num_key_value_heads": 4, "n_routed_experts": 8, "num_experts_per_tok": 3, "n_group": 4, "topk_group": 2,
    "moe_intermediate_size": 16, "first_k_dense_replace": 1, "q_lora_rank": 8, "kv_lora_rank": 8,
    "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 6, "n_shared_experts": 2,
}  # fmt: skip
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", SMALL),
    "llama with biases and tied head": (
        "llama", {**SMALL, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ),
    "llama 3.1": ("llama", {**SMALL, "rope_parameters": LLAMA3}),
    "llama linear": ("llama", {**SMALL, "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}),
    "qwen2": ("qwen2", SMALL),
    "qwen2 yarn": ("qwen2", {**SMALL, "rope_parameters": {**YARN, "mscale": None, "mscale_all_dim": None}}),
    "qwen3": ("qwen3", {**SMALL, "head_dim": 12}),
    "glm": ("glm", {**SMALL, "head_dim": 8}),
    "glm4": ("glm4", {**SMALL, "head_dim": 8}),
    "deepseek_v3": ("deepseek_v3", DEEPSEEK),
    "deepseek_v3 plain": (
        "deepseek_v3",
        {
            **DEEPSEEK, "q_lora_rank": None, "n_group": 1, "topk_group": 1, "norm_topk_prob": False,
            "rope_interleave": False, "attention_bias": True, "routed_scaling_factor": 1.5,
        },
    ),
    "deepseek_v3 yarn": ("deepseek_v3", {**DEEPSEEK, "rope_parameters": YARN}),
}  # fmt: skip


class PlainAttention(nn.Cell):
    """Rows of equal width; the plan is their bias ``[B, 1, W, W]``."""

    def __init__(self, scale: float) -> None:
        super().__init__(auto_prefix=False)
        self.scale = scale

    def construct(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, plan: tuple[Tensor, ...]) -> Tensor:
        rows, width = plan[0].shape[0], plan[0].shape[3]
        queries, keys, values = (part.reshape(rows, width, *part.shape[1:]) for part in (queries, keys, values))
        mixed = ops.softmax_attention(queries, keys, values, plan[0], self.scale)
        return mixed.reshape(rows * width, *mixed.shape[2:])


def make_model(name: str, *, seed: int = 0) -> Any:
    """A random model of transformers, with attention and routing strong enough to be seen."""
    family, settings = MODELS[name]
    ids = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    torch.manual_seed(shifted(seed))
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(family, **settings, **ids), attn_implementation="eager"
    )
    for parameter in model.parameters():
        parameter.data.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.15)
    for buffer_name, buffer in model.named_buffers():
        if buffer_name.endswith("e_score_correction_bias"):
            buffer.normal_(0, 0.1)
    return model.eval()


def save(model: Any, folder: Path, **settings: Any) -> Path:
    model.save_pretrained(folder, **settings)
    return folder


def make_batch(
    *, padded: bool, seed: int = 0, rows: int = 3, width: int = 12
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Ids and which are real: with padding, on the right in one row and on the left in another."""
    ids = np.random.default_rng(seed).integers(3, VOCABULARY, (rows, width))
    real = np.ones((rows, width), bool)
    if padded:
        real[1, 7:] = False
        real[2, :4] = False
    return np.where(real, ids, 0), real


def inputs(ids: NDArray[np.int64], real: NDArray[np.bool_]) -> tuple[Tensor, Tensor, Tensor]:
    """Flat ids, flat positions, bias ``[B, 1, W, W]``: causal, and real tokens see real ones only."""
    width = ids.shape[1]
    seen = np.tril(np.ones((width, width), bool))[None] & (real[:, None, :] | np.eye(width, dtype=bool))
    bias = np.where(seen, 0.0, PADDING).astype(np.float32)[:, None]
    positions = np.maximum(real.cumsum(1) - 1, 0)
    return tuple(Tensor(array) for array in (ids.ravel().astype(np.int32), positions.ravel().astype(np.int32), bias))


def load(folder: Path) -> Decoder:
    architecture = hf.load_architecture(folder)
    return Decoder(architecture, hf.load_weights(folder, architecture), PlainAttention(architecture.attention_scale))


def log_probs(decoder: Decoder, ids: Tensor, positions: Tensor, bias: Tensor) -> Tensor:
    """Of every vocabulary entry after every token, ``[S, V]``."""
    return native.log_softmax(decoder.logits(decoder(ids, positions, (bias,))), -1)


@torch.no_grad()
def expected_log_probs(model: Any, ids: NDArray[np.int64], real: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The same by transformers, ``[S, V]``."""
    positions = np.maximum(real.cumsum(1) - 1, 0)
    logits = model(
        torch.from_numpy(ids), attention_mask=torch.from_numpy(real.astype(np.int64)),
        position_ids=torch.from_numpy(positions),
    ).logits  # fmt: skip
    return logits.float().log_softmax(-1).reshape(-1, logits.shape[-1]).numpy()
