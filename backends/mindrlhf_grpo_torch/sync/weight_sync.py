"""The way of new weights from the policy to the engine in the same process.

Weights the engine reads from the policy's own memory need nothing; the others (merged adapters) are copied in
memory. Every copy is then digested on both sides; what differs stops the run before a token is sampled from it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mindrlhf_grpo.backend import Policy, RolloutEngine
from mindrlhf_grpo.errors import BackendError, RunFailed

from ..generation.engine import TorchEngine, trained_model
from ..models.hf import hf_tensors
from ..training.trained_model import TrainedModel
from .fingerprint import fingerprint


def build_weight_sync(policy: Policy, engine: RolloutEngine) -> TorchWeightSync | ShardedWeightSync:
    """The sync between a policy and an engine of this backend.

    Raises:
        BackendError: the engine belongs to another backend.
    """
    if not isinstance(engine, TorchEngine):
        raise BackendError(f"weights go to the torch engine in memory, not to {type(engine).__name__}")
    trained = trained_model(policy)
    return TorchWeightSync(trained.model, engine) if trained.shards is None else ShardedWeightSync(trained, engine)


class TorchWeightSync:
    """Implements ``backend.WeightSync``."""

    def __init__(self, model: Any, engine: TorchEngine) -> None:
        self.model, self.engine = model, engine

    @torch.no_grad()
    def push(self, version: int) -> None:
        """Bring the engine to the policy's weights and call them ``version``.

        Raises:
            RunFailed: a weight of the engine differs from the policy's after the push; the first one is named.
        """
        own = self.engine.decoder.weights()
        if own is not None:
            for name, weight in hf_tensors(self.model):
                target = own.get(name)
                if target is not None and not same_memory(target, weight):
                    target.copy_(weight)
        elif self.engine.model is not self.model:
            raise RunFailed("the engine computes with another model than the policy's")
        self.verify()
        self.engine.weight_version = version

    @torch.no_grad()
    def verify(self) -> None:
        """Compare what the engine computes with against the policy; tensors in the same memory are equal.

        Raises:
            RunFailed: naming the first weight that differs.
        """
        own = self.engine.decoder.weights()
        if own is None:
            return
        for name, weight in hf_tensors(self.model):
            target = own.get(name)
            if target is None:
                raise RunFailed(f"weight {name} of the policy is unknown to the engine")
            if not same_memory(target, weight):
                check_equal(name, target, weight)


class ShardedWeightSync:
    """The same from shards: each weight is brought together on every rank, copied, compared, and let go."""

    def __init__(self, policy: TrainedModel, engine: TorchEngine) -> None:
        self.policy, self.engine = policy, engine

    @torch.no_grad()
    def push(self, version: int) -> None:
        """See ``TorchWeightSync.push``; every rank takes part, also when one of them finds a difference."""
        own = self.engine.decoder.weights()
        targets = dict(hf_tensors(self.engine.model)) if own is None else own
        failure: RunFailed | None = None
        for name, weight in self.policy.whole_tensors():
            try:
                if name not in targets:
                    raise RunFailed(f"weight {name} of the policy is unknown to the engine")
                targets[name].copy_(weight)
                check_equal(name, targets[name], weight.to(targets[name].device))
            except RunFailed as found:
                failure = failure or found
        if failure is not None:
            raise failure
        self.engine.weight_version = version


def check_equal(name: str, target: Tensor, weight: Tensor) -> None:
    """Raises RunFailed if two tensors differ in a bit."""
    ours, theirs = fingerprint([(name, target)]), fingerprint([(name, weight)])
    if ours != theirs:
        raise RunFailed(
            f"weight {name} differs between engine and policy after the sync "
            f"(fingerprints {ours[:12]} and {theirs[:12]})"
        )


def same_memory(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same numbers in the same places of memory."""
    return (
        one.data_ptr() == other.data_ptr()
        and (one.dtype, one.device, one.shape, one.stride()) == (other.dtype, other.device, other.shape, other.stride())
    )  # fmt: skip
