"""The native rollout engine: completions from the policy's own weights, in the process that trains them.

A completion depends only on the weights, its prompt, its sample index and the seed: not on its neighbours, the order
of generation or the number of slots.
"""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor

from mindrlhf_grpo.backend import BackendConfig, CompileLog, Conversations, Policy
from mindrlhf_grpo.errors import BackendError
from mindrlhf_grpo.generation.generation import Generation, ProgressCallback, check_prompt
from mindrlhf_grpo.model_files.fingerprint import fingerprint
from mindrlhf_grpo.model_files.folder import find_folder
from mindrlhf_grpo.parallel.residency import KeyValueCache, Role
from mindrlhf_grpo.parallel.single_process import SingleProcess
from mindrlhf_grpo.tokenizers.tokenizer import Tokenizer
from mindrlhf_grpo.types import Prompt, RolloutGroup, Sampling

from ..comm import MindSporeRanks
from ..devices import Device
from ..models import hf
from ..models.weight_slices import WeightSlices, WholeWeights
from ..sync.swap import DeviceMemory
from ..training.trained_model import TrainedModel
from .decoder_steps import Model
from .prompt_shares import generate_in_shares
from .runner import RUNNERS, build_runner


def build_engine(
    config: BackendConfig,
    policy: Policy | None,
    tokenizer: Tokenizer,
    compile_log: CompileLog,
    comm: SingleProcess | MindSporeRanks | None = None,
) -> MindSporeEngine:
    """An engine on the policy's weights, or on weights of its own where its layout differs from that of training.

    Without a policy it is on weights loaded from ``config.model``.

    Raises:
        ConfigError: the model cannot be loaded.
    """
    if policy is not None and isinstance(comm, MindSporeRanks) and comm.engine.mesh.layout != comm.mesh.layout:
        return MindSporeEngine(
            model_apart(policy, comm), tokenizer, slots=config.rollout.slots, compile_log=compile_log, comm=comm
        )
    model = load_model(config) if policy is None else model_of(policy)
    return MindSporeEngine(model, tokenizer, slots=config.rollout.slots, compile_log=compile_log)


def load_model(config: BackendConfig) -> Model:
    """Load the model of a configuration, for an engine without a policy."""
    folder = find_folder(config.model.path)
    architecture = hf.load_architecture(folder)
    return Model(architecture=architecture, weights=hf.load_weights(folder, architecture, config.model.dtype))


def model_of(policy: Policy) -> Model:
    """The model that a policy of this backend trains.

    Raises:
        BackendError: the policy belongs to another backend.
    """
    if not isinstance(policy, TrainedModel):
        raise BackendError(f"the mindspore engine needs a mindspore policy, not {type(policy).__name__}")
    return Model(
        architecture=policy.architecture, weights=policy.weights, lora_scale=policy.lora_scale,
        group=policy.group, slices=policy.slices,
    )  # fmt: skip


def model_apart(policy: Policy, comm: MindSporeRanks) -> Model:
    """The policy's model in the engine's layout; its weights are zeros until the first sync.

    Raises:
        BackendError: the policy belongs to another backend.
    """
    trained = model_of(policy)
    slices = WeightSlices(trained.architecture, comm.engine.mesh, comm.engine)
    weights: dict[str, Parameter] = {}
    for name, weight in trained.weights.items():
        shape = tuple(weight.shape) if trained.slices is None else trained.slices.whole_shape(name, tuple(weight.shape))
        zeros = Tensor(np.zeros(slices.slice_shape(name, shape), np.float32)).astype(weight.dtype)
        weights[name] = Parameter(zeros, name=f"engine.{name}", requires_grad=False)
    return Model(
        architecture=trained.architecture, weights=weights, lora_scale=trained.lora_scale, group=comm.engine.group,
        slices=slices,
    )  # fmt: skip


class MindSporeEngine:
    """Implements ``backend.RolloutEngine``.

    Args:
        model: architecture and weights; the weights are read in place.
        slots: completions decoded at once.
        decoder: cached, or recompute for comparison; None: cached.
        comm: the ranks, where the engine's layout is its own: it then divides the prompts of all ranks anew.

    Attributes:
        decoder_name: the runner that computes.
        progress: called with (finished, total) after every completion, if set.
        addresses: the address of each weight at the first ``generate``; compiled functions always read it there.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        *,
        slots: int,
        decoder: str | None = None,
        compile_log: CompileLog | None = None,
        comm: MindSporeRanks | None = None,
    ) -> None:
        self.comm = comm
        self.model, self.tokenizer, self.slots = model, tokenizer, slots
        self.weight_version = 0
        self.progress: ProgressCallback | None = None
        self.addresses: dict[str, int] = {}
        self.decoder_name = decoder or "cached"
        if self.decoder_name not in RUNNERS:
            raise BackendError(f"decoder {decoder!r} is unknown; the mindspore engine has {', '.join(RUNNERS)}")
        # The processor's memory of the cache is float32; a rehearsal in 16 bits takes the devices' way.
        shared = is_host_target() and model.dtype == ms.float32
        self.runner = build_runner(self.decoder_name, model, compile_log or CompileLog(), slots=slots, shared=shared)
        self.vocab_size = model.architecture.vocabulary
        self.context: int | None = model.architecture.config.get("max_position_embeddings")

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        group_size: int,
        conversations: Conversations | None = None,
    ) -> list[RolloutGroup]:
        """``group_size`` completions for each prompt, in the order of ``prompts``.

        Raises:
            ConfigError: a prompt and ``max_tokens`` do not fit the model's context.
            DataError: a prompt without tokens, or with tokens the model does not know.
            RunFailed: logits that are not finite.
        """
        if self.comm is None:
            return self._generate(prompts, sampling, group_size, conversations)
        return generate_in_shares(
            self.comm, prompts, lambda share: self._generate(share, sampling, group_size, conversations)
        )

    def _generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, group_size: int, conversations: Conversations | None
    ) -> list[RolloutGroup]:
        """Completions of the prompts that this rank's group computes."""
        if not prompts:
            return []
        for prompt in prompts:
            check_prompt(prompt, sampling, vocab_size=self.vocab_size, context=self.context)
        groups = Generation(
            prompts, sampling, group_size=group_size, slots=self.slots, runner=self.runner, tokenizer=self.tokenizer,
            version=self.weight_version, progress=self.progress, conversations=conversations,
        ).run()  # fmt: skip
        self.addresses = self.addresses or {name: weight.data_ptr() for name, weight in self.model.weights.items()}
        return groups

    def sleep(self) -> None:
        """Free the KV cache."""
        self.runner.close()

    def wake_up(self) -> None:
        """Nothing to do: the next ``generate`` allocates what it needs."""

    def forget(self) -> None:
        """Free the steps compiled over the weights; the engine cannot be used afterwards."""
        self.runner.forget()

    def roles(self) -> dict[str, Role]:
        """The cache, and the weights where they are not the policy's own."""
        roles: dict[str, Role] = {"kv_cache": KeyValueCache(self.sleep, self.wake_up, self.runner.cache_bytes)}
        if self.comm is not None:
            device = Device("cpu" if is_host_target() else "npu")
            roles["engine"] = DeviceMemory(lambda: self.model.weights.values(), device)
        return roles

    def fingerprint(self) -> str:
        """Digest of the engine's weights, adapters merged, by Hugging Face name."""
        return fingerprint(
            hf.hf_tensors(
                self.model.weights, self.model.lora_scale, WholeWeights(self.model.weights, self.model.slices)
            )
        )


def is_host_target() -> bool:
    """True if MindSpore computes in host memory."""
    return bool(ms.get_context("device_target") == "CPU")
