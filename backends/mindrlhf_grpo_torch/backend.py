"""The parts of a run on PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

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
from mindrlhf_grpo.config.run import ModelConfig, TrainConfig
from mindrlhf_grpo.parallel.process import package_versions, peak_host_memory
from mindrlhf_grpo.tokenizers.tokenizer import Tokenizer

from . import comm
from .models.hf import device_of

if TYPE_CHECKING:
    from .training.policy import TorchPolicy

PACKAGES = ("torch", "transformers", "peft", "safetensors", "numpy")


class TorchBackend:
    """Implements ``backend.Backend``; joins the process group if torchrun started this process."""

    name = "torch"

    def __init__(self, config: BackendConfig) -> None:
        self.config = config
        self.compile_log = CompileLog()  # nothing is compiled here
        self.device = device_of(config.model.device, comm.local_rank())
        if self.device.type != "cpu":
            torch.accelerator.set_device_index(self.device.index)
        self.comm = comm.connect(self.device.type, config.parallel, config.rollout.parallel)

    def load_policy(self) -> TorchPolicy:
        """Load the policy."""
        from .training.policy import TorchPolicy

        return TorchPolicy(self.config, self.device, self.comm)

    def load_value_model(self, model: ModelConfig, train: TrainConfig, *, read_at: ReadAt) -> ValueModel:
        """Load a critic or reward model; a folder without a head gets a small random one from the run's seed."""
        from .training.value_model import TorchValueModel

        # A scorer has its own settings: it is never trained, and ranks need not call it equally often.
        parallel = self.config.parallel if train is self.config.train else None
        return TorchValueModel(model, train, read_at, self.device, self.comm, seed=self.config.seed, parallel=parallel)

    def load_remote_code(self, model: ModelConfig, train: TrainConfig) -> ValueReader | None:
        """Load a reward model computed by the Python code in its folder."""
        from .models.remote_code import RemoteCodeClassifier

        return RemoteCodeClassifier(model, train, self.device)

    def load_language_model(self, model: ModelConfig, tokenizer: Tokenizer, *, slots: int) -> LanguageModel:
        """Make a language model beside the policy, never trained; its weights are read at the first call."""
        from .generation.language_model import TorchLanguageModel

        return TorchLanguageModel(model, tokenizer, self.device, slots=slots)

    def load_engine(self, policy: Policy | None, tokenizer: Tokenizer) -> RolloutEngine:
        """Make the native engine, on the policy's weights or, without a policy, on its own."""
        from .generation.engine import build_engine

        return build_engine(self.config, policy, tokenizer, self.comm)

    def weight_sync(self, policy: Policy, engine: RolloutEngine) -> WeightSync:
        """Connect the policy's weights with the engine's."""
        from .sync.weight_sync import build_weight_sync

        return build_weight_sync(policy, engine)

    def inspect(self, policy: Policy) -> Inspection:
        """Look inside a policy."""
        from .inspection import TorchInspection

        return TorchInspection(policy)

    def memory(self) -> dict[str, float]:
        """Peak memory of this process so far, in MB."""
        peak = peak_host_memory()
        if self.device.type == "cuda":
            peak["peak_device_mb"] = torch.cuda.max_memory_allocated(self.device) / 2**20
        return peak

    def versions(self) -> dict[str, str]:
        """Versions of the packages that a run depends on."""
        return package_versions(PACKAGES, device=str(self.device))
