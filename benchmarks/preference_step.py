"""Time one DPO or reward-model step of this project; prints one JSON line with the fields of ``trl_preference_step.py``.

With ``--write-head FOLDER`` it only writes the model with a new head there, for both sides to start from.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import pair_rows

import mindrlhf_grpo
from mindrlhf_grpo.backend import load_backend
from mindrlhf_grpo.capacity.machine import installed
from mindrlhf_grpo.config.offline import OfflineConfig
from mindrlhf_grpo.json_lines import read_json_lines
from mindrlhf_grpo.model_files.folder import TOKENIZER_FILES, copy_files, find_folder
from mindrlhf_grpo.run.clock import Clock
from mindrlhf_grpo.trainers.offline import OfflineTrainer


def main() -> None:
    """Run the steps and print the line."""
    parser = pair_rows.flags(__doc__ or "")
    parser.add_argument("--backend", default="torch", help="torch or mindspore")
    parser.add_argument("--write-head", type=Path, help="folder to write the model with a head to")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # read when a framework is first imported
    if arguments.write_head is not None:
        write_head(arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(arguments, Path(folder))
    versions = {
        "framework": f"mindrlhf-grpo {mindrlhf_grpo.__version__}",
        "backend": arguments.backend,
        **{package: installed(package) or "absent" for package in ("transformers", "torch", "mindspore")},
    }
    figures.print(arguments, versions)


class Measured(OfflineTrainer):
    """The trainer with a clock around each step, and without checkpoints."""

    figures: pair_rows.Figures

    def step(self, step: int, clock: Clock) -> None:
        wall, processor = time.perf_counter(), sum(os.times()[:2])
        super().step(step, clock)
        self.figures.step.append(time.perf_counter() - wall)
        self.figures.step_cpu.append(sum(os.times()[:2]) - processor)

    def write(self, folder: Path) -> None:
        """Keep nothing."""


def measure(arguments: argparse.Namespace, folder: Path) -> pair_rows.Figures:
    """Measure wall and processor seconds of each step."""
    config = configuration(arguments, folder / "run")
    trainer = Measured(config, load_backend(config))
    trainer.figures = pair_rows.Figures()
    trainer.run()
    trainer.figures.loss = [line["loss"] for line in read_json_lines(config.run_dir / "metrics.jsonl").rows]
    return trainer.figures


def configuration(arguments: argparse.Namespace, run_dir: Path) -> OfflineConfig:
    """Return the configuration: TRL's settings, rows in file order, no evaluation."""
    source = {
        "name": f"{Path(pair_rows.__file__)}:rows",
        "prompt_words": arguments.prompt_words,
        "completion_words": arguments.completion_words,
    }
    return OfflineConfig.model_validate(
        {
            "backend": arguments.backend,
            "run_dir": run_dir,
            "model": {"path": arguments.model},
            "data": {"source": source, "chat_template": "none", "shuffle": False},
            "objective": {"name": arguments.objective, "preset": "trl"},
            "train": {"steps": arguments.steps, "prompts_per_step": arguments.pairs, "learning_rate": arguments.lr},
        }
    )


def write_head(arguments: argparse.Namespace) -> None:
    """Write the model with a head drawn from the seed, as a Hugging Face sequence classifier."""
    config = configuration(arguments, Path("unused"))
    backend = load_backend(config)
    backend.load_value_model(config.model, config.train, read_at="token").save_model(arguments.write_head)
    copy_files(find_folder(arguments.model), arguments.write_head, TOKENIZER_FILES)


if __name__ == "__main__":
    main()
