"""What can be wrong with a run on given rows and can be known before weights are loaded, all at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from .backend import backend_module
from .config_file import Draft
from .config_offline import OfflineConfig
from .data.examples import ExampleStream
from .data.sources import read_rows
from .data.tokenizer import Tokenizer, load_tokenizer
from .errors import ConfigError
from .model_files import find_folder, read_model_config
from .objectives import Task, resolve_objective
from .preflight import Findings, check_backend, check_device, check_template, check_writable


def check_offline(config: OfflineConfig, draft: Draft | None = None) -> None:
    """Raise one ConfigError that lists everything that would stop this run; ``draft`` adds file and line."""
    problems = offline_problems(config)
    if problems:
        lines = [f"{draft.place(tuple(key.split('.')))}: {text}" if draft else text for key, text in problems]
        raise ConfigError(lines[0] if len(lines) == 1 else "\n  ".join([f"{len(lines)} problems:", *lines]))


def offline_problems(config: OfflineConfig) -> list[tuple[str, str]]:
    """(key, text) of everything that would stop this run; each text starts with the key."""
    found = Findings()
    found.attempt("model.path", lambda: read_model_config(find_folder(config.model.path)))
    tokenizer = None if found.problems else found.attempt("model.path", lambda: open_tokenizer(config))
    found.attempt("model.device", lambda: check_device(config.model.device))
    found.attempt("data.chat_template", lambda: check_template(config.data.chat_template))
    task = found.attempt("objective", lambda: resolve_objective(config))
    for key, source in (("data.source", config.data.source), ("eval.source", config.eval.source)):
        if source is not None:
            found.attempt(key, lambda source=source: first_example(config, source, task, tokenizer))  # type: ignore[misc]
    found.attempt("backend", lambda: check_backend(config.backend))
    if not {"backend", "model.path"} & {key for key, _ in found.problems}:
        found.attempt("backend", lambda: ask_backend(config))
    found.attempt("run_dir", lambda: check_writable(config.run_dir))
    return found.problems


def open_tokenizer(config: OfflineConfig) -> Tokenizer:
    """The tokenizer of the model, with the template that the data section asks for where that exists."""
    template = config.data.chat_template
    usable = template in ("auto", "none") or Path(template).is_file()
    return load_tokenizer(
        config.model.path,
        chat_template=template if usable else "auto",
        trust_remote_code=config.model.trust_remote_code,
    )


def first_example(
    config: OfflineConfig, source: str | dict[str, Any], task: Task | None, tokenizer: Tokenizer | None
) -> None:
    """Read a source, and tokenise its first row where objective and tokenizer are known."""
    if task is None or tokenizer is None:
        read_rows(source)
        return
    data = config.data.model_copy(update={"source": source})
    ExampleStream(data, task.encoder, tokenizer, seed=config.seed).take(1)


def ask_backend(config: OfflineConfig) -> None:
    """Raise what the backend itself refuses: a device, dtype or model family that it does not have."""
    refuse = getattr(backend_module(config.backend), "check", None)
    if refuse is not None:
        refuse(cast(Any, config))
