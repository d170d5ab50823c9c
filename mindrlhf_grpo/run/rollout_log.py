"""The rollout log: ``RUN/rollouts/step_N.jsonl`` has the completions of a step, one object each.

It holds text, id, log-prob and advantage of every token, so a reader needs neither the model nor the tokenizer.
Legend: N completions, F components, K items, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from ..errors import DataError
from ..json_lines import read_json_lines, replace_file, to_json
from ..tokenizers.tokenizer import Tokenizer
from ..types import FloatArray, Rollout, RolloutGroup

if TYPE_CHECKING:
    from ..rewards import RewardTable

Score: TypeAlias = float | list[float | None] | None  # one value, one per item, or not applicable
MAX_COLUMN_CHARS = 2_000


class EpisodeRecord(BaseModel):
    """What happened in an environment, see ``types.Episode``; messages as chat templates have them, cut where long."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    messages: list[dict[str, Any]] = []
    turns: int = 0
    calls: dict[str, int] = {}
    failed_calls: int = 0
    reward: float | None = None
    failure: str = ""


class RolloutRecord(BaseModel):
    """One completion in a rollout file.

    Attributes:
        tokens, ids, logps, advantages: one entry per completion token; ``tokens`` are text pieces.
        train_logps: the policy's own log-probs of the tokens, where they were computed.
        advantage: mean of ``advantages``.
        components: reward components before weighting; ``reward`` their weighted sum.
        columns: the other columns of the prompt's row, as text.
        environment_spans: (start, end) of the tokens that an environment wrote; they have no log-prob and no advantage.
        episode: turns, calls and answers of an environment; None without one.
    """

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    step: int
    uid: int
    sample: int
    prompt: str
    completion: str
    tokens: list[str]
    ids: list[int]
    logps: list[float | None]
    advantages: list[float | None]
    advantage: float | None
    components: dict[str, Score]
    reward: Score
    finish: str
    weight_version: int = 0
    train_logps: list[float | None] | None = None
    columns: dict[str, str] = {}
    environment_spans: list[tuple[int, int]] = []
    episode: EpisodeRecord | None = None

    @model_validator(mode="after")
    def _one_entry_per_token(self) -> RolloutRecord:
        lengths = {len(self.tokens), len(self.ids), len(self.logps), len(self.advantages)}
        if len(lengths) > 1:
            raise ValueError(f"tokens, ids, logps and advantages differ in length: {sorted(lengths)}")
        return self


def table_rows(
    step: int, parts: Sequence[tuple[Sequence[RolloutGroup], RewardTable, FloatArray]], *, limit: int = 64
) -> list[list[Any]]:
    """The first completions of a step as rows for a tracker's table: step, prompt, completion, reward, advantage, finish.

    Args:
        parts: as for :func:`write_rollouts`; the rows are taken evenly from its groups.
        limit: most rows of a table.
    """
    rows: list[list[Any]] = []
    for groups, table, advantages in parts:
        total, index = table.total(), 0
        for group in groups:
            for rollout in group.rollouts:
                mean = mean_advantage(rollout, advantages[index]) or 0.0
                reward = float(np.nanmean(total[index])) if np.isfinite(total[index]).any() else None
                rows.append([step, group.prompt.text, rollout.text, reward, mean, rollout.finish.value])
                index += 1
    every = max(1, -(-len(rows) // limit))
    return rows[::every]


def rollout_path(run_dir: Path, step: int) -> Path:
    """The file with the completions of a step."""
    return run_dir / "rollouts" / f"step_{step}.jsonl"


def write_rollouts(
    run_dir: Path,
    step: int,
    parts: Sequence[tuple[Sequence[RolloutGroup], RewardTable, FloatArray]],
    tokenizer: Tokenizer,
    *,
    train_logps: Sequence[FloatArray] | None = None,
) -> Path:
    """Atomically write the completions of a step.

    Args:
        parts: groups, their reward table and their advantages ``[N, T]``, one triple per rank; rows run
            group by group, sample by sample, and T is that rank's longest completion.
        train_logps: the policy's log-probs ``[N, T]``, one array per part.

    Raises:
        ValueError: a table or array that does not have one row per completion.
    """
    lines: list[str] = []
    for index, (groups, table, advantages) in enumerate(parts):
        policy = train_logps[index] if train_logps is not None else None
        lines.extend(to_json(record) for record in _records(step, groups, table, advantages, tokenizer, policy))
    path = rollout_path(run_dir, step)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, "".join(line + "\n" for line in lines).encode())
    return path


def read_rollouts(path: Path) -> list[RolloutRecord]:
    """Read the completions of a file.

    Raises:
        DataError: a line that is not a completion.
    """
    lines = read_json_lines(path)
    if lines.bad:
        raise DataError(f"{path}:{lines.bad[0]}: not a JSON object")
    try:
        return [RolloutRecord.model_validate(row) for row in lines.rows]
    except ValidationError as error:
        raise DataError(f"{path}: not a rollout record: {error.errors()[0]['msg']}") from None


def _records(
    step: int,
    groups: Sequence[RolloutGroup],
    table: RewardTable,
    advantages: FloatArray,
    tokenizer: Tokenizer,
    train_logps: FloatArray | None,
) -> Iterator[dict[str, Any]]:
    pairs = [(group, rollout) for group in groups for rollout in group.rollouts]
    if not len(pairs) == len(table.values) == len(advantages):
        raise ValueError(f"{len(pairs)} completions, {len(table.values)} rewards, {len(advantages)} advantages")
    total = table.total()
    for row, (group, rollout) in enumerate(pairs):
        tokens = slice(0, len(rollout.ids))
        yield {
            "step": step,
            "uid": int(group.prompt.uid),
            **_sampled(group, rollout, tokenizer),
            "advantages": numbers(advantages[row, tokens]),
            "advantage": mean_advantage(rollout, advantages[row]),
            "components": {name: score(table.values[row, index]) for index, name in enumerate(table.names)},
            "reward": score(total[row]),
            "train_logps": None if train_logps is None else numbers(train_logps[row, tokens]),
        }


def _sampled(group: RolloutGroup, rollout: Rollout, tokenizer: Tokenizer) -> dict[str, Any]:
    """The part of a record that generation alone determines."""
    ids = [int(token) for token in rollout.ids]
    return {
        "sample": rollout.sample,
        "prompt": group.prompt.text,
        "columns": columns_as_text(group.prompt.columns),
        "completion": rollout.text,
        "tokens": [tokenizer.piece(token) for token in ids],
        "ids": ids,
        "logps": numbers(rollout.logps),
        "finish": rollout.finish.value,
        "weight_version": rollout.weight_version,
        **_episode(rollout),
    }


def _episode(rollout: Rollout) -> dict[str, Any]:
    """The part of a record that an environment determines; nothing without one. Seconds differ from run to run."""
    if rollout.episode is None or rollout.sampled is None:
        return {}
    edges = np.flatnonzero(np.diff(np.concatenate([[True], rollout.sampled, [True]]).astype(np.int8))).tolist()
    episode = rollout.episode
    return {
        "environment_spans": list(zip(edges[::2], edges[1::2], strict=True)),
        "episode": {
            "messages": [cut(dict(message)) for message in episode.messages],
            "turns": episode.turns,
            "calls": dict(episode.calls),
            "failed_calls": episode.failed_calls,
            "reward": episode.reward,
            "failure": episode.failure,
        },
    }


def cut(value: Any) -> Any:
    """A message with its texts cut where they are long."""
    if isinstance(value, str):
        return value if len(value) <= MAX_COLUMN_CHARS else f"{value[:MAX_COLUMN_CHARS]} ..."
    if isinstance(value, dict):
        return {str(name): cut(item) for name, item in value.items()}
    return [cut(item) for item in value] if isinstance(value, list | tuple) else value


def mean_advantage(rollout: Rollout, advantages: FloatArray) -> float | None:
    """The mean over the sampled tokens of a row ``[T]``; None without any."""
    of_tokens = advantages[: len(rollout.ids)]
    if rollout.sampled is not None:
        of_tokens = of_tokens[rollout.sampled]
    return float(np.mean(of_tokens)) if len(of_tokens) else None


def score(values: NDArray[Any]) -> Score:
    """Rewards ``[K]`` of one completion: a number for K = 1, else a list; null where not applicable."""
    listed = numbers(values)
    return listed[0] if len(listed) == 1 else listed


def numbers(values: NDArray[Any]) -> list[float | None]:
    """An array as JSON numbers with six decimals, null where not finite."""
    return [round(value, 6) if np.isfinite(value) else None for value in np.asarray(values, np.float64).tolist()]


def columns_as_text(columns: Mapping[str, Any]) -> dict[str, str]:
    """The columns of a row as text, cut where it is long."""
    return {str(name): str(_named(value))[:MAX_COLUMN_CHARS] for name, value in columns.items()}


def _named(value: Any) -> Any:
    """A value with the size in place of images and bytes: short text that is the same in every run."""
    if isinstance(value, bytes | bytearray):
        return f"{len(value)} bytes"
    if type(value).__module__.startswith("PIL."):
        return f"image of {value.width}x{value.height}"
    if isinstance(value, dict):
        return {name: _named(item) for name, item in value.items()}
    return [_named(item) for item in value] if isinstance(value, list) else value
