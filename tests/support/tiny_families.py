"""A tiny random model of every family that transformers and the core both describe, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.seeds import shifted

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VOCABULARY = 61
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
    "mistral": ("mistral", {**SMALL, "head_dim": 12, "sliding_window": None}),
    "seed_oss": ("seed_oss", {**SMALL, "head_dim": 12}),
    "seed_oss with all biases": ("seed_oss", {**SMALL, "head_dim": 12, "attention_out_bias": True, "mlp_bias": True}),
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


@torch.no_grad()
def expected_log_probs(model: Any, ids: NDArray[np.int64], real: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Log-probs of every vocabulary entry after every token by transformers, ``[S, V]``."""
    positions = np.maximum(real.cumsum(1) - 1, 0)
    logits = model(
        torch.from_numpy(ids), attention_mask=torch.from_numpy(real.astype(np.int64)),
        position_ids=torch.from_numpy(positions),
    ).logits  # fmt: skip
    return logits.float().log_softmax(-1).reshape(-1, logits.shape[-1]).numpy()
