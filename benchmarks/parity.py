"""The same GRPO run on two backends, each in a separate process, compared step by step: ``make parity``.

A tiny random Llama and two rewards, so that a run takes seconds. Writes ``runs/parity/BACKEND`` and prints the table of
``mindrlhf-grpo parity runs``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from mindrlhf_grpo.testing.numpy_model.tiny_llama import tiny_llama_config, write_tiny_llama

ALPHABET = "0123456789+-= abcdefghijklmnopqrstuvwxyz?\n"
SPECIAL = ("<pad>", "<eos>")
END = 1
CONFIG = tiny_llama_config(vocabulary=len(SPECIAL) + len(ALPHABET), layers=2, end_tokens=(END,))
REWARD = """def digits(completions):
    return [sum(character.isdigit() for character in text) / max(1, len(text)) for text in completions]
"""
PROBLEMS = 40


def main() -> None:
    """Train twice, compare, and exit with the code of the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/parity"))
    parser.add_argument("--backends", nargs=2, default=["torch", "mindspore"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--lora-rank", type=int, default=0)
    arguments = parser.parse_args()
    shutil.rmtree(arguments.folder, ignore_errors=True)
    config = prepare(arguments.folder, steps=arguments.steps, lora_rank=arguments.lora_rank)
    one, other = arguments.backends
    names = (one, other if other != one else f"{other}-again")
    folders = [
        train(config, backend, arguments.folder / name) for backend, name in zip((one, other), names, strict=True)
    ]
    command = [sys.executable, "-m", "mindrlhf_grpo", "parity", "runs", *map(str, folders)]
    sys.exit(subprocess.run(command).returncode)


def prepare(folder: Path, *, steps: int, lora_rank: int = 0) -> Path:
    """Write model, tokenizer, problems, reward and ``config.yaml``; return the configuration's path."""
    model = write_tiny_llama(folder / "model", CONFIG, seed=0)
    write_tokenizer(model)
    rows = [{"prompt": f"{number % 10}+{number * 7 % 10}="} for number in range(PROBLEMS)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "reward.py").write_text(REWARD)
    settings = {
        "run_dir": str(folder / "run"),
        "model": {"path": str(model), "device": "cpu", "lora_rank": lora_rank},
        "data": {"source": str(folder / "rows.jsonl"), "chat_template": "none"},
        "rewards": [
            {"function": f"{folder / 'reward.py'}:digits"},
            {"function": "length", "arguments": {"tokens": 6}, "weight": 0.5},
        ],
        "rollout": {"group_size": 4, "max_tokens": 12, "slots": 8},
        "algorithm": {"kl_coef": 0.05, "inner_epochs": 2},
        "train": {"steps": steps, "prompts_per_step": 4, "learning_rate": 0.003, "weight_decay": 0.01},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def write_tokenizer(folder: Path) -> None:
    """Make a tokenizer with one token per character."""
    vocabulary = {piece: index for index, piece in enumerate([*SPECIAL, *ALPHABET])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(?m)."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"pad_token": SPECIAL[0], "eos_token": SPECIAL[1]}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))


def train(config: Path, backend: str, run: Path) -> Path:
    """Train in a separate process."""
    command = [sys.executable, "-m", "mindrlhf_grpo", "train", str(config), f"backend={backend}", f"run_dir={run}"]
    print(f"training on {backend} ...", file=sys.stderr, flush=True)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"training on {backend} failed:\n{done.stderr[-3000:]}")
    return run


if __name__ == "__main__":
    main()
