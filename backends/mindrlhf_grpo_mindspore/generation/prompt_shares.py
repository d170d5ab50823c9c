"""Prompts go to the engine's groups of ranks, and completions come back to the ranks that asked for them.

The engine may be cut over other groups than the models in training. A completion depends on its prompt and sample
alone, so it does not matter which group computes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mindrlhf_grpo.data.stream import shard
from mindrlhf_grpo.types import Prompt, RolloutGroup

from ..comm import MindSporeRanks

Generate = Callable[[Sequence[Prompt]], list[RolloutGroup]]


def generate_in_shares(comm: MindSporeRanks, prompts: Sequence[Prompt], generate: Generate) -> list[RolloutGroup]:
    """The completions of this rank's prompts; every rank calls it, also without prompts."""
    asked = comm.rows.gather_objects(list(prompts))
    everything = [prompt for of_group in asked for prompt in of_group]
    engine = comm.engine.mesh
    own = generate(shard(everything, engine.data_rank(comm.rank), engine.data))
    completed = [group for part in comm.gather_objects(own)[:: engine.tensor] for group in part]
    first = sum(len(of_group) for of_group in asked[: comm.rows.rank])
    return completed[first : first + len(prompts)]
