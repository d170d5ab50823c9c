"""The backend that the conformance suite is run on, and the NumPy model it is compared with.

Policies that are never trained are made once and shared by the checks, because a backend may compile them; so is
the record of one training run, from which many checks read.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...backend import Backend, Policy, RolloutEngine, UpdateResult, load_backend
from ...config.run import RunConfig
from ...errors import RunFailed
from ...model_files.families import read_architecture
from ...model_files.safetensors import from_bfloat16, to_bfloat16, write_tensors
from ...types import Batch, FloatArray, Prompt, RolloutGroup, Sampling
from ..numpy_model.llama import NumpyLlama
from ..numpy_model.tiny_llama import NumberTokenizer, random_weights, tiny_llama_config, write_tiny_llama
from ..numpy_model.training import logps
from ..parity.workload import BATCHES, Dtype, Workload, random_batch, random_prompts, with_old_logps
from .comparisons import limits_of

END_TOKENS = (2, 3)
CONFIG = tiny_llama_config(layers=2, end_tokens=END_TOKENS)
ARCHITECTURE = read_architecture(CONFIG)
STEPS, AFTER_RESUME = 20, 2


@dataclass(frozen=True, slots=True)
class Stack:
    """A backend with one of its policies."""

    backend: Backend
    policy: Policy

    def weights(self) -> dict[str, FloatArray]:
        return dict(self.backend.inspect(self.policy).weights())

    def engine(self, workload: Workload) -> RolloutEngine:
        """A new engine on the policy's weights."""
        return self.backend.load_engine(self.policy, NumberTokenizer(workload.vocabulary, workload.end_tokens))


@dataclass(slots=True, kw_only=True)
class Training:
    """The record of a run: ``STEPS`` steps, a sync, a save, ``AFTER_RESUME`` more steps, and a broken one.

    Attributes:
        weights: those after steps 1, ``STEPS`` and ``STEPS + AFTER_RESUME``.
        fingerprints: those of the policy at the start and after ``STEPS``, and of the engine after the push.
        completions: greedy ones, after the push.
        broken: fingerprints before and after a step with infinite advantages, and whether it was refused.
    """

    updates: list[UpdateResult] = field(default_factory=list)
    weights: dict[int, dict[str, FloatArray]] = field(default_factory=dict)
    fingerprints: tuple[str, str, str] = ("", "", "")
    reference: FloatArray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    completions: list[RolloutGroup] = field(default_factory=list)
    broken: tuple[str, str, bool] = ("", "", False)


class BackendUnderTest:
    """One backend on a tiny Llama whose files lie in ``folder``.

    Args:
        name: the backend, as in ``backend.load_backend``.
        folder: an empty folder; the model and saved states are written there.
        dtype: of weights and arithmetic, see ``parity.workload.Workload``.

    Attributes:
        limits: the largest differences that pass with this type.
        initial: the weights before training, all of them numbers of this type.
    """

    def __init__(self, name: str, folder: Path, *, device: str = "auto", dtype: Dtype = "float32") -> None:
        self.name, self.folder, self.device, self.limits = name, folder, device, limits_of(dtype)
        self.workload = Workload(
            seed=0, steps=STEPS, vocabulary=ARCHITECTURE.vocabulary, end_tokens=END_TOKENS, dtype=dtype
        )
        self.initial = {weight: rounded(array, dtype) for weight, array in random_weights(ARCHITECTURE, seed=0).items()}
        self.model = write_tiny_llama(folder / "model", CONFIG, seed=0)
        write_tensors(self.model / "model.safetensors", self.initial)

    def truth(self, weights: Mapping[str, NDArray[Any]] | None = None) -> NumpyLlama:
        """The NumPy model, with the initial weights or others."""
        return NumpyLlama(ARCHITECTURE, self.initial if weights is None else weights)

    def config(self, **sections: Mapping[str, Any]) -> RunConfig:
        """The configuration, with keys of sections replaced."""
        config = self.workload.run_config(self.name, str(self.model), self.device)
        changed = {name: getattr(config, name).model_copy(update=dict(keys)) for name, keys in sections.items()}
        return config.model_copy(update=changed)

    def stack(self, **sections: Mapping[str, Any]) -> Stack:
        """A new backend and a new policy."""
        backend = load_backend(self.config(**sections))
        return Stack(backend, backend.load_policy())

    @cached_property
    def start(self) -> Stack:
        """The policy before training; no check may train it."""
        return self.stack()

    @cached_property
    def engine(self) -> RolloutEngine:
        """An engine on the policy before training."""
        return self.start.engine(self.workload)

    @cached_property
    def batches(self) -> list[Batch]:
        """The batches that optimizer steps take in turn, with old and reference log-probs near the true ones."""
        random, truth = np.random.default_rng(0), self.truth()
        batches = [random_batch(random, ARCHITECTURE.vocabulary) for _ in range(BATCHES)]
        return [with_old_logps(batch, logps(truth, batch), random) for batch in batches]

    @cached_property
    def prompts(self) -> list[Prompt]:
        return random_prompts(np.random.default_rng(1), ARCHITECTURE.vocabulary)

    def sampling(self, name: str = "plain", **changed: Any) -> Sampling:
        """One of the workload's samplings, with settings replaced."""
        settings = {"max_tokens": self.workload.max_tokens, "seed": self.workload.seed, **self.workload.samplings[name]}
        return Sampling(**{**settings, **changed})

    def step(self, policy: Policy, number: int) -> UpdateResult:
        """Take optimizer step ``number``, from 1."""
        loss = self.workload.losses[self.workload.trained_with]
        return policy.update(self.batches[(number - 1) % BATCHES], loss, learning_rate=self.workload.learning_rate)

    @cached_property
    def saved(self) -> Path:
        """The folder in which the training run saves itself."""
        return Path(tempfile.mkdtemp(dir=self.folder))

    @cached_property
    def training(self) -> Training:
        """Train once; several checks read the record."""
        stack, record = self.stack(), Training()
        policy, engine = stack.policy, stack.engine(self.workload)
        before = policy.fingerprint()
        for number in range(1, STEPS + 1):
            record.updates.append(self.step(policy, number))
            if number in (1, STEPS):
                record.weights[number] = stack.weights()
        record.reference = policy.logps(self.batches[0], reference=True).logps
        stack.backend.weight_sync(policy, engine).push(STEPS)
        record.fingerprints = (before, policy.fingerprint(), engine.fingerprint())
        record.completions = engine.generate(self.prompts, self.sampling("greedy"), group_size=1)
        policy.save_model(self.saved / "model")
        policy.save_state(self.saved / "state")
        for number in range(STEPS + 1, STEPS + AFTER_RESUME + 1):
            record.updates.append(self.step(policy, number))
        record.weights[STEPS + AFTER_RESUME] = stack.weights()
        record.broken = self.broken_step(policy)
        return record

    def broken_step(self, policy: Policy) -> tuple[str, str, bool]:
        """Fingerprints before and after a step with an infinite gradient, and whether it was refused."""
        batch, loss = self.batches[0], self.workload.losses[self.workload.trained_with]
        before = policy.fingerprint()
        try:
            policy.update(replace(batch, advantages=np.full_like(batch.advantages, np.inf)), loss, learning_rate=1e-3)
        except RunFailed:
            return before, policy.fingerprint(), True
        return before, policy.fingerprint(), False


def rounded(array: NDArray[np.float32], dtype: Dtype) -> NDArray[np.float32]:
    """The nearest numbers of a type, in float32."""
    if dtype == "bfloat16":
        return from_bfloat16(to_bfloat16(array))
    return array.astype(np.float16).astype(np.float32) if dtype == "float16" else array


def ids(groups: Sequence[RolloutGroup]) -> dict[tuple[int, int], list[int]]:
    """Tokens by (prompt uid, sample)."""
    return {(group.prompt.uid, rollout.sample): rollout.ids.tolist() for group in groups for rollout in group.rollouts}
