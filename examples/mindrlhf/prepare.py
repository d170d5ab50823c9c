"""Make the models and rows of these examples: tiny random models of three families, a reward model of each, and rows of sums.

python examples/mindrlhf/prepare.py --out models/mindrlhf
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

LETTERS = "0123456789+-= abcdefghijklmnopqrstuvwxyz#.?\n"
COMMON = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2_5": ("qwen2", COMMON),
    "glm4": ("glm", {**COMMON, "head_dim": 8}),
    "deepseek_v3": (
        "deepseek_v3",
        {
            **COMMON, "num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2,
            "topk_group": 1, "moe_intermediate_size": 16, "first_k_dense_replace": 1, "q_lora_rank": 8,
            "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8, "n_shared_experts": 1,
        },
    ),
}  # fmt: skip


def main() -> None:
    """Write models and rows that do not exist yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("models/mindrlhf"))
    out: Path = parser.parse_args().out
    for family in FAMILIES:
        write_family(out, family)
    write_rows(out)


def write_family(out: Path, family: str) -> None:
    """Write ``OUT/FAMILY`` and ``OUT/FAMILY_reward``, each with a YAML of its sizes beside it."""
    kind, sizes = FAMILIES[family]
    tokenizer = letter_tokenizer()
    ids = {"vocab_size": len(tokenizer), "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
    for name, labels in ((family, {}), (f"{family}_reward", {"num_labels": 1})):
        folder = out / name
        if folder.exists():
            continue
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(kind, **sizes, **ids, **labels)
        build = transformers.AutoModelForSequenceClassification if labels else transformers.AutoModelForCausalLM
        model = build.from_config(config)
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.data.normal_(0, 0.2)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (out / f"{name}.yaml").write_text(f"model:\n  model_config:\n    checkpoint_name_or_path: {folder}\n")


def letter_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Write a tokenizer with one token per letter, and two special ones."""
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<eos>", *LETTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(?m)."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def write_rows(out: Path) -> None:
    """Write sums in the layout of GSM8K, and pairs of a right and a wrong answer in that of CValues."""
    sums = [(a, b) for a in range(10) for b in range(10)]
    gsm8k = [{"question": f"{a}+{b}=", "answer": f"{a} and {b} make {a + b}\n#### {a + b}"} for a, b in sums]
    pairs = [{"prompt": f"{a}+{b}=", "pos_resp": str(a + b), "neg_resp": "none", "pos_type": "right"} for a, b in sums]
    for name, rows in (("gsm8k", gsm8k), ("cvalues", pairs)):
        (out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
