"""The backend that a conformance suite is run on, and the truth it is held against.

Policies that are never trained are made once and shared by the checks, because a backend may compile them; so is
the record of one training run, which many checks look at from different sides.
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
from ...types import Batch, FloatArray, Prompt, RolloutGroup, Sampling
from ..numpy_model.llama import LlamaShape, NumpyLlama
from ..numpy_model.tiny_llama import NumberTokenizer, random_weights, write_tiny_llama
from ..numpy_model.training import logps
from ..parity.settings import BATCHES, Recipe, random_batch, random_prompts, with_old_logps

SHAPE = LlamaShape(layers=2)
END_TOKENS = (2, 3)
LOG_PROBS = 1e-4  # largest difference of log-probs, entropies and losses
NORM = 1e-4  # of a difference over the norm of the tensor
STEPS, AFTER_RESUME = 20, 2


class Deviates(AssertionError):
    """The backend under test computes something else than the truth."""


@dataclass(frozen=True, slots=True)
class Stack:
    """A backend with a policy of it."""

    backend: Backend
    policy: Policy

    def weights(self) -> dict[str, FloatArray]:
        return self.backend.inspect(self.policy).weights()

    def engine(self, recipe: Recipe) -> RolloutEngine:
        """A new engine on the policy's weights."""
        return self.backend.load_engine(self.policy, NumberTokenizer(recipe.vocabulary, recipe.end_tokens))


@dataclass(slots=True, kw_only=True)
class Training:
    """What happened in a run of ``STEPS`` steps, a sync, a save, ``AFTER_RESUME`` more steps, and a broken one.

    Attributes:
        weights: after steps 1, ``STEPS`` and ``STEPS + AFTER_RESUME``.
        fingerprints: of the policy: at the start, after ``STEPS``; of the engine after the push.
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
        name: as in ``backend.load_backend``.
        folder: an empty one; the model and saved states are written there.
    """

    def __init__(self, name: str, folder: Path, *, device: str = "auto") -> None:
        self.name, self.folder, self.device = name, folder, device
        self.recipe = Recipe(seed=0, steps=STEPS, vocabulary=SHAPE.vocabulary, end_tokens=END_TOKENS)
        self.model = write_tiny_llama(folder / "model", SHAPE, seed=0, end_tokens=END_TOKENS)

    def truth(self, weights: Mapping[str, NDArray[Any]] | None = None) -> NumpyLlama:
        """The model in NumPy, with the initial weights or others."""
        return NumpyLlama(SHAPE, random_weights(SHAPE, seed=0) if weights is None else weights)

    def config(self, **sections: Mapping[str, Any]) -> RunConfig:
        """The configuration, with keys of sections replaced."""
        config = self.recipe.run_config(self.name, str(self.model), self.device)
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
        return self.start.engine(self.recipe)

    @cached_property
    def batches(self) -> list[Batch]:
        """What optimizer steps take in turn, with old and reference log-probs about the true ones."""
        random, truth = np.random.default_rng(0), self.truth()
        batches = [random_batch(random, SHAPE.vocabulary) for _ in range(BATCHES)]
        return [with_old_logps(batch, logps(truth, batch), random) for batch in batches]

    @cached_property
    def prompts(self) -> list[Prompt]:
        return random_prompts(np.random.default_rng(1), SHAPE.vocabulary)

    def sampling(self, name: str = "plain", **changed: Any) -> Sampling:
        """One of the recipe's samplings, changed."""
        settings = {"max_tokens": self.recipe.max_tokens, "seed": self.recipe.seed, **self.recipe.samplings[name]}
        return Sampling(**{**settings, **changed})

    def step(self, policy: Policy, number: int) -> UpdateResult:
        """Optimizer step ``number``, from 1."""
        loss = self.recipe.losses[self.recipe.trained_with]
        return policy.update(self.batches[(number - 1) % BATCHES], loss, learning_rate=self.recipe.learning_rate)

    @cached_property
    def saved(self) -> Path:
        """Where the training run saved itself."""
        return Path(tempfile.mkdtemp(dir=self.folder))

    @cached_property
    def training(self) -> Training:
        """One run, from which several checks read."""
        stack, found = self.stack(), Training()
        policy, engine = stack.policy, stack.engine(self.recipe)
        before = policy.fingerprint()
        for number in range(1, STEPS + 1):
            found.updates.append(self.step(policy, number))
            if number in (1, STEPS):
                found.weights[number] = stack.weights()
        found.reference = policy.logps(self.batches[0], reference=True).logps
        stack.backend.weight_sync(policy, engine).push(STEPS)
        found.fingerprints = (before, policy.fingerprint(), engine.fingerprint())
        found.completions = engine.generate(self.prompts, self.sampling("greedy"), group_size=1)
        policy.save_model(self.saved / "model")
        policy.save_state(self.saved / "state")
        for number in range(STEPS + 1, STEPS + AFTER_RESUME + 1):
            found.updates.append(self.step(policy, number))
        found.weights[STEPS + AFTER_RESUME] = stack.weights()
        found.broken = self.broken_step(policy)
        return found

    def broken_step(self, policy: Policy) -> tuple[str, str, bool]:
        """Fingerprints before and after a step with an infinite gradient, and whether it was refused."""
        batch, loss = self.batches[0], self.recipe.losses[self.recipe.trained_with]
        before = policy.fingerprint()
        try:
            policy.update(replace(batch, advantages=np.full_like(batch.advantages, np.inf)), loss, learning_rate=1e-3)
        except RunFailed:
            return before, policy.fingerprint(), True
        return before, policy.fingerprint(), False


def within(what: str, found: Any, truth: Any, limit: float) -> None:
    """Refuse a difference above the limit; what is not a number is refused too."""
    one, other = np.asarray(found, np.float64), np.asarray(truth, np.float64)
    if one.shape != other.shape:
        raise Deviates(f"{what}: shape {list(one.shape)}, should be {list(other.shape)}")
    gap = np.abs(one - other)
    if gap.size and not np.nanmax(np.where(np.isnan(gap), np.inf, gap)) <= limit:
        place = np.unravel_index(int(np.argmax(np.where(np.isnan(gap), np.inf, gap))), gap.shape)
        raise Deviates(
            f"{what}: {one[place]:.7g} at {[int(i) for i in place]}, should be {other[place]:.7g} within {limit:g}"
        )


def tensors_within(
    what: str, found: Mapping[str, NDArray[Any]], truth: Mapping[str, NDArray[Any]], limit: float
) -> None:
    """Refuse other names, other shapes, and tensors farther than ``limit`` of their norm."""
    if found.keys() != truth.keys():
        raise Deviates(f"{what}: names differ: {', '.join(sorted(found.keys() ^ truth.keys())[:4])}")
    for name, expected in truth.items():
        if found[name].shape != expected.shape:
            raise Deviates(f"{what}: {name} is {list(found[name].shape)}, should be {list(expected.shape)}")
        size = max(float(np.linalg.norm(expected)), 1e-12)
        gap = float(np.linalg.norm(found[name].astype(np.float64) - expected)) / size
        if not gap <= limit:
            raise Deviates(f"{what}: {name} is {gap:.2e} of its norm away; accepted: {limit:g}")


def equal(what: str, found: Any, truth: Any) -> None:
    """Refuse anything but equality."""
    if found != truth:
        raise Deviates(f"{what}: {found!r}, should be {truth!r}")


def identical(what: str, found: Mapping[str, NDArray[Any]], truth: Mapping[str, NDArray[Any]]) -> None:
    """Refuse tensors that are not equal bit for bit."""
    equal(f"{what}: names", sorted(found), sorted(truth))
    differing = [name for name, array in truth.items() if found[name].tobytes() != array.tobytes()]
    if differing:
        raise Deviates(f"{what}: {len(differing)} of {len(truth)} tensors differ, first {differing[0]}")


def ids(groups: Sequence[RolloutGroup]) -> dict[tuple[int, int], list[int]]:
    """Tokens by (prompt uid, sample)."""
    return {(group.prompt.uid, rollout.sample): rollout.ids.tolist() for group in groups for rollout in group.rollouts}
