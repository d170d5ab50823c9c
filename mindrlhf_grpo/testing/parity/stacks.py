"""Recording what one stack computes, and checking another against it.

``record`` and ``check`` need nothing of each other but the bundle: they run in separate processes, on separate
machines, with separate frameworks.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import __version__
from ...backend import Backend, load_backend
from ...errors import BackendError, BundleError, ConfigError
from ...model_files.folder import find_folder, read_headers, read_model_config
from ..numpy_model.llama import LlamaShape
from ..numpy_model.lora_adapter import adapted_modules, random_adapter, targets_of, write_adapter
from ..numpy_model.tiny_llama import write_tiny_llama
from .bundle import ADAPTER, INPUTS, MODEL, Bundle, create, open_bundle, write_arrays, write_measurement
from .deviation import Finding, compare, layer_end, leaving_out, rounding_in_gradients
from .measuring import measure, start_policy
from .perturbation import Perturbation, perturbed_copy
from .quantities import QUANTITIES, Measurement
from .settings import (
    BATCHES,
    LOSSES,
    QUICK_SAMPLINGS,
    SAMPLINGS,
    TRAINED_WITH,
    Recipe,
    pack,
    random_batch,
    random_prompts,
    unpack,
    with_old_logps,
)

TINY = LlamaShape()
TINY_END_TOKENS = (2, 3)
LEAST_CONTEXT = 32

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a check came to."""

    bundle: Path
    recorded: dict[str, str]
    checked: dict[str, str]
    recorded_backend: str
    checked_backend: str
    layers: int
    perturbed: str | None
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        return all(finding.passed for finding in self.findings)

    @property
    def first_layer(self) -> str | None:
        """Where log-probs first deviate: ``model.layers.1``, or what comes before and after all layers."""
        ends = [finding.first_layer for finding in self.findings if finding.first_layer is not None]
        return layer_end(ends[0]) if ends else None


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
    tolerances: dict[str, float],
    say: Say,
) -> Bundle:
    """Write a bundle with what a backend computes.

    Args:
        model: a Hugging Face folder, copied into the bundle; None makes a tiny random Llama.
        quick: one loss and three samplings instead of all.
        say: called with a line on progress.

    Raises:
        BundleError: the folder exists.
        UserError: the model or the backend cannot be used.
    """

    def fill(partial: Path) -> dict[str, Any]:
        if model is None:
            write_tiny_llama(partial / MODEL, TINY, seed=seed, end_tokens=TINY_END_TOKENS)
        else:
            copy_model(find_folder(model), partial / MODEL)
        recipe = recipe_for(partial / MODEL, seed=seed, steps=steps, lora_rank=lora_rank, quick=quick)
        adapter = write_random_adapter(partial, recipe) if lora_rank else None
        stack = load_backend(recipe.run_config(backend, str(partial / MODEL), device))
        policy = start_policy(stack, adapter)
        random = np.random.default_rng(seed)
        plain = [random_batch(random, recipe.vocabulary) for _ in range(BATCHES)]
        batches = [with_old_logps(batch, policy.logps(batch).logps, random) for batch in plain]
        prompts = random_prompts(random, recipe.vocabulary)
        write_arrays(partial / INPUTS, pack(batches, prompts))
        groups: list[tuple[str, str]] = []
        for measurement in measure(stack, policy, recipe, batches, prompts):
            write_measurement(partial, measurement)
            groups.append((measurement.quantity, measurement.group))
            say(f"recorded {QUANTITIES[measurement.quantity].title}: {measurement.group}")
        layers = int(read_model_config(partial / MODEL).get("num_hidden_layers", 0))
        return {
            "backend": backend, "versions": versions(stack), "recipe": recipe, "tolerances": tolerances,
            "groups": groups, "layers": layers,
        }  # fmt: skip

    return create(folder, fill)


def check(
    folder: Path, *, backend: str, device: str = "auto", perturbation: Perturbation | None = None, say: Say
) -> Result:
    """Run a bundle on a backend and compare.

    Raises:
        BundleError: a bundle that cannot be used.
        UserError: the backend is absent, or cannot do what the bundle asks.
    """
    bundle = open_bundle(folder)
    manifest = bundle.manifest
    if manifest.tolerances.keys() != QUANTITIES.keys():
        raise BundleError(f"{folder} has tolerances for other quantities than this version compares: record it again")
    try:
        batches, prompts = unpack(bundle.inputs())
    except KeyError as missing:
        raise BundleError(f"{folder / INPUTS} has no array {missing}: record the bundle again") from None
    with tempfile.TemporaryDirectory() as scratch:
        model = bundle.model
        if perturbation is not None:
            model = perturbed_copy(model, Path(scratch) / MODEL, perturbation)
        stack = load_backend(manifest.recipe.run_config(backend, str(model), device))
        policy = start_policy(stack, bundle.adapter)
        findings: list[Finding] = []
        rounding = rounding_in_gradients(bundle.expected("gradients", manifest.recipe.trained_with))
        for measurement in measure(stack, policy, manifest.recipe, batches, prompts):
            refuse_other_groups(bundle, [(measurement.quantity, measurement.group)], manifest.groups)
            finding = compare_with(bundle, measurement, rounding)
            findings.append(finding)
            say(line_of(finding))
        refuse_other_groups(bundle, manifest.groups, [(finding.quantity, finding.group) for finding in findings])
        checked = versions(stack)
    return Result(
        bundle=folder, recorded=manifest.versions, checked=checked, recorded_backend=manifest.backend,
        checked_backend=backend, layers=manifest.layers, findings=tuple(findings),
        perturbed=None if perturbation is None else describe(perturbation),
    )  # fmt: skip


def compare_with(bundle: Bundle, measurement: Measurement, rounding: Mapping[str, NDArray[np.bool_]]) -> Finding:
    """A measurement against the bundle's; trained weights without the elements that move at random."""
    expected = bundle.expected(measurement.quantity, measurement.group)
    if measurement.quantity == "trained_weights":
        measurement = replace(measurement, arrays=leaving_out(measurement.arrays, expected, rounding))
    tolerance = bundle.manifest.tolerances[measurement.quantity]
    return compare(QUANTITIES[measurement.quantity], measurement, expected, tolerance=tolerance)


def refuse_other_groups(
    bundle: Bundle, groups: Iterable[tuple[str, str]], accepted: Collection[tuple[str, str]]
) -> None:
    """A bundle holds exactly what is measured here, or it is of another making."""
    for quantity, group in groups:
        if (quantity, group) not in accepted:
            raise BundleError(f"{bundle.folder} and this version differ in {quantity} of {group}: record it again")


def line_of(finding: Finding) -> str:
    """Progress: one comparison."""
    mark = "ok  " if finding.passed else "FAIL"
    return f"{mark} {QUANTITIES[finding.quantity].title}: {finding.group}: {finding.deviation:.1e}"


def describe(perturbation: Perturbation) -> str:
    """A perturbation in words."""
    place = "every element" if perturbation.place is None else f"element {list(perturbation.place)}"
    return f"{perturbation.value:g} added to {place} of {perturbation.name}"


def recipe_for(model: Path, *, seed: int, steps: int, lora_rank: int, quick: bool) -> Recipe:
    """The recipe for a model: its vocabulary, its end tokens, its adapters.

    Raises:
        ConfigError: a model whose config.json does not say its vocabulary, or with too short a context.
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
    return Recipe(
        seed=seed, steps=steps, vocabulary=vocabulary, end_tokens=end_tokens, lora_rank=lora_rank,
        lora_targets=tuple(targets),
        losses={TRAINED_WITH: LOSSES[TRAINED_WITH]} if quick else LOSSES,
        samplings={name: SAMPLINGS[name] for name in QUICK_SAMPLINGS} if quick else SAMPLINGS,
    )  # fmt: skip


def write_random_adapter(folder: Path, recipe: Recipe) -> Path:
    """The adapter that training starts from."""
    modules = adapted_modules(read_headers(folder / MODEL))
    factors = random_adapter(modules, rank=recipe.lora_rank, seed=recipe.seed)
    return write_adapter(folder / ADAPTER, factors, rank=recipe.lora_rank, alpha=recipe.lora_alpha, model=MODEL)


def copy_model(source: Path, target: Path) -> None:
    """Configuration and weights of a model folder, nothing else: tokens come as ids."""
    target.mkdir(parents=True)
    patterns: Iterable[str] = ("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json")
    for pattern in patterns:
        for file in sorted(source.glob(pattern)):
            shutil.copyfile(file, target / file.name)


def versions(stack: Backend) -> dict[str, str]:
    """What a stack consists of.

    Raises:
        BackendError: more than one process.
    """
    if stack.comm.world_size > 1:
        raise BackendError("parity runs in one process; start it without torchrun or msrun")
    return {"mindrlhf-grpo": __version__, **stack.versions()}


def as_json(result: Result) -> dict[str, Any]:
    """The result for a program."""
    return {
        "passed": result.passed, "bundle": str(result.bundle),
        "recorded": {"backend": result.recorded_backend, **result.recorded},
        "checked": {"backend": result.checked_backend, **result.checked},
        "perturbed": result.perturbed, "first_deviating_layer": result.first_layer,
        "findings": [
            {
                "quantity": finding.quantity, "group": finding.group, "passed": finding.passed,
                "deviation": finding.deviation, "tolerance": finding.tolerance, "where": finding.where,
                "first_beyond": finding.first, "profile": [list(item) for item in finding.profile],
            }
            for finding in result.findings
        ],
    }  # fmt: skip


def write_json(result: Result, path: Path) -> None:
    """``result.json``; an infinite deviation is written as the text ``inf``."""

    def plain(value: Any) -> Any:
        if isinstance(value, float) and not np.isfinite(value):
            return str(value)
        if isinstance(value, dict):
            return {name: plain(item) for name, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list) else value

    path.write_text(json.dumps(plain(as_json(result)), indent=1, allow_nan=False) + "\n", encoding="utf-8")
