"""Tiny models, files and scripts as a user of MindRLHF has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from mindrlhf_grpo.recipes.mindrlhf.conversion import from_folder
from mindrlhf_grpo.recipes.mindrlhf.weight_names import weight_names
from tests.support.repository import ROOT
from tests.support.seeds import shifted

HERE = ROOT / "tests/recipes/mindrlhf"
IMPORTS = """
from mindformers import LlamaConfig, MindFormerConfig
from mindrlhf.configs.grpo_configs import GRPOConfig
from mindrlhf.models.qwen2.qwen2_tokenizer import Qwen2Tokenizer
from mindrlhf.reward.reward_fn import accuracy_reward, format_reward
from mindrlhf.trainer.grpo_trainer import GRPOTrainer
from mindrlhf.trainer.ppo_trainer import PPOTrainer
from mindrlhf.utils.configs import (
    init_configs, init_grpo_dataset, init_grpo_network_and_optimizer, init_network_and_optimizer, init_ppo_dataset,
)
import argparse
import json
import sys
from pathlib import Path

folder = Path(sys.argv[1])
args = argparse.Namespace(**json.loads((folder / "args.json").read_text()))
rank_id = 0
"""
MODEL_CONFIGS = """
sft_config_infer = MindFormerConfig(args.model_yaml)
sft_config_train = MindFormerConfig(args.model_yaml)
ref_config = MindFormerConfig(args.model_yaml)
"""
SHAPE = {
    "type": "LlamaConfig", "hidden_size": 32, "num_layers": 2, "num_heads": 4, "n_kv_heads": 2, "vocab_size": 259,
    "intermediate_size": 48, "qkv_has_bias": True, "rms_norm_eps": 1.0e-6, "theta": 10000.0,
    "max_position_embedding": 128, "eos_token_id": 256, "pad_token_id": 256, "use_past": True,
    "use_flash_attention": True, "compute_dtype": "bfloat16", "max_decode_length": 6, "top_k": 0, "top_p": 1.0,
}  # fmt: skip


def write_vocabulary(folder: Path) -> None:
    """Write vocab.json and merges.txt with one token per byte."""
    from tokenizers import pre_tokenizers

    folder.mkdir(parents=True, exist_ok=True)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    (folder / "vocab.json").write_text(json.dumps({letter: place for place, letter in enumerate(letters)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")


def write_model(folder: Path, *, labels: int = 0, layers: int = 2) -> Path:
    """Write a random Qwen2 without tokenizer as a Hugging Face folder; with labels, a reward model."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2ForSequenceClassification

    torch.manual_seed(shifted())
    config = Qwen2Config(
        vocab_size=259, hidden_size=32, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, max_position_embeddings=128, initializer_range=0.2, bos_token_id=None, eos_token_id=256,
        pad_token_id=256, **({"num_labels": labels} if labels else {}),
    )  # fmt: skip
    (Qwen2ForSequenceClassification if labels else Qwen2ForCausalLM)(config).save_pretrained(folder)
    return folder


def write_yaml(path: Path, checkpoint: Path, **settings: Any) -> Path:
    """Write a model's YAML in MindFormers' layout."""
    shape = {**SHAPE, "checkpoint_name_or_path": str(checkpoint), **settings}
    path.write_text(
        yaml.safe_dump({"run_mode": "finetune", "model": {"model_config": shape, "arch": {"type": "LlamaForCausalLM"}}})
    )
    return path


def write_rows(path: Path, count: int = 8) -> Path:
    """Write a small file in the layout of GSM8K."""
    rows = [{"question": f"{n}+{n + 1}=", "answer": f"we add #### {2 * n + 1}"} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def prepare(folder: Path, *, steps: int, pretrain: float = 0.9, layers: int = 2) -> dict[str, Any]:
    """Write everything that the two scripts read, for a number of steps; weights are MindSpore's files."""
    write_vocabulary(folder / "tokenizer")
    for name, labels in (("policy", 0), ("reward", 1)):
        write_model(folder / f"{name}_hf", labels=labels, layers=layers)
        from_folder(folder / f"{name}_hf", folder / name, weight_names(), "ckpt")
        write_vocabulary(folder / name)
    args = {
        "vocab_path": str(folder / "tokenizer/vocab.json"), "merges_file_path": str(folder / "tokenizer/merges.txt"),
        "model_yaml": str(write_yaml(folder / "qwen.yaml", folder / "policy/model.ckpt", num_layers=layers)),
        "sft_model_path": str(folder / "qwen.yaml"), "critic_model_path": str(folder / "qwen.yaml"),
        "reward_model_path": str(write_yaml(folder / "reward.yaml", folder / "reward/model.ckpt", num_layers=layers)),
        "dataset_dir": str(write_rows(folder / "rows.jsonl", 4 * steps)), "save_data_file": "", "align_type": "rlhf_stages",
    }  # fmt: skip
    (folder / "args.json").write_text(json.dumps(args))
    common = {"device_target": "CPU", "dataset_type": "gsm8k", "max_prompt_length": 32, "warmup_step": 0}
    grpo = {"mind_dataset_dir": args["dataset_dir"], "save_ckpt_dir": str(folder / "grpo"), "epochs": 1, "num_rollouts": 4,
            "num_generations": 2, "batch_size": 8, "sync_ref_model": True, "ref_model_sync_steps": 1, "max_num_seqs": 8}  # fmt: skip
    ppo = {"save_ckpt_dir": str(folder / "ppo"), "epochs": steps, "num_rollouts": 4, "batch_size": 4, "max_num_seqs": 4,
           "pretrain_coef": pretrain}  # fmt: skip
    (folder / "grpo.yaml").write_text(yaml.safe_dump({**common, **grpo}))
    (folder / "ppo.yaml").write_text(yaml.safe_dump({**common, **ppo}))
    return args


def script(folder: Path, snippet: str) -> Path:
    """Write a script with the imports of MindRLHF's examples around one of its snippets, unmodified."""
    body = (HERE / "snippets" / f"{snippet}.txt").read_text()
    path = folder / f"{snippet}.py"
    path.write_text(IMPORTS + (MODEL_CONFIGS if snippet == "grpo" else "") + body)
    return path
