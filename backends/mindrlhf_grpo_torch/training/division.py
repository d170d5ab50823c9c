"""How the ranks of a run divide the models that it trains: cut into slices, sharded, and read part by part."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mindrlhf_grpo.config.parallel import ParallelConfig
from mindrlhf_grpo.config.run import ModelConfig
from mindrlhf_grpo.parallel.single_process import SingleProcess

from ..comm import TorchRanks
from ..models.part_loading import PartLoader
from ..models.tensor_slices import TensorSlices, cut
from .parallel import Shards, shard

if TYPE_CHECKING:
    from .layout_choice import PackedModel

Fill = Callable[[nn.Module], None]


class Division:
    """The division of one run's models over its ranks.

    Attributes:
        peak_bytes: the most bytes of weights of one model that this rank has held while it was read; 0 where models were
            loaded whole.
    """

    def __init__(self, settings: ParallelConfig | None, device: torch.device, comm: SingleProcess | TorchRanks) -> None:
        self.settings, self.device, self.comm = settings, device, comm
        self.peak_bytes = 0

    @property
    def divides(self) -> bool:
        """True where each rank keeps a part of a model."""
        settings = self.settings
        if settings is None or isinstance(self.comm, SingleProcess):
            return False
        return settings.strategy != "replicate" or settings.tensor > 1

    def cut(self, model: Any, start: Start | None = None) -> TensorSlices | None:
        """Keep this rank's slices of a model where tensor-parallel ranks share it out."""
        slices = None
        if self.settings is not None and isinstance(self.comm, TorchRanks):
            slices = cut(model, self.comm.tensor)
        if start is not None:
            start.loader.note(slices)
        return slices

    def shard(self, packed: PackedModel, fill: Fill | None = None) -> Shards | None:
        """Shard a model in place; None where every rank holds all of it."""
        return shard(packed, self.settings, self.device, self.comm, packed.slices, fill)

    def start(
        self, config: ModelConfig, parts: Callable[[ModelConfig, torch.device], PartLoader | None]
    ) -> Start | None:
        """A model that each rank reads its part of; None where all of it is loaded first.

        peft draws adapters on the device of the weights below them, so a model with adapters is.
        """
        loader = parts(config, self.device) if self.divides and not config.lora_rank else None
        return None if loader is None else Start(loader, self)


class Start:
    """A model without memory for its weights, and the way it gets them.

    Attributes:
        shards: what became of it, after ``fill``.
    """

    def __init__(self, loader: PartLoader, division: Division) -> None:
        self.loader, self.division = loader, division
        self.model, self.device = loader.model, division.device
        self.shards: Shards | None = None

    def fill(self, packed: PackedModel) -> None:
        """Read this rank's part of every weight: a layer at a time where layers are sharded."""
        self.shards = self.division.shard(packed, self.loader.fill)
        self.loader.fill(packed.unwrapped)
        self.loader.stored.close()
        self.division.peak_bytes = max(self.division.peak_bytes, self.loader.peak_bytes)

    def end(self) -> None:
        """Free what probes have gathered."""
        if self.shards is not None:
            self.shards.reshard()
