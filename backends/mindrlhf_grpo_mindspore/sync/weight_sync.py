"""Weight sync: new weights go from the policy to the engine in the same process.

Weights that the engine reads from the policy's own memory need nothing (an engine in another layout: ``resharding``);
the others are overwritten in place. Every copy is then compared by fingerprint; a difference stops the run before a
token is sampled. So does a weight that was moved: compiled functions go on reading the memory they were compiled with.
"""

from __future__ import annotations

from mindspore import Parameter

from mindrlhf_grpo.backend import Policy, RolloutEngine
from mindrlhf_grpo.errors import BackendError, RunFailed
from mindrlhf_grpo.model_files.fingerprint import check_synced, fingerprint, unknown_weight
from mindrlhf_grpo.parallel.single_process import SingleProcess

from ..comm import MindSporeRanks
from ..generation.decoder_steps import Model
from ..generation.engine import MindSporeEngine, model_of
from ..graph import overwrite
from ..training.trained_model import TrainedModel
from .resharding import ReshardingSync


def build_weight_sync(
    policy: Policy, engine: RolloutEngine, comm: SingleProcess | MindSporeRanks | None = None
) -> MindSporeWeightSync | ReshardingSync:
    """The sync between a policy and an engine of this backend.

    Raises:
        BackendError: the engine belongs to another backend.
    """
    if not isinstance(engine, MindSporeEngine):
        raise BackendError(f"weights go to the mindspore engine in memory, not to {type(engine).__name__}")
    model = model_of(policy)
    if engine.comm is not None and isinstance(comm, MindSporeRanks) and isinstance(policy, TrainedModel):
        return ReshardingSync(policy, engine, comm)
    return MindSporeWeightSync(model, engine)


class MindSporeWeightSync:
    """Implements ``backend.WeightSync``."""

    def __init__(self, model: Model, engine: MindSporeEngine) -> None:
        self.model, self.engine = model, engine

    def push(self, version: int) -> None:
        """Copy the policy's weights into the engine and record them as ``version``.

        Raises:
            RunFailed: a weight of the engine differs from the policy's after the push; the first one is named.
        """
        if self.engine.model.lora_scale != self.model.lora_scale:
            raise RunFailed("the engine computes with another scale of adapters than the policy")
        targets = self.engine.model.weights
        for name, weight in self.model.weights.items():
            if name in targets and targets[name] is not weight:
                overwrite(targets[name], weight)
        self.verify()
        self.engine.weight_version = version

    def verify(self) -> None:
        """Compare the engine's weights with the policy's; the same parameters are equal.

        Raises:
            RunFailed: naming the first weight that differs, is unknown to the engine, or was moved.
        """
        targets = self.engine.model.weights
        for name, weight in self.model.weights.items():
            target = targets.get(name)
            if target is None:
                raise unknown_weight(name)
            if target.data_ptr() != self.engine.addresses.get(name, target.data_ptr()):
                raise RunFailed(
                    f"weight {name} was put elsewhere after the engine was compiled: it must be overwritten in place"
                )
            if target is not weight:
                check_equal(name, target, weight)


def check_equal(name: str, target: Parameter, weight: Parameter) -> None:
    """Check that the engine's parameter equals the policy's in every bit.

    Raises:
        RunFailed: they differ.
    """
    digests = [fingerprint([(name, parameter.asnumpy())]) for parameter in (target, weight)]
    check_synced(name, engine=digests[0], policy=digests[1])
