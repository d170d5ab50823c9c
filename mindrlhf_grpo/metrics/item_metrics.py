"""Metrics of rewards per item, and of a step under TRL's names. For ``metrics:`` of a configuration.

Legend: N completions, K items, M prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..advantages import spread
from ..types import FloatArray, IntArray

OURS = {  # TRL's name -> ours
    "kl": "kl/mean",
    "entropy": "entropy",
    "clip_ratio/low_mean": "clip_frac/low",
    "clip_ratio/high_mean": "clip_frac/high",
}


def by_item(
    completions: Sequence[str],
    rewards: Mapping[str, FloatArray],
    total: FloatArray,
    group: IntArray,
    lengths: IntArray,
    truncated: Sequence[bool],
    figures: Mapping[str, float],
    split: str,
) -> dict[str, float]:
    """Metrics of a training step: total reward by item position, each component, and lengths; none for an evaluation.

    ``reward``, ``reward_std`` (mean over prompts and items of the deviation in a group), ``frac_reward_zero_std`` (of
    prompts and items), ``rewards/pos_k/mean|std`` from k = 1, ``reward_func/NAME/mean|std|nonzero_frac``, ``kl``,
    ``entropy``, ``clip_ratio/*``, ``completions/*``.
    """
    if split != "train" or not len(completions):
        return {}
    table = np.asarray(total, np.float64).reshape(len(completions), -1)
    member = np.unique(group, return_inverse=True)[1]
    count = int(member.max()) + 1
    spreads = spread(table, member, count)
    deviations = [table[member == one].std(axis=0, ddof=1) for one in range(count) if (member == one).sum() > 1]
    metrics = {
        "reward": float(table.mean()),
        "reward_std": float(np.mean(deviations)) if deviations else 0.0,
        "frac_reward_zero_std": float((spreads <= 0).mean()),
        "completions/mean_length": float(np.mean(lengths)),
        "completions/min_length": float(np.asarray(lengths).min()),
        "completions/max_length": float(np.asarray(lengths).max()),
        "completions/clipped_ratio": float(np.mean(truncated)),
    }
    for place, column in enumerate(table.T, 1):
        metrics |= {f"rewards/pos_{place}/mean": float(column.mean()), f"rewards/pos_{place}/std": float(column.std())}
    for name, values in rewards.items():
        scored = np.asarray(values)[~np.isnan(values)]
        if scored.size:
            metrics |= {
                f"reward_func/{name}/mean": float(scored.mean()),
                f"reward_func/{name}/std": float(scored.std()),
                f"reward_func/{name}/nonzero_frac": float((scored != 0).mean()),
            }
    return metrics | {theirs: figures[ours] for theirs, ours in OURS.items() if ours in figures}
