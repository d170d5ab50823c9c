"""A language model beside the policy that generates and scores text; it is never trained.

Nothing is loaded before the first call. Several models take the memory of the largest if each is released after use;
a released model is compiled again when it is next used.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mindrlhf_grpo.backend import CompileLog, LogProbs
from mindrlhf_grpo.batches.online import micro_batches
from mindrlhf_grpo.batches.row_arrays import fill_rows
from mindrlhf_grpo.config.run import ModelConfig
from mindrlhf_grpo.model_files.folder import find_folder
from mindrlhf_grpo.tokenizers.tokenizer import Tokenizer
from mindrlhf_grpo.types import Batch, Prompt, RolloutGroup, Sampling

from ..graph import Compiled, empty
from ..models import hf
from ..training.buckets import Buckets
from ..training.layouts import LAYOUTS, needed
from ..training.log_probs import LogProbModel
from ..training.trained_model import choose_layout, describe_bucket, forward_cost, sharpness
from .decoder_steps import Model
from .engine import MindSporeEngine

ROW_TOKENS = 512  # usual tokens of one row, prompt included: sizes a micro-batch


class MindSporeLanguageModel:
    """Implements ``backend.LanguageModel``.

    Args:
        slots: completions decoded at once, and rows of usual length whose log-probs are computed at once.
    """

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer, log: CompileLog, *, slots: int) -> None:
        self.config, self.tokenizer, self.log, self.slots = config, tokenizer, log, slots
        self.folder = find_folder(config.path)
        self.architecture = hf.load_architecture(self.folder)
        self.layout, _ = choose_layout(config.layout)
        self.model: Model | None = None
        self.engine: MindSporeEngine | None = None
        self.scorer: Compiled | None = None
        self.buckets: Buckets | None = None

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, *, group_size: int) -> list[RolloutGroup]:
        """``group_size`` completions for each prompt, in the order of ``prompts``; see ``MindSporeEngine.generate``."""
        if self.engine is None:
            self.engine = MindSporeEngine(self.weights(), self.tokenizer, slots=self.slots, compile_log=self.log)
        groups = self.engine.generate(prompts, sampling, group_size=group_size)
        self.engine.sleep()
        return groups

    def logps(self, batch: Batch) -> LogProbs:
        """Log-probs of every row, without gradient."""
        if self.scorer is None:
            cell = LogProbModel(self.architecture, self.weights().weights, self.layout)
            self.scorer = Compiled(
                "log-probs", cell.logps, self.log, bucket=lambda *tensors: describe_bucket(tensors[1:])
            )
        scorer, shared = self.scorer, self.layout == "shared"

        def compute(micro: Batch) -> list[NDArray[np.float32]]:
            sizes = self.known_buckets(micro).choose(needed(micro, shared=shared))
            (logps,) = scorer(sharpness(micro), *LAYOUTS[self.layout](micro, sizes, "before").tensors())
            return [logps.asnumpy()]

        (logps,) = fill_rows(batch, micro_batches(batch, ROW_TOKENS * self.slots, shared=shared), compute)
        return LogProbs(logps=logps)

    def release(self) -> None:
        """Free the weights and the steps compiled over them until the next call, which reads the folder again."""
        if self.model is None:
            return
        if self.scorer is not None:
            self.scorer.forget()
        if self.engine is not None:
            self.engine.forget()
        for weight in self.model.weights.values():
            empty(weight)
        self.model = self.engine = self.scorer = None
        gc.collect()  # cells point at each other

    def weights(self) -> Model:
        """The model, read from its folder on first use."""
        if self.model is None:
            weights = hf.load_weights(self.folder, self.architecture, self.config.dtype)
            self.model = Model(architecture=self.architecture, weights=weights)
        return self.model

    def known_buckets(self, batch: Batch) -> Buckets:
        """The buckets of this model; they outlast its weights."""
        if self.buckets is None:
            head = self.architecture.vocabulary * self.architecture.hidden
            body = sum(weight.size for weight in self.weights().weights.values()) - head
            shared = self.layout == "shared"
            limits = needed(batch, shared=shared)
            self.buckets = Buckets(forward_cost(self.architecture, body=body, head=head), shared=shared, limits=limits)
        return self.buckets
