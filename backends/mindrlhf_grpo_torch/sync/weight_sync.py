"""Weight sync: new weights go from the policy to the engine in the same process.

Weights that the engine reads from the policy's own memory need nothing; the others (merged adapters) are copied in
memory. Every copy is then compared by fingerprint; a difference stops the run before a token is sampled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mindrlhf_grpo.backend import Policy, RolloutEngine
from mindrlhf_grpo.errors import BackendError, RunFailed
from mindrlhf_grpo.model_files.fingerprint import check_synced, unknown_weight
from mindrlhf_grpo.parallel.resharding import RankLayout, plan_resharding

from ..comm import TorchRanks
from ..generation.engine import TorchEngine, trained_model
from ..models.hf import hf_tensors, is_lora, local, saved_buffers
from ..models.tensor_slices import bare, own_slice, whole_parameters
from ..training.trained_model import TrainedModel
from .fingerprint import fingerprint
from .resharding import Resharder


def build_weight_sync(
    policy: Policy, engine: RolloutEngine
) -> TorchWeightSync | GatheredWeightSync | ReshardedWeightSync:
    """The sync between a policy and an engine of this backend.

    Raises:
        BackendError: the engine belongs to another backend.
    """
    if not isinstance(engine, TorchEngine):
        raise BackendError(f"weights go to the torch engine in memory, not to {type(engine).__name__}")
    trained = trained_model(policy)
    if not engine.separate or (trained.shards is None and engine.slices is None):
        return TorchWeightSync(trained.model, engine)
    if trained.shards is None or is_lora(trained.model):
        return GatheredWeightSync(trained, engine)
    return ReshardedWeightSync(trained, engine)


class TorchWeightSync:
    """Implements ``backend.WeightSync``."""

    def __init__(self, model: Any, engine: TorchEngine) -> None:
        self.model, self.engine = model, engine

    @torch.no_grad()
    def push(self, version: int) -> None:
        """Copy the policy's weights into the engine and record them as ``version``.

        Raises:
            RunFailed: a weight of the engine differs from the policy's after the push; the first one is named.
        """
        targets = self.engine.decoder.weights()
        if targets is not None:
            for name, weight in hf_tensors(self.model):
                target = targets.get(name)
                if target is not None and not same_memory(target, weight):
                    target.copy_(weight)
        elif self.engine.model is not self.model:
            raise RunFailed("the engine computes with another model than the policy's")
        self.verify()
        self.engine.weight_version = version

    @torch.no_grad()
    def verify(self) -> None:
        """Compare the engine's weights with the policy's; tensors in the same memory are equal.

        Raises:
            RunFailed: naming the first weight that differs.
        """
        targets = self.engine.decoder.weights()
        if targets is None:
            return
        for name, weight in hf_tensors(self.model):
            target = targets.get(name)
            if target is None:
                raise unknown_weight(name)
            if not same_memory(target, weight):
                check_equal(name, target, weight)


class GatheredWeightSync:
    """The weight sync of merged adapters: each weight is gathered on every rank, cut, copied, compared, and freed."""

    def __init__(self, policy: TrainedModel, engine: TorchEngine) -> None:
        self.policy, self.engine = policy, engine

    @torch.no_grad()
    def push(self, version: int) -> None:
        """See ``TorchWeightSync.push``; every rank takes part, even when one of them finds a difference."""
        targets = engine_tensors(self.engine)
        failure: RunFailed | None = None
        for name, full in self.policy.full_tensors():
            try:
                if name not in targets:
                    raise unknown_weight(name)
                weight = self.own(name, full).to(targets[name].device)
                targets[name].copy_(weight)
                check_equal(name, targets[name], weight)
            except RunFailed as error:
                failure = failure or error
        if failure is not None:
            raise failure
        self.engine.weight_version = version

    def own(self, name: str, full: Tensor) -> Tensor:
        """The engine's part of a weight on this rank."""
        slices = self.engine.slices
        if slices is None or name not in slices.parameters:
            return full
        return own_slice(slices.parameters[name], full, RankLayout(tp=slices.group.size), slices.group.place)


class ReshardedWeightSync:
    """The weight sync by a plan: each rank's part in training goes straight to the ranks whose engines need it.

    Attributes:
        resharder: what moved in the last push.
    """

    def __init__(self, policy: TrainedModel, engine: TorchEngine) -> None:
        self.policy, self.engine = policy, engine
        shards, ranks = policy.shards, policy.comm
        assert shards is not None
        assert isinstance(ranks, TorchRanks)
        self.shards = shards
        whole = RankLayout(dp=ranks.engine_mesh.data, tp=ranks.engine_mesh.tensor)
        sliced = whole_parameters(engine.model) if engine.slices is None else engine.slices.parameters
        source = RankLayout(dp=ranks.data.size, tp=ranks.mesh.tensor, sharded=shards.sharded)
        plan = plan_resharding(source, list(shards.parameters.values()), whole, list(sliced.values()))
        self.resharder = Resharder(plan, ranks)

    def push(self, version: int) -> None:
        """See ``TorchWeightSync.push``; every rank takes part, and every rank raises the same error."""
        self.shards.reshard()
        targets = engine_tensors(self.engine)
        own = {bare(name): local(weight) for name, weight in self.shards.packed.unwrapped.named_parameters()}
        self.resharder.move(own, targets)
        for name, buffer in saved_buffers(self.shards.packed.unwrapped):
            targets[name].copy_(buffer)
            check_equal(name, targets[name], buffer)
        self.engine.weight_version = version


def engine_tensors(engine: TorchEngine) -> Mapping[str, Tensor]:
    """The tensors that an engine computes with, by Hugging Face name."""
    computed = engine.decoder.weights()
    return dict(hf_tensors(engine.model)) if computed is None else computed


def check_equal(name: str, target: Tensor, weight: Tensor) -> None:
    """Check that the engine's tensor equals the policy's in every bit.

    Raises:
        RunFailed: they differ.
    """
    check_synced(name, engine=fingerprint([(name, target)]), policy=fingerprint([(name, weight)]))


def same_memory(one: Tensor, other: Tensor) -> bool:
    """True if two tensors are views of the same memory with the same layout."""
    return (
        one.data_ptr() == other.data_ptr()
        and (one.dtype, one.device, one.shape, one.stride()) == (other.dtype, other.device, other.shape, other.stride())
    )  # fmt: skip
