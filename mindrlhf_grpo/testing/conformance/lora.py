"""Conformance of LoRA: fresh adapters change nothing, known ones change the results as NumPy does, and only they train."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...model_files.folder import read_headers
from ..numpy_model import training as truth
from ..numpy_model.llama import Array, Gradients
from ..numpy_model.lora_adapter import adapted_modules, random_adapter, write_adapter
from ..parity.measurements import load_adapter
from .backend_under_test import BackendUnderTest, Stack
from .comparisons import Deviates, identical, tensors_within, within

RANK, ALPHA = 4, 8.0
SCALE = ALPHA / RANK
SECTION = {"lora_rank": RANK, "lora_alpha": ALPHA}


def adapters_are_computed_and_alone_are_trained(backend: BackendUnderTest) -> None:
    """Fresh adapters change nothing; known ones have NumPy's log-probs and gradients, and a step leaves the base alone."""
    factors = random_adapter(adapted_modules(read_headers(backend.model)), rank=RANK, seed=0)
    folder = write_adapter(backend.folder / "adapter", factors, rank=RANK, alpha=ALPHA, model=str(backend.model))
    stack, batch, base = backend.stack(model=SECTION), backend.batches[0], backend.truth()
    untouched = truth.logps(base, batch)
    within("log-probs with fresh adapters", stack.policy.logps(batch).logps, untouched, backend.limits.log_probs)
    load_adapter(stack.policy, folder)
    merged = backend.truth(with_adapter(base.weights, factors))
    within(
        "log-probs with adapters", stack.policy.logps(batch).logps, truth.logps(merged, batch), backend.limits.log_probs
    )
    reference = stack.policy.logps(batch, reference=True).logps
    within("reference log-probs with adapters", reference, untouched, backend.limits.log_probs)
    loss = backend.workload.losses[backend.workload.trained_with]
    value, gradients = stack.backend.inspect(stack.policy).gradients(batch, loss)
    true_value, dense = truth.loss_and_gradients(merged, batch, loss)
    within("loss with adapters", value, true_value, backend.limits.log_probs)
    tensors_within("gradients of adapters", gradients, factor_gradients(dense, factors), backend.limits.norm)
    base_stays(backend, stack, factors)


def base_stays(backend: BackendUnderTest, stack: Stack, factors: Mapping[str, NDArray[np.float32]]) -> None:
    """One step changes every adapter and no other weight."""
    before = stack.weights()
    backend.step(stack.policy, 1)
    after = stack.weights()
    base = {name for name in after if ".lora_" not in name}
    identical("base weights after a step", {n: after[n] for n in base}, {n: before[n] for n in base})
    still = [name for name in factors if name in after and np.array_equal(after[name], before[name])]
    if still or set(after) - base != set(factors):
        raise Deviates(f"adapters that a step left as they were, or of other names: {still[:3]}")


def with_adapter(weights: Mapping[str, Array], factors: Mapping[str, NDArray[Any]]) -> Gradients:
    """The weights plus ``SCALE`` times B A."""
    merged = dict(weights)
    for name, a in factors.items():
        if name.endswith(".lora_A.weight"):
            module = name.removesuffix(".lora_A.weight")
            b = factors[f"{module}.lora_B.weight"].astype(np.float64)
            merged[f"{module}.weight"] = weights[f"{module}.weight"] + SCALE * b @ a.astype(np.float64)
    return merged


def factor_gradients(dense: Mapping[str, Array], factors: Mapping[str, NDArray[Any]]) -> Gradients:
    """Gradients of A and B from that of the merged weight."""
    gradients: Gradients = {}
    for name in factors:
        module, side, _ = name.rsplit(".", 2)
        other = factors[f"{module}.lora_{'B' if side == 'lora_A' else 'A'}.weight"].astype(np.float64)
        gradient = dense[f"{module}.weight"]
        gradients[name] = SCALE * (other.T @ gradient if side == "lora_A" else gradient @ other.T)
    return gradients


CHECKS = (adapters_are_computed_and_alone_are_trained,)
