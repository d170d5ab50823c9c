"""Time one GRPO step of TRL on the work of ``grpo_step.py``; prints one JSON line. Runs in TRL's own environment."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from typing import Any

import addition
import torch
import transformers
import trl
from datasets import Dataset

os.environ.setdefault("HF_HUB_OFFLINE", "1")


class Timed(trl.GRPOTrainer):
    """The trainer with a clock around generation and around everything before the update."""

    figures: addition.Figures
    prepared: float = 0.0

    def _generate(self, *arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return super()._generate(*arguments, **options)
        finally:
            self.figures.generate.append(time.perf_counter() - start)

    def _generate_and_score_completions(self, *arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return super()._generate_and_score_completions(*arguments, **options)
        finally:
            self.prepared = time.perf_counter() - start


class StepClock(transformers.TrainerCallback):
    """Wall and processor seconds of each optimizer step."""

    def __init__(self, trainer: Timed) -> None:
        self.trainer = trainer
        self.wall = self.processor = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.wall, self.processor = time.perf_counter(), sum(os.times()[:2])

    def on_step_end(self, *_: Any, **__: Any) -> None:
        figures, seconds = self.trainer.figures, time.perf_counter() - self.wall
        figures.step.append(seconds)
        figures.step_cpu.append(sum(os.times()[:2]) - self.processor)
        figures.update.append(seconds - self.trainer.prepared)


def reward(completions: list[Any], answer: list[str], **_: Any) -> list[float]:
    """Return 1 where the last number of the completion is the answer."""
    found = [split_numbers(completion[0]["content"])[-1:] for completion in completions]
    return [float(numbers == [wanted]) for numbers, wanted in zip(found, answer, strict=True)]


def split_numbers(text: str) -> list[str]:
    """Return the runs of digits in a text."""
    return "".join(letter if letter.isdigit() else " " for letter in text).split()


def configuration(arguments: argparse.Namespace, folder: str) -> trl.GRPOConfig:
    """Return the settings that ``grpo_step.py`` also uses."""
    fixed = None if arguments.free_length else {"min_new_tokens": arguments.completion_length}
    return trl.GRPOConfig(
        output_dir=folder,
        max_steps=arguments.steps,
        per_device_train_batch_size=arguments.batch,
        num_generations=arguments.generations,
        max_completion_length=arguments.completion_length,
        generation_kwargs=fixed,
        temperature=1.0,
        beta=arguments.beta,
        learning_rate=arguments.lr,
        lr_scheduler_type="constant",
        model_init_kwargs={"dtype": arguments.dtype},
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        seed=0,
    )


def main() -> None:
    """Run the steps and print the line."""
    arguments = addition.flags(__doc__ or "").parse_args()
    torch.set_num_threads(arguments.threads)
    questions = [
        {"prompt": [{"role": "user", "content": row["prompt"]}], "answer": row["answer"]}
        for row in addition.rows(arguments.prompt_words)
    ]
    with tempfile.TemporaryDirectory() as folder:
        trainer = Timed(
            model=arguments.model,
            reward_funcs=reward,
            args=configuration(arguments, folder),
            train_dataset=Dataset.from_list(questions),
        )
        trainer.figures = addition.Figures()
        trainer.add_callback(StepClock(trainer))
        trainer.train()
    logged = [entry for entry in trainer.state.log_history if "reward" in entry]
    trainer.figures.length = [entry["completions/mean_length"] for entry in logged]
    trainer.figures.reward = [entry["reward"] for entry in logged]
    versions = {
        "framework": f"trl {trl.__version__}",
        "transformers": transformers.__version__,
        "torch": torch.__version__,
    }
    trainer.figures.print(arguments, versions)


if __name__ == "__main__":
    main()
