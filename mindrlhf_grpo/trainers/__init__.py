"""Training loops: ``online`` generates the completions it learns from, ``offline`` learns from a fixed dataset.

A new phase of a step goes into the loop of ``online``, with a line in ``parallel.residency.NEEDS`` for its memory.
"""

from __future__ import annotations

from typing import Any

from ..config.offline import OfflineConfig
from ..config.run import RunConfig
from ..run.export import pin_models


def train(config: RunConfig | OfflineConfig) -> dict[str, Any]:
    """Run (or resume) a configuration of either kind to its end; returns the summary.

    Raises:
        RunFailed: NaN, or numbers that cannot be trusted (the batch is saved); memory or disk space did not suffice.
        Interrupted: a signal; the text says from where the same command goes on.
    """
    from .failures import failures_told

    config = pin_models(config)

    with failures_told(config):
        if isinstance(config, OfflineConfig):
            from .offline import train as run_offline

            return run_offline(config)
        from .online import train as run_online

        return run_online(config)
