"""Time one GRPO step of this project; prints one JSON line with the same fields as ``trl_step.py``.

It drives the trainer that ``mindrlhf-grpo train`` uses and reads the trainer's own clock. ``update_s`` holds the
forward pass of training, log-probs of the reference and the old policy included.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import addition

import mindrlhf_grpo
from mindrlhf_grpo.backend import load_backend
from mindrlhf_grpo.capacity.machine import installed
from mindrlhf_grpo.config.run import RunConfig
from mindrlhf_grpo.json_lines import read_json_lines
from mindrlhf_grpo.run.clock import Clock
from mindrlhf_grpo.trainers.experience import Experience
from mindrlhf_grpo.trainers.online import OnlineTrainer


def main() -> None:
    """Run the steps and print the line."""
    parser = addition.flags(__doc__ or "")
    parser.add_argument("--backend", default="torch", help="torch or mindspore")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # read when a framework is first imported
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(arguments, Path(folder))
    versions = {
        "framework": f"mindrlhf-grpo {mindrlhf_grpo.__version__}",
        "backend": arguments.backend,
        **{package: installed(package) or "absent" for package in ("transformers", "torch", "mindspore")},
    }
    figures.print(arguments, versions)


class Measured(OnlineTrainer):
    """The trainer with a clock around each step, and without checkpoints."""

    figures: addition.Figures

    def collect(self, clock: Clock) -> Experience:
        self.wall, self.processor = time.perf_counter(), sum(os.times()[:2])
        return super().collect(clock)

    def learn(self, step: int, experience: Experience, clock: Clock) -> None:
        super().learn(step, experience, clock)
        self.figures.step.append(time.perf_counter() - self.wall)
        self.figures.step_cpu.append(sum(os.times()[:2]) - self.processor)

    def write(self, folder: Path) -> None:
        """Keep nothing."""


def measure(arguments: argparse.Namespace, folder: Path) -> addition.Figures:
    """Measure wall and processor seconds of each step, and the trainer's split of them."""
    config = configuration(arguments, folder / "run")
    trainer = Measured(config, load_backend(config))
    trainer.figures = addition.Figures()
    trainer.run()
    for line in read_json_lines(config.run_dir / "metrics.jsonl").rows:
        trainer.figures.generate.append(line["time/generate"])
        trainer.figures.update.append(line["time/update"] + line["time/logps"])
        trainer.figures.length.append(line["length/mean"])
        trainer.figures.reward.append(line["reward/mean"])
    return trainer.figures


def configuration(arguments: argparse.Namespace, run_dir: Path) -> RunConfig:
    """Return the configuration: TRL's settings, no evaluation, no rollouts on disk."""
    length = arguments.completion_length
    source = {"name": f"{Path(addition.__file__)}:rows", "words": arguments.prompt_words}
    return RunConfig.model_validate(
        {
            "backend": arguments.backend,
            "run_dir": run_dir,
            "model": {"path": arguments.model, "dtype": arguments.dtype},
            "data": {"source": source, "max_prompt_tokens": 4096},
            "rewards": [{"function": "numeric_match"}],
            "rollout": {
                "group_size": arguments.generations,
                "max_tokens": length,
                "min_tokens": 0 if arguments.free_length else length,
                "slots": arguments.batch,
            },
            "algorithm": {"name": "grpo", "preset": "trl", "kl_coef": arguments.beta},
            "train": {
                "steps": arguments.steps,
                "prompts_per_step": arguments.batch // arguments.generations,
                "learning_rate": arguments.lr,
            },
            "tracking": {"rollouts_every": 0},
        }
    )


if __name__ == "__main__":
    main()
