"""Supervised rows mixed into the updates of an online run (PTX)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..backend import Loss, RowRanks
from ..batches.offline import Denominators, build_offline_batch
from ..config.algorithm import PretrainingConfig
from ..config.offline import mixed_rows
from ..config.run import RunConfig
from ..data.examples import ExampleStream
from ..data.row_encoders import encode_supervised
from ..data.stream import shard
from ..losses.supervised import NegativeLogLikelihood
from ..tokenizers.tokenizer import Tokenizer
from ..types import Batch


class PretrainingMix:
    """Batches of ``algorithm.pretraining`` rows; the loss is ``coef`` times their mean token loss."""

    def __init__(self, config: RunConfig, settings: PretrainingConfig, tokenizer: Tokenizer, rows: RowRanks) -> None:
        self.settings, self.rows = settings, rows
        self.loss = NegativeLogLikelihood(coef=settings.coef)
        self.stream = ExampleStream(mixed_rows(config, settings), encode_supervised, tokenizer, seed=config.seed)
        self.stream.check()

    def take(self) -> Sequence[tuple[Batch, Loss]]:
        """This rank's share of the next rows with their loss, for ``Policy.update(also=...)``."""
        examples = self.stream.take(self.settings.rows)
        share = shard(examples, self.rows.rank, self.rows.world_size)
        return [(build_offline_batch(share, Denominators.of(examples)), self.loss)]

    def state(self) -> Mapping[str, Any]:
        """The position in the rows, as plain JSON."""
        return self.stream.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state`."""
        self.stream.load_state(state)


def load_pretraining_mix(config: RunConfig, tokenizer: Tokenizer, rows: RowRanks) -> PretrainingMix | None:
    """The mix that a configuration asks for; None without one."""
    settings = config.algorithm.pretraining
    return None if settings is None else PretrainingMix(config, settings, tokenizer, rows)
