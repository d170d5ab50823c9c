"""A reward model computed by the Python code in its folder, which runs only where the configuration allows it.

It is called as any classifier of transformers, on rows padded on the right with a mask, and may put out one number a
sequence or one a token. It is scored with, never trained.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import extract_tb
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mindrlhf_grpo.batches.online import micro_batches
from mindrlhf_grpo.config.run import ModelConfig, TrainConfig
from mindrlhf_grpo.errors import BackendError, ConfigError, RunFailed, UserError
from mindrlhf_grpo.model_files.folder import find_folder, loadable, read_model_config
from mindrlhf_grpo.rewards.models.score_shapes import sequence_scores
from mindrlhf_grpo.types import Batch

from . import hf

COPIES = "transformers_modules"  # the folder of transformers' copies of such code
CLASSES = ("AutoModelForTokenClassification", "AutoModelForSequenceClassification")  # of auto_map, in this order


class RemoteCodeClassifier:
    """Implements ``backend.ValueReader``: the score stands at each row's last token."""

    def __init__(self, config: ModelConfig, train: TrainConfig, device: torch.device) -> None:
        self.config, self.train, self.device = config, train, device
        self.model: Any = None

    def load(self) -> Any:
        """Load the model of the class in its folder. Raises ConfigError where there is none or it cannot be loaded."""
        if self.model is None:
            import transformers

            with hf.quiet_loading(), hf.refused_as_config_error(self.config.path), own_code(self.config.path):
                loaded = getattr(transformers, class_of(self.config.path)).from_pretrained(
                    loadable(self.config.path),
                    dtype=hf.DTYPES[self.config.dtype],
                    trust_remote_code=True,
                    use_safetensors=True,
                )
            self.model = loaded.to(self.device).eval()
        return self.model

    @torch.no_grad()
    def values(self, batch: Batch) -> NDArray[np.float32]:
        """``[N, T]`` float32: the score of a row at its last token, 0 elsewhere."""
        model = self.load()
        values = np.zeros(batch.ids.shape, dtype=np.float32)
        for rows in micro_batches(batch, self.train.tokens_per_micro_batch, shared=False) if len(batch) else []:
            ids, mask = padded_rows(batch.take(rows))
            inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
            with own_code(self.config.path):
                output = model(**{name: tensor.to(self.device) for name, tensor in inputs.items()})
            scores = sequence_scores(numbers_of(output), mask)
            values[rows, np.asarray(batch.lengths, np.int64)[rows] - 1] = scores
        return values

    def release(self) -> None:
        """Free the weights until the next call."""
        self.model = None
        gc.collect()
        if self.device.type != "cpu":
            torch.accelerator.empty_cache()

    def embeddings(self, batch: Batch) -> NDArray[np.float32]:
        """Raise BackendError: the hidden states of such a model are its own affair."""
        raise BackendError(f"{self.config.path}: a model that runs its own code is scored with, not trained")


@contextmanager
def own_code(folder: str) -> Iterator[None]:
    """Name the file and line of a folder's own code where it raises; other exceptions pass.

    Transformers runs a copy of the code in its cache: the line is the same, the folder is not.

    Raises:
        RunFailed: an exception whose innermost lines are the folder's code, or called by it.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        frames = [frame for frame in extract_tb(error.__traceback__) if COPIES in frame.filename]
        if not frames:
            raise
        place = f"{find_folder(folder) / Path(frames[-1].filename).name}:{frames[-1].lineno}"
        text = " ".join(str(error).split())[:200]
        raise RunFailed(
            f"the code of reward model {folder!r} failed: {type(error).__name__}: {text} ({place})"
        ) from error


def class_of(path: str) -> str:
    """The class of transformers under which the folder's code is registered."""
    named = read_model_config(find_folder(path)).get("auto_map") or {}
    for name in CLASSES:
        if name in named:
            return name
    raise ConfigError(
        f"{path}: auto_map in config.json has {', '.join(named) or 'nothing'}, none of {', '.join(CLASSES)}"
    )


def padded_rows(batch: Batch) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Prompt and completion of each row ``[N, S]``, padded on the right, and the mask."""
    rows = [
        np.concatenate([batch.prompts[prompt], batch.ids[row, :length]])
        for row, (prompt, length) in enumerate(zip(batch.prompt_of, batch.lengths, strict=True))
    ]
    lengths = np.array([len(row) for row in rows])
    mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
    ids = np.zeros(mask.shape, np.int64)
    ids[mask > 0] = np.concatenate(rows)
    return ids, mask


def numbers_of(output: Any) -> NDArray[np.float32]:
    """The scores that a model returned: ``logits``, the first of a tuple, or the tensor itself."""
    scores = getattr(output, "logits", None)
    if scores is None:
        scores = output[0] if isinstance(output, (tuple, list)) else output
    if not isinstance(scores, torch.Tensor):
        raise ConfigError(f"the reward model returned {type(output).__name__}; accepted: logits, or a tensor")
    return np.asarray(scores.float().cpu().numpy())
