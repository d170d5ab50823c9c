"""The native rollout engine: completions from the policy's own weights, in the process that trains them.

A completion depends only on the weights, its prompt, its sample index and the seed: not on its neighbours, the order
of generation or the number of slots.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from mindrlhf_grpo.backend import BackendConfig, Conversations, Policy
from mindrlhf_grpo.config.run import ModelConfig
from mindrlhf_grpo.errors import BackendError
from mindrlhf_grpo.generation.generation import Generation, ProgressCallback, check_prompt
from mindrlhf_grpo.parallel.residency import KeyValueCache, Role
from mindrlhf_grpo.parallel.single_process import SingleProcess
from mindrlhf_grpo.tokenizers.tokenizer import Tokenizer
from mindrlhf_grpo.types import Prompt, RolloutGroup, Sampling

from ..comm import Group, TorchRanks, local_rank
from ..models import hf
from ..models.hf import local
from ..models.part_loading import causal_lm_parts
from ..models.tensor_slices import TensorSlices, cut
from ..models.vision import vision_of
from ..sync.fingerprint import fingerprint
from ..sync.swap import DeviceMemory
from ..training.trained_model import TrainedModel
from .decoder import without_gradient
from .decoder_choice import choose_decoder
from .engine_rows import EngineRows
from .runner import TorchRunner


def build_engine(
    config: BackendConfig,
    policy: Policy | None,
    tokenizer: Tokenizer,
    comm: SingleProcess | TorchRanks | None = None,
) -> TorchEngine:
    """An engine on the policy's weights, or, without a policy or in another layout, on weights loaded from ``config.model``.

    Args:
        comm: the ranks; None: those of the policy.

    Raises:
        ConfigError: the model cannot be loaded, or divided as ``rollout.parallel`` asks.
    """
    trained = None if policy is None else trained_model(policy)
    if comm is None and trained is not None:
        comm = trained.comm
    ranks = comm if isinstance(comm, TorchRanks) else None
    rows = None if ranks is None else EngineRows(ranks)
    if trained is not None and reads_parts(trained):
        return TorchEngine(trained.model, tokenizer, slots=config.rollout.slots, rows=rows)
    device = hf.device_of(config.model.device, local_rank()) if trained is None else trained.device
    model, slices = engine_model(config.model, device, None if ranks is None else ranks.engine)
    return TorchEngine(model, tokenizer, slots=config.rollout.slots, separate=True, rows=rows, slices=slices)


def engine_model(config: ModelConfig, device: torch.device, group: Group | None) -> tuple[Any, TensorSlices | None]:
    """An engine's own model, of which each rank of a group reads its slices."""
    loader = None if group is None else causal_lm_parts(config, device)
    model: Any = hf.load_causal_lm(config, device) if loader is None else loader.model
    slices = cut(model, group, "rollout.parallel.tensor")
    if loader is not None:
        loader.note(slices)
        loader.fill(model)
        loader.stored.close()
    return model.requires_grad_(False), slices


def reads_parts(trained: TrainedModel) -> bool:
    """True where the engine computes with the policy's own tensors: it divides the model as the training does."""
    if not isinstance(trained.comm, TorchRanks):
        return True
    if trained.shards is None:
        return trained.comm.engine is None
    return not trained.shards.sharded and trained.comm.engine is trained.comm.tensor


def trained_model(policy: Policy) -> TrainedModel:
    """Narrow a policy to the trained model of this backend.

    Raises:
        BackendError: the policy belongs to another backend.
    """
    if not isinstance(policy, TrainedModel):
        raise BackendError(f"the torch engine needs a torch policy, not {type(policy).__name__}")
    return policy


class TorchEngine:
    """Implements ``backend.RolloutEngine``.

    Args:
        model: Hugging Face causal LM, perhaps wrapped by peft. Its parameters may become views of larger tensors.
        slots: completions decoded at once.
        decoder: name of the decoder to use; None chooses the fastest that agrees with the model.
        separate: the model belongs to the engine, not to a policy.
        rows: brings the prompts of this rank to the ranks that generate; None: it generates alone.
        slices: how the engine's own model has been cut, None where it is whole or the policy's.

    Attributes:
        decoder_name, decoder_reason: the decoder that computes, and the reason for its choice.
        progress: called with (finished, total) after every completion, if set.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        *,
        slots: int,
        decoder: str | None = None,
        separate: bool = False,
        rows: EngineRows | None = None,
        slices: TensorSlices | None = None,
    ) -> None:
        self.model, self.tokenizer, self.slots, self.separate = model, tokenizer, slots, separate
        self.rows, self.slices = rows, slices
        self.weight_version = 0
        self.progress: ProgressCallback | None = None
        choice = choose_decoder(model, decoder)
        self.decoder, self.decoder_name, self.decoder_reason = choice.decoder, choice.decoder.name, choice.reason
        causal_lm = hf.causal_lm_of(model)
        self.device = next(model.parameters()).device
        self.reads_images = vision_of(causal_lm) is not None
        self.vocab_size = int(causal_lm.get_input_embeddings().num_embeddings)
        self.runner = TorchRunner(self.decoder, vocab_size=self.vocab_size, device=self.device)
        text_config = causal_lm.config.get_text_config()
        self.context: int | None = getattr(text_config, "max_position_embeddings", None)
        self.rotary: str = (getattr(text_config, "rope_parameters", None) or {}).get("rope_type", "default")

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        group_size: int,
        conversations: Conversations | None = None,
    ) -> list[RolloutGroup]:
        """``group_size`` completions for each prompt, in the order of ``prompts``.

        Every rank of a run calls it equally often: ranks that hold one model in slices generate together.

        Raises:
            ConfigError: a prompt and ``max_tokens`` do not fit the model's context.
            DataError: a prompt without tokens, or with tokens the model does not know.
            BackendError: a prompt with images, and a model that reads text only; or conversations, and a model in slices.
            RunFailed: logits that are not finite.
        """
        if self.rows is None:
            return self.generate_here(prompts, sampling, group_size, conversations)
        if conversations is not None:
            raise BackendError("environments do not go with an engine whose ranks hold slices of one model")
        return self.rows.generate(prompts, lambda every: self.generate_here(every, sampling, group_size))

    def generate_here(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        group_size: int,
        conversations: Conversations | None = None,
    ) -> list[RolloutGroup]:
        """See ``generate``: completions for the prompts of the ranks that share this engine."""
        if not prompts:
            return []
        for prompt in prompts:
            check_prompt(
                prompt, sampling, vocab_size=self.vocab_size, context=self.context, reads_images=self.reads_images,
                rotary=self.rotary,
            )  # fmt: skip
        self.runner.features = {number: prompt.features for number, prompt in enumerate(prompts) if prompt.features}
        with without_gradient(self.decoder):
            return Generation(
                prompts, sampling, group_size=group_size, slots=self.slots, runner=self.runner,
                tokenizer=self.tokenizer, version=self.weight_version, progress=self.progress, conversations=conversations,
            ).run()  # fmt: skip

    def sleep(self) -> None:
        """Free the KV cache."""
        self.runner.close()

    def wake_up(self) -> None:
        """Nothing to do: the next ``generate`` allocates what it needs."""

    def roles(self) -> dict[str, Role]:
        """The weights that are not the policy's, and the cache."""
        return {
            "engine": DeviceMemory(self.engine_weights, self.device),
            "kv_cache": KeyValueCache(self.sleep, self.wake_up, self.cache_bytes),
        }

    def cache_bytes(self) -> int:
        """Bytes of the decoder's key/value cache."""
        return self.decoder.cache_bytes()

    def engine_weights(self) -> Iterable[Tensor]:
        """Merged adapters, and all weights of an engine that computes beside a sharded policy."""
        computed = (self.decoder.weights() or {}).values()
        if self.separate:
            return [*self.model.parameters(), *computed]
        shared = {local(parameter).untyped_storage()._cdata for parameter in self.model.parameters()}
        return [tensor for tensor in computed if tensor.untyped_storage()._cdata not in shared]

    def fingerprint(self) -> str:
        """Digest of the decoder's weights, by Hugging Face name."""
        computed = self.decoder.weights()
        return fingerprint(hf.hf_tensors(self.model) if computed is None else computed.items())
