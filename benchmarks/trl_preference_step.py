"""Time one DPO or reward-model step of TRL on the work of ``preference_step.py``; prints one JSON line.

Runs in TRL's own environment.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from typing import Any

import pair_rows
import torch
import transformers
import trl
from datasets import Dataset
from torch.utils.data import SequentialSampler

os.environ.setdefault("HF_HUB_OFFLINE", "1")


class StepClock(transformers.TrainerCallback):
    """Wall and processor seconds of each optimizer step."""

    def __init__(self, figures: pair_rows.Figures) -> None:
        self.figures = figures
        self.wall = self.processor = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.wall, self.processor = time.perf_counter(), sum(os.times()[:2])

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.figures.step.append(time.perf_counter() - self.wall)
        self.figures.step_cpu.append(sum(os.times()[:2]) - self.processor)


class OrderedDPO(trl.DPOTrainer):
    """The trainer with the rows in file order."""

    def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
        return SequentialSampler(self.train_dataset)


class OrderedReward(trl.RewardTrainer):
    """The trainer with the rows in file order."""

    def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
        return SequentialSampler(self.train_dataset)


def settings(arguments: argparse.Namespace, folder: str) -> dict[str, Any]:
    """Return the settings that ``preference_step.py`` also uses."""
    return {
        "output_dir": folder,
        "max_steps": arguments.steps,
        "per_device_train_batch_size": arguments.pairs,
        "learning_rate": arguments.lr,
        "lr_scheduler_type": "constant",
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
        "logging_steps": 1,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "seed": 0,
    }


def trainer_of(arguments: argparse.Namespace, folder: str) -> Any:
    """Build a DPO trainer with a separate reference, or a reward-model trainer from the folder with a head."""
    rows = Dataset.from_list(pair_rows.rows(arguments.prompt_words, arguments.completion_words))
    common = settings(arguments, folder)
    kind = {"dtype": "float32"}
    if arguments.objective == "dpo":
        config = trl.DPOConfig(**common, beta=0.1, model_init_kwargs=kind)
        return OrderedDPO(model=arguments.model, args=config, train_dataset=rows)
    # SmolLM2 pads with its end token, and then transformers reads the score a token too early.
    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.model, pad_token="<|endoftext|>")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(arguments.model, **kind)
    model.config.pad_token_id = tokenizer.pad_token_id
    config = trl.RewardConfig(**common)
    return OrderedReward(model=model, args=config, train_dataset=rows, processing_class=tokenizer)


def main() -> None:
    """Run the steps and print the line."""
    arguments = pair_rows.flags(__doc__ or "").parse_args()
    torch.set_num_threads(arguments.threads)
    figures = pair_rows.Figures()
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(arguments, folder)
        trainer.add_callback(StepClock(figures))
        trainer.train()
    figures.loss = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    versions = {
        "framework": f"trl {trl.__version__}",
        "transformers": transformers.__version__,
        "torch": torch.__version__,
    }
    figures.print(arguments, versions)


if __name__ == "__main__":
    main()
