"""Make a tiny random Llama whose whole vocabulary is the keywords of a set of samples, and the tags of an answer.

Everything else it reads is one token, so prompts are short and a run takes seconds. It can write nothing but keywords
and tags: what GRPO has to find out is which. Written without a framework, so that either backend can train it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers

from mindrlhf_grpo.testing.numpy_model.tiny_llama import tiny_llama_config, write_tiny_llama

PAD, END, OTHER = "<pad>", "<end>", "…"
TAGS = ["<think>", "</think>", "<answer>", "</answer>"]
ROLES = ["<|system|>", "<|user|>", "<|assistant|>"]
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def main() -> None:
    """Write the model to ``--out`` unless it exists."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=Path, nargs="+", default=[Path(__file__).with_name("train.json")])
    parser.add_argument("--out", type=Path, default=Path("models/tiny-raiden"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if not arguments.out.exists():
        write_model(arguments.out, arguments.samples, seed=arguments.seed)


def write_model(out: Path, samples: list[Path], *, seed: int = 0) -> Path:
    """Write a Hugging Face folder, which gets its name when it is complete."""
    rows = [row for path in samples for row in json.loads(path.read_text(encoding="utf-8"))]
    keywords = sorted({word for row in rows for word in row["keywords"]})
    pieces = [*TAGS, *ROLES, *keywords, OTHER]
    vocabulary = {piece: number for number, piece in enumerate([PAD, END, *pieces])}
    partial = out.with_name(f".partial-{out.name}")
    shutil.rmtree(partial, ignore_errors=True)  # an earlier call was interrupted
    config = tiny_llama_config(
        vocabulary=len(vocabulary), hidden=64, intermediate=128, layers=2, head_size=16, context=512,
        end_tokens=[vocabulary[END]],
    )  # fmt: skip
    write_tiny_llama(partial, config, seed=seed)
    tokenizer_of(vocabulary).save(str(partial / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": PAD,
        "eos_token": END,
        "chat_template": TEMPLATE,
    }
    (partial / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
    os.replace(partial, out)
    return out


def tokenizer_of(vocabulary: dict[str, int]) -> Tokenizer:
    """Return a tokenizer whose tokens are known pieces; any text between two of them is one unknown token."""
    known = "|".join(escaped(piece) for piece in vocabulary)
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=OTHER))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(known), "isolated")
    tokenizer.add_special_tokens([AddedToken(PAD, special=True), AddedToken(END, special=True)])
    return tokenizer


def escaped(piece: str) -> str:
    """Return a piece as a regular expression."""
    return "".join(f"\\{letter}" if letter in "<>|/.*+?()[]{}^$\\" else letter for letter in piece)


if __name__ == "__main__":
    main()
