"""Tiny random models on disk, batches and a loss, for the tests of the torch policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.config.run import RunConfig
from mindrlhf_grpo.losses.function_loss import FunctionLoss
from mindrlhf_grpo.types import Batch
from tests.support.seeds import shifted

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VOCABULARY = 61
LLAMA = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "qwen2": {**LLAMA, "tie_word_embeddings": True},
    "qwen3": {**LLAMA, "head_dim": 8},
    "mistral": {**LLAMA, "sliding_window": 5},
    "gemma3_text": {**LLAMA, "head_dim": 8, "sliding_window": 5},
    "glm4": {**LLAMA, "head_dim": 8},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "gemma2": {**LLAMA, "head_dim": 8, "final_logit_softcapping": 3.0},
    "deepseek_v3": {
        **LLAMA,
        "num_key_value_heads": 4,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "moe_intermediate_size": 16,
        "first_k_dense_replace": 1,
        "q_lora_rank": 8,
        "kv_lora_rank": 8,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
    },
    "granite": {**LLAMA, "logits_scaling": 3.0},
}


def make_model(family: str = "llama", *, seed: int = 0, **shape: int) -> Any:
    """A random model with attention strong enough to be seen; ``shape`` replaces sizes of the family."""
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    settings = {"vocab_size": VOCABULARY, **special, **FAMILIES[family], **shape}
    torch.manual_seed(shifted(seed))
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(family, **settings))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.15)
    return model.eval()


def write_model(folder: Path, family: str = "llama", *, dtype: str = "float32", **shape: int) -> Path:
    make_model(family, **shape).to(getattr(torch, dtype)).save_pretrained(folder)
    return folder


def run_config(path: Path, *, train: dict[str, Any] | None = None, **model: Any) -> RunConfig:
    sections = {
        "model": {"path": str(path), **model}, "data": {"source": "x"}, "rewards": [{"function": "x"}],
        "rollout": {"max_tokens": 16, "group_size": 3},  # by which MindSpore sizes what it compiles
    }  # fmt: skip
    return RunConfig.model_validate({**sections, "train": {"learning_rate": 1e-3, **(train or {})}})


def load_policy(path: Path, *, train: dict[str, Any] | None = None, **model: Any) -> Any:
    from mindrlhf_grpo_torch import build

    return build(run_config(path, train=train, **model)).load_policy()


def make_batch(groups: list[tuple[int, list[int]]] | None = None, *, seed: int = 0, temperature: float = 1.0) -> Batch:
    """Random tokens for (prompt length, completion lengths) pairs; rows of a group do not adjoin."""
    groups = groups or [(5, [3, 7, 1]), (2, [4, 4]), (9, [6])]
    random = np.random.default_rng(seed)
    lengths = np.array([length for _, rows in groups for length in rows], dtype=np.int32)
    prompt_of = np.repeat(np.arange(len(groups)), [len(rows) for _, rows in groups]).astype(np.int32)
    order = random.permutation(len(lengths))
    lengths, prompt_of = lengths[order], prompt_of[order]
    shape = (len(lengths), int(lengths.max()))
    mask = (np.arange(shape[1]) < lengths[:, None]).astype(np.float32)
    return Batch(
        prompts=tuple(random.integers(0, VOCABULARY, length).astype(np.int32) for length, _ in groups),
        prompt_of=prompt_of, ids=(random.integers(0, VOCABULARY, shape) * mask).astype(np.int32), lengths=lengths,
        mask=mask, weights=mask * random.random(shape, dtype=np.float32),
        advantages=random.normal(size=shape).astype(np.float32), temperature=temperature,
    )  # fmt: skip


@FunctionLoss
def weighted_loss(xp: Any, logps: Any, tensors: Any) -> tuple[Any, dict[str, Any]]:
    """A loss that is not linear in the log-probs and reads every token by its own weight."""
    ratio = xp.exp(0.1 * (logps - xp.stop_gradient(logps))) - 0.01 * logps * logps
    return -xp.sum(ratio * tensors["advantages"] * tensors["weights"]), {
        "logps": xp.sum(xp.stop_gradient(logps) * tensors["mask"]),
        "max/surprise": xp.max(-xp.stop_gradient(logps)),
    }


def gradients(policy: Any, batch: Batch) -> tuple[float, dict[str, Any]]:
    """Loss and gradients over the micro-batches of one update, without the step."""
    parts = [policy.backward(batch.take(rows), weighted_loss) for rows in policy.micro_batches(batch)]
    found = {name: weight.grad.clone() for name, weight in policy.trainable.items()}
    policy.drop_gradients()
    return sum(part["loss"] for part in parts), found


def relative(one: Any, other: Any) -> float:
    """Norm of the difference over the norm."""
    return float((one - other).norm() / other.norm().clamp_min(1e-30))


def own_logps(model: Any, batch: Batch) -> np.ndarray:
    """Log-probs one row at a time from transformers' own logits."""
    result = np.zeros(batch.ids.shape, dtype=np.float32)
    for row, length in enumerate(batch.lengths):
        prompt = batch.prompts[batch.prompt_of[row]]
        ids = torch.tensor(np.concatenate([prompt, batch.ids[row, :length]])[None]).long()
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0].float() / batch.temperature
        logps = torch.log_softmax(logits, -1)[len(prompt) - 1 : -1]
        result[row, :length] = logps.gather(1, ids[0, len(prompt) :, None])[:, 0].numpy()
    return result
