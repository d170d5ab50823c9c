"""A language model beside the policy that generates and scores text; it is never trained.

Nothing is loaded before the first call. Several models take the memory of the largest if each is released after use.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mindrlhf_grpo.backend import LogProbs
from mindrlhf_grpo.batches.online import micro_batches
from mindrlhf_grpo.batches.row_arrays import fill_rows
from mindrlhf_grpo.config.run import ModelConfig
from mindrlhf_grpo.tokenizers.tokenizer import Tokenizer
from mindrlhf_grpo.types import Batch, Prompt, RolloutGroup, Sampling

from ..models import hf
from ..training.log_probs import LogProbModel
from .engine import TorchEngine

ROW_TOKENS = 512  # usual tokens of one row, prompt included: sizes a micro-batch


class TorchLanguageModel:
    """Implements ``backend.LanguageModel``.

    Args:
        slots: completions decoded at once, and rows of usual length whose log-probs are computed at once.
    """

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer, device: torch.device, *, slots: int) -> None:
        self.config, self.tokenizer, self.device, self.slots = config, tokenizer, device, slots
        self.model: Any = None
        self.engine: TorchEngine | None = None
        self.scorer: LogProbModel | None = None

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, *, group_size: int) -> list[RolloutGroup]:
        """``group_size`` completions for each prompt, in the order of ``prompts``; see ``TorchEngine.generate``."""
        if self.engine is None:
            self.engine = TorchEngine(self.weights(), self.tokenizer, slots=self.slots)
        groups = self.engine.generate(prompts, sampling, group_size=group_size)
        self.engine.sleep()
        return groups

    @torch.no_grad()
    def logps(self, batch: Batch) -> LogProbs:
        """Log-probs of every row, without gradient."""
        if self.scorer is None:
            self.scorer = LogProbModel(self.weights(), self.config.layout, recompute=False)
        scorer = self.scorer
        row_groups = micro_batches(batch, ROW_TOKENS * self.slots, shared=scorer.layout == "shared")

        def compute(micro: Batch) -> list[NDArray[np.float32]]:
            logps, _ = scorer.logps(scorer.input(micro), temperature=micro.temperature, entropy="none")
            return [logps.cpu().numpy()]

        (logps,) = fill_rows(batch, row_groups, compute)
        return LogProbs(logps=logps)

    def release(self) -> None:
        """Free the weights until the next call, which reads the folder again."""
        self.model = self.engine = self.scorer = None
        gc.collect()  # modules point at each other
        if self.device.type != "cpu":
            torch.accelerator.empty_cache()

    def weights(self) -> Any:
        """The model, read from its folder on first use."""
        if self.model is None:
            self.model = hf.load_causal_lm(self.config, self.device).requires_grad_(False)
        return self.model
