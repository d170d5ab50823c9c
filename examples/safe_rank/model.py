"""A tiny Llama with random weights and a tokenizer of films: a title, a year, a trait or a newline is one token.

The vocabulary is read from the folder that ``movielens.py`` wrote. What the model says is learned from nothing else than
the lists of the training users (``sft.yaml``).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PAD, END, UNKNOWN = "<pad>", "<end>", "<unknown>"
WORDS = ("Liked:", "Avoid: ", "Next:", "\n")


def main() -> None:
    """Write the model to ``--out`` unless it exists; the folder gets its name when it is complete."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("runs/safe_rank/movielens"))
    parser.add_argument("--out", type=Path, default=Path("runs/safe_rank/start"))
    parser.add_argument("--hidden", type=int, default=128)
    arguments = parser.parse_args()
    if arguments.out.exists():
        return
    tokenizer = film_tokenizer(arguments.data)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=arguments.hidden, intermediate_size=3 * arguments.hidden,
            num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
            bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=True,
        )
    )  # fmt: skip
    partial = arguments.out.with_name(f".partial-{arguments.out.name}")
    shutil.rmtree(partial, ignore_errors=True)  # an earlier call was interrupted
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    os.replace(partial, arguments.out)


def film_tokenizer(data: Path) -> PreTrainedTokenizerFast:
    """Return the pieces that prompts and lists consist of."""
    catalog = json.loads((data / "catalog.json").read_text(encoding="utf-8"))
    risks = json.loads((data / "movie_trait_sensitivity.json").read_text(encoding="utf-8"))
    traits = {trait for row in risks for trait in row["traits"]}
    pieces = dict.fromkeys([*WORDS, *sorted(traits), *(title for title, _ in catalog)])
    pieces |= dict.fromkeys(f" ({year})" for year in sorted({year for _, year in catalog}))
    tokenizer = Tokenizer(
        models.WordLevel({piece: index for index, piece in enumerate([PAD, END, UNKNOWN, *pieces])}, unk_token=UNKNOWN)
    )
    pattern = "|".join(re.escape(piece).replace(r"\ ", " ") for piece in sorted(pieces, key=len, reverse=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END)


if __name__ == "__main__":
    main()
