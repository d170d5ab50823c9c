"""What ends a run from outside, in the user's words: a signal before the first step, memory or disk space that does not suffice."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..capacity.memory import micro_batch_tokens
from ..config.file import AnyConfig
from ..config.run import RunConfig
from ..errors import DiskFull, Interrupted, OutOfMemory
from ..model_files.checkpoint_folders import steps
from ..run.shortages import as_size, free_bytes, shortage
from ..run.stop_signals import Terminated

GENERATION = ("generate", "eval")
TRAINING = ("logps", "values", "update")


@contextmanager
def failures_told(config: AnyConfig) -> Iterator[None]:
    """Run a block; its interruption and its shortages become errors that say how to go on.

    Raises:
        Interrupted: a signal before steps were made; later ones end the run after a step.
        OutOfMemory: with the keys that lower the need of the phase.
        DiskFull: a file of the run could not be written.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        number = signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT
        word = "terminated" if number == signal.SIGTERM else "interrupted"
        raise Interrupted(f"{word}; {resume_hint(config.run_dir)}", number) from None
    except Exception as error:
        told = shortage(error)
        if told is None:
            raise
        if isinstance(told, OutOfMemory):
            raise OutOfMemory(f"{told}. {memory_remedies(config, told.phase)}", phase=told.phase) from error
        if told.placed:
            raise
        free = f"{as_size(free_bytes(config.run_dir))} are free in {config.run_dir}"
        raise DiskFull(f"{told}; {free}. Make room; {resume_hint(config.run_dir)}", placed=True) from error


def resume_hint(run_dir: Path) -> str:
    """Say from where the same command will continue after an interruption."""
    saved = steps(run_dir / "checkpoints")
    if not saved:
        return f"{run_dir} has no checkpoint yet (checkpoint.every), so the same command starts from the beginning"
    return f"the same command goes on after step {saved[-1]}, the last checkpoint in {run_dir}"


def memory_remedies(config: AnyConfig, phase: str) -> str:
    """Say which keys lower the memory of a phase, as far as they are not set already, and how to predict it."""
    keys = []
    if isinstance(config, RunConfig):
        if phase in GENERATION:
            keys += [
                f"rollout.slots (now {config.rollout.slots})",
                f"rollout.max_tokens (now {config.rollout.max_tokens})",
            ]
            keys += [f"data.max_prompt_tokens (now {config.data.max_prompt_tokens})"]
        elif phase == "reward":
            keys += ["the batch of the reward's model"]
    if phase in TRAINING:
        tokens = micro_batch_tokens(config, 1)
        keys += [
            f"train.tokens_per_micro_batch (now {config.train.tokens_per_micro_batch}: micro-batches of up to {tokens} tokens)"
        ]
    settings = [] if config.model.recompute or phase not in TRAINING else ["model.recompute=true"]
    settings += [] if not isinstance(config, RunConfig) or config.swap is not None else ["swap={}"]
    settings += [] if config.model.dtype != "float32" else ["model.dtype=bfloat16"]
    settings += [] if config.model.lora_rank else ["model.lora_rank=32"]
    ways = ([f"lower {', '.join(keys)}"] if keys else []) + ([f"set {', '.join(settings)}"] if settings else [])
    return f"{'; or '.join(ways).capitalize() or 'Take a smaller model'}. `mindrlhf-grpo doctor` predicts each phase"
