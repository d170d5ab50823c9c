"""The way of new weights from the policy to the engine in the same process.

Weights the engine reads from the policy's own memory need nothing; another engine's are overwritten where they lie.
Every copy is then digested on both sides; what differs stops the run before a token is sampled from it. So does a
weight that was put elsewhere: compiled functions go on reading the memory they were compiled with.
"""

from __future__ import annotations

from mindrlhf_grpo.backend import Policy, RolloutEngine
from mindrlhf_grpo.errors import BackendError, RunFailed
from mindrlhf_grpo.model_files.fingerprint import fingerprint

from ..generation.decoder_steps import Model
from ..generation.engine import MindSporeEngine, model_of
from ..graph import overwrite


def build_weight_sync(policy: Policy, engine: RolloutEngine) -> MindSporeWeightSync:
    """The sync between a policy and an engine of this backend.

    Raises:
        BackendError: the engine belongs to another backend.
    """
    if not isinstance(engine, MindSporeEngine):
        raise BackendError(f"weights go to the mindspore engine in memory, not to {type(engine).__name__}")
    return MindSporeWeightSync(model_of(policy), engine)


class MindSporeWeightSync:
    """Implements ``backend.WeightSync``."""

    def __init__(self, model: Model, engine: MindSporeEngine) -> None:
        self.model, self.engine = model, engine

    def push(self, version: int) -> None:
        """Bring the engine to the policy's weights and call them ``version``.

        Raises:
            RunFailed: a weight of the engine differs from the policy's after the push; the first one is named.
        """
        if self.engine.model.lora_scale != self.model.lora_scale:
            raise RunFailed("the engine computes with another scale of adapters than the policy")
        own = self.engine.model.weights
        for name, weight in self.model.weights.items():
            if name in own and own[name] is not weight:
                overwrite(own[name], weight)
        self.verify()
        self.engine.weight_version = version

    def verify(self) -> None:
        """Compare what the engine computes with against the policy; the same parameters are equal.

        Raises:
            RunFailed: naming the first weight that differs, is unknown to the engine, or was put elsewhere.
        """
        own = self.engine.model.weights
        for name, weight in self.model.weights.items():
            target = own.get(name)
            if target is None:
                raise RunFailed(f"weight {name} of the policy is unknown to the engine")
            if target.data_ptr() != self.engine.addresses.get(name, target.data_ptr()):
                raise RunFailed(
                    f"weight {name} was put elsewhere after the engine was compiled: it must be overwritten in place"
                )
            if target is not weight:
                ours, theirs = (fingerprint([(name, one.asnumpy())]) for one in (target, weight))
                if ours != theirs:
                    raise RunFailed(
                        f"weight {name} differs between engine and policy after the sync "
                        f"(fingerprints {ours[:12]} and {theirs[:12]})"
                    )
