"""Running a workload on one backend and yielding the results, measurement by measurement.

Recording and checking both run exactly this, so they measure the same things.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...backend import Backend, Policy, RolloutEngine
from ...batches.online import padded
from ...types import Batch, Prompt, RolloutGroup
from ..numpy_model.tiny_llama import NumberTokenizer
from .quantities import Measurement, sketched
from .workload import BATCHES, Workload

SINGLE = "all"  # name of the array where a group has one


def start_policy(backend: Backend, adapter: Path | None) -> Policy:
    """Load the policy at the start: the model's weights, and the adapter's if the bundle has one."""
    policy = backend.load_policy()
    if adapter is not None:
        load_adapter(policy, adapter)
    return policy


def load_adapter(policy: Policy, folder: Path) -> None:
    """Load a saved adapter into an untrained policy; its optimizer is unchanged."""
    with tempfile.TemporaryDirectory() as state:
        policy.save_state(Path(state))
        policy.load_state(folder, Path(state))


def measure(
    backend: Backend, policy: Policy, workload: Workload, batches: Sequence[Batch], prompts: Sequence[Prompt]
) -> Iterator[Measurement]:
    """Yield everything a bundle holds, in the order of a search for a cause: inputs first, training last."""
    yield from measure_forward(backend, policy, workload, batches[0])
    yield from measure_gradients(backend, policy, workload, batches[0])
    tokenizer = NumberTokenizer(workload.vocabulary, workload.end_tokens)
    engine = backend.load_engine(policy, tokenizer)
    sync = backend.weight_sync(policy, engine)
    sync.push(0)
    for name in workload.samplings:
        yield from measure_sampling(engine, workload, prompts, name, group=name)
    yield from measure_steps(backend, policy, workload, batches)
    reference = policy.logps(batches[0], reference=True).logps
    yield Measurement(quantity="logps", group="reference, after training", arrays={SINGLE: reference})
    trained = policy.logps(batches[0]).logps
    yield Measurement(quantity="logps", group="policy, after training", arrays={SINGLE: trained})
    sync.push(1)
    for name in ("greedy", "plain"):
        yield from measure_sampling(engine, workload, prompts, name, group=f"{name}, after training")


def measure_forward(backend: Backend, policy: Policy, workload: Workload, batch: Batch) -> Iterator[Measurement]:
    """Weights, log-probs after every layer, log-probs and entropies."""
    inspection = backend.inspect(policy)
    yield Measurement(quantity="weights", group=SINGLE, arrays=sketched(inspection.weights()))
    yield Measurement(quantity="layer_logps", group=SINGLE, arrays={SINGLE: inspection.layer_logps(batch)})
    for temperature in workload.temperatures:
        result = policy.logps(replace(batch, temperature=temperature), entropy=True)
        group = f"policy, temperature {temperature:g}"
        yield Measurement(quantity="logps", group=group, arrays={SINGLE: result.logps})
        assert result.entropy is not None
        yield Measurement(quantity="entropy", group=group, arrays={SINGLE: result.entropy})
    reference = policy.logps(batch, reference=True).logps
    yield Measurement(quantity="logps", group="reference", arrays={SINGLE: reference})


def measure_gradients(backend: Backend, policy: Policy, workload: Workload, batch: Batch) -> Iterator[Measurement]:
    """Loss and gradients by parameter of every loss."""
    inspection = backend.inspect(policy)
    for name, loss in workload.losses.items():
        value, gradients = inspection.gradients(batch, loss)
        yield Measurement(quantity="losses", group=name, arrays={SINGLE: np.asarray([value])})
        yield Measurement(quantity="gradients", group=name, arrays=sketched(gradients))


def measure_sampling(
    engine: RolloutEngine, workload: Workload, prompts: Sequence[Prompt], sampling: str, *, group: str
) -> Iterator[Measurement]:
    """Tokens, -1 past the end of each completion, and their log-probs."""
    groups = engine.generate(prompts, workload.sampling(sampling), group_size=workload.group_size)
    arrays = rollout_arrays(groups, workload.max_tokens)
    yield Measurement(quantity="tokens", group=group, arrays={SINGLE: arrays["tokens"]})
    yield Measurement(quantity="token_logps", group=group, arrays=arrays)


def rollout_arrays(groups: Sequence[RolloutGroup], width: int) -> dict[str, NDArray[Any]]:
    """``tokens`` and ``logps`` ``[completions, width]``, prompt by prompt and sample by sample."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    shape = (len(rollouts), width)
    return {
        "tokens": padded([rollout.ids for rollout in rollouts], np.full(shape, -1, dtype=np.int64)),
        "logps": padded([rollout.logps for rollout in rollouts], np.zeros(shape, dtype=np.float32)),
    }


def measure_steps(
    backend: Backend, policy: Policy, workload: Workload, batches: Sequence[Batch]
) -> Iterator[Measurement]:
    """Losses, gradient norms and weights of the optimizer steps."""
    losses: dict[str, NDArray[Any]] = {}
    norms: dict[str, NDArray[Any]] = {}
    for step in range(1, workload.steps + 1):
        batch, loss = batches[(step - 1) % BATCHES], workload.losses[workload.trained_with]
        result = policy.update(batch, loss, learning_rate=workload.learning_rate)
        losses[f"step {step}"] = np.asarray([result.loss])
        norms[f"step {step}"] = np.asarray([result.grad_norm])
        arrays = trainable(backend.inspect(policy).weights(), lora=workload.lora_rank > 0)
        yield Measurement(quantity="trained_weights", group=f"step {step}", arrays=sketched(arrays))
    yield Measurement(quantity="step_losses", group=SINGLE, arrays=losses)
    yield Measurement(quantity="step_norms", group=SINGLE, arrays=norms)


def trainable(weights: Mapping[str, NDArray[Any]], *, lora: bool) -> dict[str, NDArray[Any]]:
    """The weights that training changes: with LoRA the adapters alone."""
    return {name: array for name, array in weights.items() if not lora or ".lora_" in name}
