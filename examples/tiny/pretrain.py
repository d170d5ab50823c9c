"""Make a tiny language model from scratch: a character tokenizer and a short supervised training.

In some demonstrations the digits rise, as the task asks; in most they fall. So the model can do both and mostly does
the wrong one, and GRPO has to find the right one from the reward alone. The supervised training is a plain PyTorch
loop, so that the example shows every step. The folder gets its name when it is complete.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
from pathlib import Path

import task
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHARACTERS = "0123456789="
END = "<end>"
PAD = "<pad>"
RISING = 0.35  # fraction of demonstrations with the right answer
STOP_AT = 0.8  # fraction of fresh problems sorted either way at which the training stops
CHECK_EVERY = 20
MAX_STEPS = 3000
BATCH = 128


def main() -> None:
    """Write the model to ``--out`` unless it exists."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("models/tiny-sorter"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.out.exists():
        return
    torch.manual_seed(arguments.seed)
    tokenizer = character_tokenizer()
    model = tiny_model(tokenizer)
    learn(model, tokenizer, seed=arguments.seed)
    partial = arguments.out.with_name(f".partial-{arguments.out.name}")
    shutil.rmtree(partial, ignore_errors=True)  # an earlier call was interrupted
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    os.replace(partial, arguments.out)


def character_tokenizer() -> PreTrainedTokenizerFast:
    """Make a tokenizer with one token per character and two special tokens."""
    vocabulary = {token: index for index, token in enumerate([PAD, END, *CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END)


def tiny_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Make a small Llama of about 100,000 weights."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=192,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=True,
        )
    )


def learn(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, *, seed: int) -> None:
    """Train on demonstrations until ``STOP_AT`` of fresh problems are sorted, rising or falling."""
    draw = random.Random(seed)
    rows = task.train(rows=BATCH * 200, seed=seed + 1)
    shown = [row["prompt"] + (row["answer"] if draw.random() < RISING else row["answer"][::-1]) for row in rows]
    ids = torch.tensor([[*tokenizer.encode(text), tokenizer.eos_token_id] for text in shown])
    fresh = task.train(rows=200, seed=seed + 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
    for step in range(1, MAX_STEPS + 1):
        batch = ids[torch.randint(len(ids), (BATCH,))]
        labels = batch.clone()
        labels[:, : task.DIGITS + 1] = -100  # the prompt is given, not predicted
        optimizer.zero_grad()
        model(input_ids=batch, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % CHECK_EVERY == 0:
            rising, falling = greedy_shares(model, tokenizer, fresh)
            print(f"supervised step {step}: {rising:.2f} rising, {falling:.2f} falling", file=sys.stderr, flush=True)
            if rising + falling >= STOP_AT:
                return
    raise SystemExit(f"the supervised training did not reach {STOP_AT} in {MAX_STEPS} steps; try another --seed")


@torch.no_grad()
def greedy_shares(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, rows: list[dict[str, str]]
) -> tuple[float, float]:
    """Return the fractions of rows whose greedy completion has the digits rising, and falling."""
    ids = torch.tensor([tokenizer.encode(row["prompt"]) for row in rows])
    for _ in range(task.DIGITS):
        ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], dim=1)
    found = ids[:, task.DIGITS + 1 :]
    rising = torch.tensor([tokenizer.encode(row["answer"]) for row in rows])
    shares = [(found == answers).all(dim=1).float().mean().item() for answers in (rising, rising.flip(1))]
    return shares[0], shares[1]


if __name__ == "__main__":
    main()
