"""The reference of a policy: the model without its adapters, or a frozen copy of the weights, which may be moved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mindrlhf_grpo.config.run import ModelConfig
from mindrlhf_grpo.errors import CheckpointError
from mindrlhf_grpo.model_files.reference_state import FILE, check_move

from ..models import hf
from ..models.part_loading import causal_lm_parts
from .division import Division
from .log_probs import LogProbModel
from .parallel import Shards


class Reference:
    """The reference of one policy.

    Attributes:
        frozen: the copy, loaded on first use; None until then, and always for LoRA.
        moved: whether it differs from the model folder, so that a checkpoint must hold it.
    """

    def __init__(self, config: ModelConfig, device: torch.device, division: Division) -> None:
        self.config, self.device, self.division = config, device, division
        self.shards: Shards | None = None
        self.gathered: dict[str, Tensor] | None = None
        self.frozen: LogProbModel | None = None
        self.moved = False

    @contextmanager
    def scorer_for(self, scorer: LogProbModel) -> Iterator[LogProbModel]:
        """Yield the reference of the policy that ``scorer`` computes: adapters disabled, or the frozen copy."""
        if hf.is_lora(scorer.model):
            model: Any = scorer.model
            sharded = scorer.entry is not None
            disabled: AbstractContextManager[None] = without_adapters(model) if sharded else model.disable_adapter()
            with disabled:
                yield scorer
            return
        yield self.copy(scorer)

    def copy(self, scorer: LogProbModel) -> LogProbModel:
        """The frozen copy in the policy's layout."""
        if self.frozen is None:
            start = self.division.start(self.config, causal_lm_parts)
            model: Any = hf.load_causal_lm(self.config, self.device) if start is None else start.model
            model.requires_grad_(False)
            slices = self.division.cut(model, start)
            self.frozen = LogProbModel(model, scorer.layout, recompute=False, slices=slices, start=start)
            self.shards = self.division.shard(self.frozen) if start is None else start.shards
        return self.frozen

    def weights(self) -> Iterable[Tensor]:
        """Weights of the frozen copy, none before its first use."""
        parameters: Iterable[Tensor] = () if self.frozen is None else self.frozen.model.parameters()
        return parameters

    @torch.no_grad()
    def sync(self, scorer: LogProbModel, share: float) -> None:
        """Move to ``share`` * policy + (1 - share) * reference, each weight rounded once to its type.

        Raises:
            BackendError: the policy has adapters.
            ValueError: a share outside (0, 1].
        """
        check_move(share, lora=hf.is_lora(scorer.model))
        live = dict(hf.hf_tensors(scorer.model))
        for name, weight in hf.hf_tensors(self.copy(scorer).model):
            if weight.is_floating_point():
                old = hf.local(weight)
                old.copy_(torch.lerp(old.float(), hf.local(live[name]).float(), share))
        self.moved = True

    def gather(self, *, keep: bool) -> None:
        """Gather a moved reference that is sharded, before it is saved; every rank calls it, ``keep`` is set on one."""
        if self.moved and self.shards is not None:
            self.gathered = {name: full.cpu() for name, full in self.shards.full_tensors() if keep}

    def save(self, folder: Path) -> None:
        """Write a moved reference into a saved state; remove the file of an older one that was."""
        from safetensors.torch import save_file

        if self.moved and self.frozen is not None:
            tensors = hf.hf_tensors(self.frozen.model) if self.gathered is None else self.gathered.items()
            save_file({name: tensor.contiguous() for name, tensor in tensors}, folder / FILE)
            self.gathered = None
        else:
            (folder / FILE).unlink(missing_ok=True)

    def load(self, folder: Path, scorer: LogProbModel) -> None:
        """Restore what ``save`` wrote, or the reference of the model folder.

        Raises:
            CheckpointError: a file that belongs to another model.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = folder / FILE
        if not path.is_file():
            if self.moved:
                self.frozen = self.shards = None
            self.moved = False
            return
        try:
            live, saved = dict(hf.hf_tensors(self.copy(scorer).model)), load_file(path)
            if self.shards is not None:
                saved = {name: self.shards.local_part(name, full) for name, full in saved.items()}
            hf.copy_tensors(live, saved)
        except (OSError, RuntimeError, KeyError, SafetensorError) as error:
            raise CheckpointError(f"{path} does not hold this policy's reference: {error}") from None
        self.moved = True


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """Disable adapters inside the block. peft's own way also drops their ``requires_grad``, which gathered weights keep."""
    layers: list[Any] = [module for module in model.modules() if hasattr(module, "_disable_adapters")]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False
