"""The parts of a run on MindSpore."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mindspore as ms

from mindrlhf_grpo.backend import (
    BackendConfig,
    CompileLog,
    Inspection,
    LanguageModel,
    Policy,
    ReadAt,
    RolloutEngine,
    ValueModel,
    ValueReader,
    WeightSync,
)
from mindrlhf_grpo.config.parallel import EngineParallelConfig
from mindrlhf_grpo.config.run import ModelConfig, RunConfig, TrainConfig
from mindrlhf_grpo.parallel.process import package_versions, peak_host_memory
from mindrlhf_grpo.tokenizers.tokenizer import Tokenizer

from . import comm
from .devices import select
from .ops import choose_kernels

if TYPE_CHECKING:
    from .training.policy import MindSporePolicy
    from .training.trained_model import RunContext

PACKAGES = ("mindspore", "transformers", "safetensors", "numpy")


def engine_settings(config: BackendConfig) -> EngineParallelConfig | None:
    """The engine's own division of the model, for runs that have an engine."""
    return config.rollout.parallel if isinstance(config, RunConfig) else None


class MindSporeBackend:
    """Implements ``backend.Backend``; joins the other workers if msrun started this process."""

    name = "mindspore"

    def __init__(self, config: BackendConfig) -> None:
        self.config = config
        self.compile_log = CompileLog()
        self.device = select(config.model.device, config.model.dtype, comm.local_rank())
        self.comm = comm.connect(self.device.kind, config.parallel, engine_settings(config))
        choose_kernels(self.device.kind, config.model.dtype)

    def load_policy(self) -> MindSporePolicy:
        """Load the policy."""
        from .training.policy import MindSporePolicy

        return MindSporePolicy(self.config, self.run_context())

    def load_value_model(self, model: ModelConfig, train: TrainConfig, *, read_at: ReadAt) -> ValueModel:
        """Load a critic or reward model; a folder without a head gets a small random one from the run's seed."""
        from .training.value_model import MindSporeValueModel

        return MindSporeValueModel(model, train, read_at, self.run_context())

    def load_remote_code(self, model: ModelConfig, train: TrainConfig) -> ValueReader | None:
        """Return None: the code in model folders is written for torch."""
        return None

    def run_context(self) -> RunContext:
        """The parts that the models of the run share."""
        from .training.trained_model import RunContext

        # A fixed dataset has completions of any length up to its limit, so its buckets are sized on demand.
        rollout = self.config.rollout if isinstance(self.config, RunConfig) else None
        return RunContext(
            device=self.device, comm=self.comm, log=self.compile_log, seed=self.config.seed, rollout=rollout,
            strategy=self.config.parallel.strategy if self.config.parallel else "replicate",
        )  # fmt: skip

    def load_language_model(self, model: ModelConfig, tokenizer: Tokenizer, *, slots: int) -> LanguageModel:
        """Make a language model beside the policy, never trained; its weights are read at the first call."""
        from .generation.language_model import MindSporeLanguageModel

        return MindSporeLanguageModel(model, tokenizer, self.compile_log, slots=slots)

    def load_engine(self, policy: Policy | None, tokenizer: Tokenizer) -> RolloutEngine:
        """Make the native engine, on the policy's weights or, without a policy, on its own."""
        from .generation.engine import build_engine

        return build_engine(self.config, policy, tokenizer, self.compile_log, self.comm)

    def weight_sync(self, policy: Policy, engine: RolloutEngine) -> WeightSync:
        """Connect the policy's weights with the engine's."""
        from .sync.weight_sync import build_weight_sync

        return build_weight_sync(policy, engine, self.comm)

    def inspect(self, policy: Policy) -> Inspection:
        """Look inside a policy."""
        from .inspection import MindSporeInspection

        return MindSporeInspection(policy)

    def memory(self) -> dict[str, float]:
        """Peak memory of this process so far, in MB."""
        peak = peak_host_memory()
        if self.device.kind == "npu":
            peak["peak_device_mb"] = ms.runtime.max_memory_allocated() / 2**20
        return peak

    def versions(self) -> dict[str, str]:
        """Versions of the packages that a run depends on."""
        return package_versions(PACKAGES, device=str(self.device))
