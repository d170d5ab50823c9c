"""Chooses and packs the completions that fit into the page.

A page holds at most ``MAX_STEPS`` steps of ``MAX_COMPLETIONS`` completions and ``MAX_BYTES`` of them in all;
a note on the page counts the rest. Token pieces are stored once for all steps and referred to by number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..json_lines import to_json
from ..run.rollout_log import RolloutRecord, Score
from .reading import Run, read_completions

MAX_STEPS = 40
MAX_COMPLETIONS = 64
MAX_TOKENS = 4_000  # shown of one completion
MAX_PROMPT_CHARS = 20_000
MAX_BYTES = 11_000_000
MAX_MESSAGES = 64  # of one conversation
MAX_MESSAGE_CHARS = 1_000


@dataclass(slots=True)
class Vocabulary:
    """Distinct (id, piece) pairs in order of first use."""

    numbers: dict[tuple[int, str], int] = field(default_factory=dict)

    def number(self, token: int, piece: str) -> int:
        """The pair's place in the vocabulary."""
        return self.numbers.setdefault((token, piece), len(self.numbers))

    def as_json(self) -> str:
        """``{"ids": [...], "pieces": [...]}``."""
        return to_json({"ids": [token for token, _ in self.numbers], "pieces": [piece for _, piece in self.numbers]})


@dataclass(frozen=True, slots=True)
class Completions:
    """The completions in the page: one JSON text per step, the vocabulary, and a note on what is left out."""

    steps: dict[int, str]
    vocabulary: str
    note: str


def pack(run: Run) -> Completions:
    """Pack as many steps as fit, evenly spread over the run, the first and the last included."""
    vocabulary = Vocabulary()
    packed: dict[int, str] = {}
    unreadable = shown = 0
    for step in spread(run.rollout_steps, MAX_STEPS):
        records, bad = read_completions(run, step)
        unreadable += bad
        groups = whole_groups(records, MAX_COMPLETIONS)
        if groups:
            packed[step] = to_json(packed_step(step, groups, len(records), vocabulary))
    chosen = fitting(packed, MAX_BYTES)
    shown = len(chosen)
    note = (
        f"{shown:,} of {len(run.rollout_steps):,} logged steps"
        if shown < len(run.rollout_steps)
        else "All logged steps"
    )
    note += f", at most {MAX_COMPLETIONS} completions of each."
    if unreadable:
        note += f" {unreadable:,} unreadable line{'s' * (unreadable > 1)} skipped."
    return Completions({step: packed[step] for step in chosen}, vocabulary.as_json(), note if run.rollout_steps else "")


def spread(steps: Sequence[int], count: int) -> list[int]:
    """At most ``count`` of the steps, evenly spread, the first and the last included."""
    if len(steps) <= count:
        return list(steps)
    if count == 1:
        return [steps[-1]]
    return [steps[at * (len(steps) - 1) // (count - 1)] for at in range(count)]


def fitting(packed: dict[int, str], budget: int) -> list[int]:
    """The largest even choice of steps whose texts stay within ``budget`` bytes; at least one step."""
    steps = list(packed)
    choices = (spread(steps, count) for count in range(len(steps), 1, -1))
    return next((chosen for chosen in choices if sum(len(packed[step]) for step in chosen) <= budget), steps[-1:])


def whole_groups(records: Sequence[RolloutRecord], count: int) -> list[list[RolloutRecord]]:
    """Groups in file order until ``count`` completions are reached; at least one group, cut to ``count``."""
    groups: dict[int, list[RolloutRecord]] = {}
    for record in records:
        groups.setdefault(record.uid, []).append(record)
    chosen: list[list[RolloutRecord]] = []
    for group in groups.values():
        if chosen and sum(map(len, chosen)) + len(group) > count:
            break
        chosen.append(group[:count])
    return chosen


def packed_step(
    step: int, groups: Sequence[Sequence[RolloutRecord]], completions: int, vocabulary: Vocabulary
) -> dict[str, Any]:
    """A step for the page's script; a group's prompt is stored once."""
    return {
        "step": step,
        "completions": completions,
        "groups": [
            {
                "uid": str(group[0].uid),  # a script's numbers are exact to 2**53 only
                "prompt": group[0].prompt[:MAX_PROMPT_CHARS],
                "columns": group[0].columns,
                "rollouts": [packed_completion(record, vocabulary) for record in group],
            }
            for group in groups
        ],
    }


def packed_completion(record: RolloutRecord, vocabulary: Vocabulary) -> dict[str, Any]:
    """One completion: ``t`` vocabulary numbers, ``l`` log-probs, ``p`` those of training, ``a`` advantages.

    Log-probs are thousandths. Equal advantages are stored as one number. The text is left out where the
    pieces spell it.
    """
    shown = slice(0, MAX_TOKENS)
    advantages = [None if value is None else round(value, 4) for value in record.advantages[shown]]
    same = len(set(advantages)) == 1
    return {
        "sample": record.sample,
        "text": None if record.completion in "".join(record.tokens[shown]) else record.completion,
        "tokens": len(record.ids),
        "t": [vocabulary.number(*pair) for pair in zip(record.ids[shown], record.tokens[shown], strict=True)],
        "l": thousandths(record.logps[shown]),
        "p": thousandths(record.train_logps[shown]) if record.train_logps else None,
        "a": advantages[0] if same else advantages,
        "advantage": rounded(record.advantage),
        "components": {name: scored(value) for name, value in record.components.items()},
        "reward": scored(record.reward),
        "finish": record.finish,
        "version": record.weight_version,
        **packed_episode(record),
    }


def packed_episode(record: RolloutRecord) -> dict[str, Any]:
    """``e`` spans of the environment's tokens, ``turns`` the messages by role; nothing without an environment."""
    if record.episode is None:
        return {}
    episode = record.episode
    return {
        "e": record.environment_spans,
        "calls": sum(episode.calls.values()),
        "failed": episode.failed_calls,
        "failure": episode.failure,
        "turns": [packed_message(message) for message in episode.messages[:MAX_MESSAGES]],
    }


def packed_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message for the page: role, text, calls as ``name(arguments)``, and the reward of the turn where it has one."""
    calls = []
    for call in message.get("tool_calls") or []:
        function = call.get("function") or {}
        arguments = ", ".join(f"{name}={to_json(value)}" for name, value in (function.get("arguments") or {}).items())
        calls.append(call.get("problem") or f"{function.get('name')}({arguments})")
    return {
        "role": str(message.get("name") or message.get("role")),
        "text": str(message.get("content") or "")[:MAX_MESSAGE_CHARS],
        "calls": [str(call)[:MAX_MESSAGE_CHARS] for call in calls],
        "reward": message.get("reward"),
    }


def thousandths(values: Sequence[float | None]) -> list[int | None]:
    """Numbers times 1000 as integers, which take half the bytes."""
    return [None if value is None else round(1000 * value) for value in values]


def scored(value: Score) -> Score:
    """Round a score to the precision of the page."""
    return [rounded(item) for item in value] if isinstance(value, list) else rounded(value)


def rounded(value: float | None) -> float | None:
    """Round to four decimals."""
    return None if value is None else round(value, 4)
