"""Rows before the first step: the room that a model has for them, the check of all, and what a reader must know of them."""

from __future__ import annotations

from collections import Counter
from typing import Any, TypeVar

from ..algorithms.task import Task
from ..config.file import AnyConfig
from ..config.offline import OfflineConfig
from ..config.run import DataConfig, RunConfig
from ..data.examples import Example, ExampleStream
from ..data.mixture import Setting
from ..data.row_check import Survey
from ..data.stream import PromptStream
from ..environments.environment_class import load_environment_class
from ..errors import ConfigError
from ..model_files.folder import embedding_rows, find_folder, read_model_config
from ..tokenizers.tokenizer import Tokenizer
from ..types import Prompt

Drawn = TypeVar("Drawn", Prompt, Example)
DEFAULT_LIMIT = DataConfig.model_fields["max_prompt_tokens"].default


def context_length(path: str) -> int | None:
    """Return the positions that a model knows; None if its configuration does not say.

    Raises:
        ConfigError: the model does not exist.
    """
    config: dict[str, Any] = read_model_config(find_folder(path))
    config = {**config, **(config.get("text_config") or {})}
    length = config.get("max_position_embeddings")
    return length if isinstance(length, int) and length > 0 else None


def prompt_room(config: RunConfig) -> int | None:
    """Return the tokens that a prompt may have beside its completion; None where the model sets no limit."""
    length = context_length(config.model.path)
    return None if length is None else max(1, length - config.rollout.max_tokens)


def check_lengths(config: RunConfig) -> None:
    """Check that prompts and completions of the lengths that are asked for fit the model.

    ``data.max_prompt_tokens`` at its default asks for nothing: then rows are held to the room that there is.

    Raises:
        ConfigError: they do not fit.
    """
    length = context_length(config.model.path)
    prompt, completion = config.data.max_prompt_tokens, config.rollout.max_tokens
    if length is None:
        return
    if completion >= length:
        raise ConfigError(
            f"rollout.max_tokens {completion} leaves no room for a prompt in the model's context of {length} tokens"
        )
    if prompt != DEFAULT_LIMIT and prompt + completion > length:
        raise ConfigError(
            f"data.max_prompt_tokens {prompt} and rollout.max_tokens {completion} are {prompt + completion} tokens, the "
            f"model's context is {length}; accepted: max_prompt_tokens up to {length - completion}, or fewer max_tokens"
        )


def open_prompts(config: RunConfig, tokenizer: Tokenizer, source: Setting | None = None) -> PromptStream:
    """Open the training prompts, or those of another source that are encoded alike; raises DataError as the stream does."""
    data = config.data if source is None else config.data.model_copy(update={"source": source})
    tools = list(load_environment_class(config.environment).tools.values()) if config.environment is not None else []
    return PromptStream(data, tokenizer, seed=config.seed, room=prompt_room(config), tools=tools)


def open_examples(
    config: OfflineConfig, task: Task, tokenizer: Tokenizer, source: Setting | None = None
) -> ExampleStream:
    """Open the training rows, or those of another source that are encoded alike; raises DataError as the stream does."""
    data = config.data if source is None else config.data.model_copy(update={"source": source})
    return ExampleStream(data, task.encoder, tokenizer, seed=config.seed)


def check_vocabulary(config: AnyConfig, tokenizer: Tokenizer, survey: Survey) -> None:
    """Raise ConfigError for rows with a token that the model has no embedding for."""
    embedded = embedding_rows(find_folder(config.model.path))
    if embedded is not None and survey.largest_id >= embedded:
        raise ConfigError(
            f"model.path: {survey.name} has the token {survey.largest_id} ({tokenizer.piece(survey.largest_id)!r}), and the "
            f"model has embeddings for {embedded}: its tokenizer is of another model"
        )


def first_of_each(drawn: list[Drawn], limit: int | None) -> list[Drawn]:
    """Return the first ``limit`` draws of each source; all with None."""
    if limit is None:
        return drawn
    seen: Counter[str] = Counter()
    kept = []
    for one in drawn:
        seen[one.source] += 1
        if seen[one.source] <= limit:
            kept.append(one)
    return kept


def notes_on(stream: PromptStream | ExampleStream, per_step: int, *, context: int | None = None) -> list[str]:
    """Return what a reader of the curves must know about the rows: those left out or not checked, repeats, and lengths.

    Args:
        context: positions that the model knows, where longer rows are read all the same; None: they are not.
    """
    survey = stream.check()
    notes = [f"rows: {survey}"] if survey.checked < survey.rows or any(survey.counts.values()) else []
    usable = survey.rows - survey.left_out
    if per_step > usable and survey.checked == survey.rows:
        notes.append(
            f"a step draws {per_step} rows and there are {usable}: rows repeat within a step (train.prompts_per_step)"
        )
    if context is not None and survey.longest > context:
        notes.append(
            f"the longest row has {survey.longest:,} tokens, more than the model's context of {context:,} (data.max_tokens)"
        )
    return notes
