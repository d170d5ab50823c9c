"""SFT: maximum likelihood of the completions of a dataset."""

from __future__ import annotations

from ...losses.supervised import NegativeLogLikelihood
from ..objective import Objective

OBJECTIVES = (
    Objective(
        name="sft",
        rows="conversations",
        loss=NegativeLogLikelihood,
        source="maximum likelihood",
        peers="trl SFTTrainer; openrlhf train_sft; mindrlhf SFT",
    ),
)
