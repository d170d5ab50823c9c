"""A tiny model, tokenizer, task and configuration on disk, for whole runs in seconds."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import load_file

from mindrlhf_grpo import trainers
from mindrlhf_grpo.config.file import read_config
from mindrlhf_grpo.trainers.preflight import check
from tests.support.repository import ROOT
from tests.support.seeds import shifted

ALPHABET = "0123456789+-= abcdefghijklmnopqrstuvwxyz?\n"
REWARD = """def digits(completions):
    return [sum(character.isdigit() for character in text) / max(1, len(text)) for text in completions]
"""
SPECIAL = ["<pad>", "<eos>"]
THREADS = os.environ.get("OMP_NUM_THREADS", "1")


def write_model(folder: Path, *, seed: int = 0, hidden: int = 32, layers: int = 2, kv_heads: int = 2) -> Path:
    """A random Llama with a character tokenizer, as a Hugging Face folder."""
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {piece: index for index, piece in enumerate([*SPECIAL, *ALPHABET])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(?m)."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")
    torch.manual_seed(shifted(seed))
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        initializer_range=0.2,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def write_rows(path: Path, count: int = 40) -> Path:
    """Two-number additions."""
    draw = np.random.default_rng(0)
    pairs = draw.integers(0, 10, size=(count, 2)).tolist()
    path.write_text("".join(json.dumps({"prompt": f"{a}+{b}=", "answer": str(a + b)}) + "\n" for a, b in pairs))
    return path


def settings(folder: Path, **sections: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a tiny run in ``folder``, sections updated by the arguments."""
    config: dict[str, Any] = {
        "backend": "torch",
        "run_dir": str(folder / "run"),
        "model": {"path": str(folder / "model"), "device": "cpu"},
        "data": {"source": str(folder / "rows.jsonl"), "chat_template": "none"},
        "rewards": [
            {"function": f"{folder / 'reward.py'}:digits"},
            {"function": "length", "arguments": {"tokens": 4}, "weight": 0.5},
        ],
        "rollout": {"group_size": 4, "max_tokens": 8, "slots": 8},
        "train": {"steps": 5, "prompts_per_step": 4, "learning_rate": 0.01},
    }
    for name, section in sections.items():
        config[name] = {**config.get(name, {}), **section} if isinstance(section, dict) else section
    return config


def prepare(folder: Path, *, layers: int = 2, kv_heads: int = 2, **sections: dict[str, Any]) -> Path:
    """Model, rows and ``config.yaml`` in ``folder``; returns the configuration's path."""
    if not (folder / "model").exists():
        write_model(folder / "model", layers=layers, kv_heads=kv_heads)
        write_rows(folder / "rows.jsonl")
        (folder / "reward.py").write_text(REWARD)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings(folder, **sections)))
    return path


def environment() -> dict[str, str]:
    """One thread unless told, no network, no colours: runs are comparable. msrun starts the first python it finds."""
    quiet = {"OMP_NUM_THREADS": THREADS, "HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "TOKENIZERS_PARALLELISM": "false"}
    found = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    here = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return {**os.environ, **quiet, "PATH": found, "PYTHONPATH": here}


def command(config: Path, *overrides: str, processes: int = 1) -> list[str]:
    """The training command, under the launcher of the framework for more than one process."""
    program = ["-m", "mindrlhf_grpo", "train", str(config), *overrides]
    if processes == 1:
        return [sys.executable, *program]
    if on_mindspore(config, overrides):
        return [*msrun(processes, config.parent / "logs"), "python", *program]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [sys.executable, *launcher, *program]


def msrun(workers: int, logs: Path) -> list[str]:
    """MindSpore's launcher; it shows what rank 0 writes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        sys.executable, "-m", "mindspore.parallel.cluster.run", f"--worker_num={workers}",
        f"--local_worker_num={workers}", f"--master_port={port}", "--join=True", "--tail_worker_log=0",
        f"--log_dir={logs}", "--cluster_time_out=120",
    ]  # fmt: skip


def train(config: Path, *overrides: str, processes: int = 1, apart: bool = False) -> dict[str, Any]:
    """Run to the end and return the summary: in this process if it is one, for starting another takes longer than the run."""
    if processes == 1 and not apart:
        return train_here(config, *overrides)
    if on_mindspore(config, overrides):
        done = subprocess.run(
            command(config, *overrides, processes=processes),
            env=environment(), capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        output = done.stdout
    else:
        from tests.support.runs import forked

        output = forked.finish(forked.ranks(["train", str(config), *overrides], processes))
    summary: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return summary


def on_mindspore(config: Path, overrides: Sequence[str]) -> bool:
    return yaml.safe_load(config.read_text())["backend"] == "mindspore" or "backend=mindspore" in overrides


def train_here(config: Path, *overrides: str) -> dict[str, Any]:
    """Run to the end in this process, with the threads that a process of its own would have."""
    import torch

    torch.set_num_threads(int(THREADS))
    settings, draft = read_config(config, list(overrides))
    check(settings, draft)
    return trainers.train(settings)


def metrics(run: Path) -> list[dict[str, float]]:
    """The lines of ``metrics.jsonl``, one for each step."""
    return [line for line in all_metrics(run) if line["step"] > 0]


def all_metrics(run: Path) -> list[dict[str, float]]:
    """The lines of ``metrics.jsonl``, that of the evaluation before training among them."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def rollouts(run: Path, step: int) -> dict[tuple[int, int], dict[str, Any]]:
    """Completions of a step by (uid, sample)."""
    rows = [json.loads(line) for line in (run / "rollouts" / f"step_{step}.jsonl").read_text().splitlines()]
    return {(row["uid"], row["sample"]): row for row in rows}


def weights(run: Path, step: int) -> dict[str, np.ndarray]:
    """Tensors of a checkpoint's policy."""
    return load_file(run / "checkpoints" / f"step_{step}" / "policy" / "model.safetensors")
