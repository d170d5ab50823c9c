"""The prompts of an engine whose ranks are grouped otherwise than those of training.

The ranks of one tensor group of the engine generate the same completions together, and those of one tensor group of the
training need the same ones. Where the engine's groups are larger, each generates for several; where they are smaller, they
share out the prompts. A completion depends on no other, so who generates it does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from mindrlhf_grpo.data.stream import shard
from mindrlhf_grpo.errors import ConfigError
from mindrlhf_grpo.types import Prompt, RolloutGroup

from ..comm import TorchRanks

Generate = Callable[[Sequence[Prompt]], list[RolloutGroup]]


class EngineRows:
    """Brings prompts to the engine's groups, and completions back.

    Raises:
        ConfigError: neither size of a tensor group is a multiple of the other.
    """

    def __init__(self, comm: TorchRanks) -> None:
        self.comm = comm
        self.trained, self.generating = comm.mesh.tensor, comm.engine_mesh.tensor
        if self.trained % self.generating and self.generating % self.trained:
            raise ConfigError(
                f"rollout.parallel.tensor is {self.generating} beside parallel.tensor={self.trained}; accepted: a multiple "
                "or a divisor of it"
            )

    def generate(self, prompts: Sequence[Prompt], generate: Generate) -> list[RolloutGroup]:
        """The completions of this rank's prompts, which its tensor group in training has too; every rank calls it."""
        if self.generating > self.trained:
            return self.for_several(prompts, generate)
        if self.generating < self.trained:
            return self.shared_out(prompts, generate)
        return generate(prompts)

    def for_several(self, prompts: Sequence[Prompt], generate: Generate) -> list[RolloutGroup]:
        """Generate for all tensor groups of the training within this group of the engine."""
        group = self.comm.engine
        assert group is not None
        everyone = group.gather_objects(list(prompts))[:: self.trained]
        own = group.place // self.trained
        first = sum(len(others) for others in everyone[:own])
        groups = generate([prompt for others in everyone for prompt in others])
        return groups[first : first + len(prompts)]

    def shared_out(self, prompts: Sequence[Prompt], generate: Generate) -> list[RolloutGroup]:
        """Generate this engine's share of the prompts of a tensor group of the training."""
        group = self.comm.tensor
        assert group is not None
        own = shard(prompts, group.place // self.generating, self.trained // self.generating)
        parts = group.gather_objects(without_prompts(generate(own)))[:: self.generating]
        groups = [one for part in parts for one in part]
        return [replace(one, prompt=prompt) for one, prompt in zip(groups, prompts, strict=True)]


def without_prompts(groups: Sequence[RolloutGroup]) -> list[RolloutGroup]:
    """Groups whose prompt's images stay where they are."""
    return [replace(group, prompt=replace(group.prompt, features={})) for group in groups]
