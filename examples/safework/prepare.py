"""Make the models and rows of the tiny run: a random policy that can write digits and tags, random judges, and rows of sums.

The policy's whole vocabulary is digits, signs, the tags of a thought and a box: it must find out to think in tags and
to put the sum in a box. The judges' vocabulary is their verdicts, so that even random ones say something that can be
read. Written without a framework, so that either backend can train it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from mindrlhf_grpo.testing.numpy_model.tiny_llama import tiny_llama_config, write_tiny_llama

PAD, END, OTHER = "<pad>", "<end>", "…"
THOUGHT = ["<think>", "</think>"]
POLICY = [*THOUGHT, r"\boxed{", "}", "<search>", "</search>", "<sure>", "<unsure>", *"0123456789+=?"]
VERDICTS = [
    "Safe with refusal", "Safe with warning", "Safe without risk", "Unsafe", "Unnecessary refusal",
    "Illogical completion", "Helpful without warning", "Other", "good", "bad", "TRUE", "FALSE", "0.5",
]  # fmt: skip
JUDGES = ("safety", "value", "base")  # base is shared by knowledge, normal and general
LABELS = ("general_rule", "gsm8k_rule", "safety", "value", "knowledge", "normal", "general", "jailbreak")


def main() -> None:
    """Write models and rows to ``--out`` unless they exist."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("models/tiny-safework"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if not arguments.out.exists():
        write_all(arguments.out, seed=arguments.seed)


def write_all(out: Path, *, seed: int = 0) -> Path:
    """Write the folder, which gets its name when it is complete."""
    partial = out.with_name(f".partial-{out.name}")
    shutil.rmtree(partial, ignore_errors=True)  # an earlier call was interrupted
    write_model(partial / "policy", POLICY, seed=seed, context=128)
    for number, name in enumerate(JUDGES, 1):
        write_model(partial / name, [*VERDICTS, *"0123456789"], seed=seed + number, context=1024)
    draw = random.Random(seed)
    write_lines(partial / "format.jsonl", [row(draw, "general_rule") for _ in range(256)])
    write_lines(partial / "mixed.jsonl", [row(draw, LABELS[n % len(LABELS)]) for n in range(64)])
    write_lines(partial / "demonstrations.jsonl", [demonstration(row(draw, "")) for _ in range(512)])
    os.replace(partial, out)
    return out


def row(draw: random.Random, label: str) -> dict[str, Any]:
    """Return a sum of two digits with the label that routes its reward."""
    first, second = draw.randrange(10), draw.randrange(10)
    return {"prompt": f"{first}+{second}=?", "chosen": str(first + second), "label": label}


def demonstration(made: dict[str, Any]) -> dict[str, Any]:
    """Return the same row with an ideal answer, for supervised training."""
    thought = str(made["prompt"]).removesuffix("=?")
    answer = f"<think><search>{thought}</search></think>\\boxed{{{made['chosen']}}}<sure>"
    return {"prompt": made["prompt"], "completion": answer}


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")


def write_model(folder: Path, pieces: Sequence[str], *, seed: int, context: int) -> None:
    """Write a random Llama of two layers whose vocabulary is these pieces, as a Hugging Face folder."""
    vocabulary = {piece: number for number, piece in enumerate([PAD, END, *pieces, OTHER])}
    config = tiny_llama_config(
        vocabulary=len(vocabulary), hidden=64, intermediate=128, layers=2, head_size=16, context=context,
        end_tokens=[vocabulary[END]],
    )  # fmt: skip
    write_tiny_llama(folder, config, seed=seed)
    tokenizer_of(vocabulary).save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": PAD, "eos_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))


def tokenizer_of(vocabulary: dict[str, int]) -> Tokenizer:
    """Return a tokenizer whose tokens are known pieces; any text between two of them is one unknown token."""
    known = "|".join(re.escape(piece) for piece in sorted(vocabulary, key=len, reverse=True))
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=OTHER))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(known), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(PAD, special=True), AddedToken(END, special=True)])
    return tokenizer


if __name__ == "__main__":
    main()
