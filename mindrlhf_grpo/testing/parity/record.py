"""Recording a parity bundle: a model, inputs, and what one backend computes from them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ... import __version__
from ...backend import Backend, load_backend
from ...errors import BackendError, ConfigError
from ...model_files.folder import find_folder, read_headers, read_model_config
from ..numpy_model.lora_adapter import adapted_modules, random_adapter, targets_of, write_adapter
from ..numpy_model.tiny_llama import tiny_llama_config, write_tiny_llama
from .bundle import ADAPTER, INPUTS, MODEL, Bundle, create, write_arrays, write_measurement
from .measurements import measure, start_policy
from .quantities import QUANTITIES
from .workload import (
    BATCHES,
    LOSSES,
    QUICK_SAMPLINGS,
    SAMPLINGS,
    TRAINED_WITH,
    Dtype,
    Workload,
    pack,
    random_batch,
    random_prompts,
    with_old_logps,
)

LEAST_CONTEXT = 32

Say = Callable[[str], None]


def record(
    folder: Path,
    *,
    backend: str,
    model: str | None,
    steps: int,
    seed: int,
    device: str = "auto",
    lora_rank: int = 0,
    quick: bool = False,
    dtype: Dtype = "float32",
    tolerances: dict[str, float],
    say: Say,
) -> Bundle:
    """Write a bundle with what a backend computes.

    Args:
        model: a Hugging Face folder, copied into the bundle; None makes a tiny random Llama.
        dtype: of weights and arithmetic; the weights in the bundle stay as the model has them.
        quick: one loss and three samplings instead of all.
        say: called with each line of progress.

    Raises:
        BundleError: the folder exists.
        UserError: the model or the backend cannot be used.
    """

    def fill(partial: Path) -> dict[str, Any]:
        if model is None:
            write_tiny_llama(partial / MODEL, tiny_llama_config(), seed=seed)
        else:
            copy_model(find_folder(model), partial / MODEL)
        workload = workload_for(partial / MODEL, seed=seed, steps=steps, lora_rank=lora_rank, quick=quick, dtype=dtype)
        adapter = write_random_adapter(partial, workload) if lora_rank else None
        stack = load_backend(workload.run_config(backend, str(partial / MODEL), device))
        policy = start_policy(stack, adapter)
        random = np.random.default_rng(seed)
        plain = [random_batch(random, workload.vocabulary) for _ in range(BATCHES)]
        batches = [with_old_logps(batch, policy.logps(batch).logps, random) for batch in plain]
        prompts = random_prompts(random, workload.vocabulary)
        write_arrays(partial / INPUTS, pack(batches, prompts))
        groups: list[tuple[str, str]] = []
        for measurement in measure(stack, policy, workload, batches, prompts):
            write_measurement(partial, measurement)
            groups.append((measurement.quantity, measurement.group))
            say(f"recorded {QUANTITIES[measurement.quantity].title}: {measurement.group}")
        layers = int(read_model_config(partial / MODEL).get("num_hidden_layers", 0))
        return {
            "backend": backend, "versions": versions(stack), "recipe": workload, "tolerances": tolerances,
            "groups": groups, "layers": layers,
        }  # fmt: skip

    return create(folder, fill)


def workload_for(model: Path, *, seed: int, steps: int, lora_rank: int, quick: bool, dtype: Dtype) -> Workload:
    """Make the workload for a model: its vocabulary, its end tokens, its adapters.

    Raises:
        ConfigError: config.json lacks the size of the vocabulary, or the context is too short.
    """
    config = read_model_config(model)
    vocabulary, context = config.get("vocab_size"), config.get("max_position_embeddings", LEAST_CONTEXT)
    if not isinstance(vocabulary, int):
        raise ConfigError(f"{model / 'config.json'} has no vocab_size: the model is no plain causal language model")
    if context < LEAST_CONTEXT:
        raise ConfigError(f"{model} knows {context} positions; parity needs {LEAST_CONTEXT}")
    ends = config.get("eos_token_id")
    end_tokens = tuple(ends) if isinstance(ends, list) else () if ends is None else (int(ends),)
    modules = adapted_modules(read_headers(model)) if lora_rank else {}
    targets = targets_of(f"{name}.lora_A.weight" for name in modules)
    return Workload(
        seed=seed, steps=steps, dtype=dtype, vocabulary=vocabulary, end_tokens=end_tokens, lora_rank=lora_rank,
        lora_targets=tuple(targets),
        losses={TRAINED_WITH: LOSSES[TRAINED_WITH]} if quick else LOSSES,
        samplings={name: SAMPLINGS[name] for name in QUICK_SAMPLINGS} if quick else SAMPLINGS,
    )  # fmt: skip


def write_random_adapter(folder: Path, workload: Workload) -> Path:
    """Write the adapter that training starts from."""
    modules = adapted_modules(read_headers(folder / MODEL))
    factors = random_adapter(modules, rank=workload.lora_rank, seed=workload.seed)
    return write_adapter(folder / ADAPTER, factors, rank=workload.lora_rank, alpha=workload.lora_alpha, model=MODEL)


def copy_model(source: Path, target: Path) -> None:
    """Copy the configuration and weights of a model folder, and nothing else: tokens come as ids."""
    target.mkdir(parents=True)
    patterns: Iterable[str] = ("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json")
    for pattern in patterns:
        for file in sorted(source.glob(pattern)):
            shutil.copyfile(file, target / file.name)


def versions(stack: Backend) -> dict[str, str]:
    """The versions of a stack's parts.

    Raises:
        BackendError: more than one process.
    """
    if stack.comm.world_size > 1:
        raise BackendError("parity runs in one process; start it without torchrun or msrun")
    return {"mindrlhf-grpo": __version__, **stack.versions()}
