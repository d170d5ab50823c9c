"""The records that travel from a data row to a weight update.

Tokens in, tokens out: after tokenisation nothing is tokenised again, and every mask comes from a
length. Legend: N completions, T longest completion, P prompt tokens, G group size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

IntArray: TypeAlias = NDArray[np.int32] | NDArray[np.int64]
FloatArray: TypeAlias = NDArray[np.float32] | NDArray[np.float64]


class FinishReason(str, Enum):
    """The reason why a completion ended."""

    STOP = "stop"  # an end-of-sequence token or a stop string
    LENGTH = "length"  # the token budget: the completion is truncated
    TURNS = "turns"  # the turn budget of an environment: the completion is truncated


TRUNCATED = frozenset({FinishReason.LENGTH, FinishReason.TURNS})


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One draw of one data row, tokenised.

    Attributes:
        uid: number of this draw: row + epoch * rows. Unique in a run; seeds sampling.
        ids: prompt tokens ``[P]``, the chat template applied.
        text: the prompt as text, for people and rewards.
        columns: the other columns of the row, given to reward functions.
        row: the row's place in its source, for messages.
        messages: the conversation behind the template; empty for plain text.
        features: arrays that a model reads besides the tokens (images), by the model's names; empty for text.
        source: name of the row's source, where there are several.
    """

    uid: int
    ids: IntArray
    text: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    row: int = 0
    messages: tuple[Mapping[str, str], ...] = ()
    features: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """What happened between a model and an environment in one rollout.

    Attributes:
        messages: the conversation after the prompt: turns of the assistant with their ``tool_calls``, and answers.
        turns: turns of the assistant.
        calls: calls by name of the tool; calls that cannot be read or name no tool are under ``""``.
        failed_calls: calls that could not be read, were refused, raised, or took too long.
        reward: the environment's own reward of the rollout; None where it gives none.
        failure: why the environment failed and has no reward; empty where it did not.
        seconds: time in the environment's code.
    """

    messages: tuple[Mapping[str, Any], ...] = ()
    turns: int = 0
    calls: Mapping[str, int] = field(default_factory=dict)
    failed_calls: int = 0
    reward: float | None = None
    failure: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One completion as sampled.

    Attributes:
        sample: index in its group, ``0..G-1``.
        ids: completion tokens ``[T]``, the end token included if one was sampled.
        logps: log-prob ``[T]`` of each token when sampled, under softmax(logits / temperature) before
            top-k/top-p/min-p/repetition penalty, so that it compares with the training log-prob.
        text: decoded completion, without special tokens; with an environment the last turn of the assistant.
        weight_version: version of the weights that sampled it.
        sampled: ``[T]`` whether a token was sampled, or written by an environment (its log-prob is 0); None: all were.
        episode: what happened in the environment; None without one.
    """

    sample: int
    ids: IntArray
    logps: FloatArray
    finish: FinishReason
    text: str
    weight_version: int = 0
    sampled: NDArray[np.bool_] | None = None
    episode: Episode | None = None

    @property
    def sampled_tokens(self) -> int:
        """The number of tokens that the model sampled."""
        return len(self.ids) if self.sampled is None else int(self.sampled.sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutGroup:
    """The completions of one prompt; the prompt is stored once."""

    prompt: Prompt
    rollouts: tuple[Rollout, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Sampling settings. ``temperature`` 0 is greedy; 0 turns ``top_k`` and ``min_p`` off, 1 turns ``top_p`` off."""

    max_tokens: int
    min_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def truncated(self) -> bool:
        """True if tokens are drawn from another distribution than softmax(logits / temperature)."""
        return self.top_k > 0 or self.top_p < 1.0 or self.min_p > 0.0 or self.repetition_penalty != 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The input of a policy update: N completions that point at M prompts, each prompt stored once.

    Attributes:
        prompts: M arrays of prompt tokens ``[P_m]``.
        prompt_of: ``[N]`` index into ``prompts``.
        ids: completion tokens ``[N, T]``, 0 past each length.
        lengths: tokens of each completion ``[N]``.
        mask: ``[N, T]`` float32, 1 where a token is trained. Comes from lengths, never from ids.
        weights: ``[N, T]`` loss weight of each token over the *global* batch (see ``batches.online.loss_weights``).
        advantages: ``[N, T]``.
        rollout_logps, old_logps, ref_logps: ``[N, T]`` log-probs of the engine, of the policy before this
            batch, and of the reference; None where not needed.
        segments: ``[N, T]`` int32 item index of each token, -1 outside every item; None without items.
        temperature: divides logits before the log-softmax, as when sampling.
        tensors: other ``[N, T]`` float32 arrays that a loss reads, by name; a number of a row stands at every token.
        coupled: the rows of a prompt have one loss together (a preference pair): they stay in one micro-batch,
            adjoining and in their order.
        features: the features of each of the M prompts (images); empty where no prompt has any.
        sampled: ``[N, T]`` bool, False at tokens that an environment wrote: they are read as context, and nothing is
            predicted at them (log-probs, values and entropies are 0 there); None where every token was sampled.
    """

    prompts: tuple[IntArray, ...]
    prompt_of: IntArray
    ids: IntArray
    lengths: IntArray
    mask: FloatArray
    weights: FloatArray
    advantages: FloatArray
    rollout_logps: FloatArray | None = None
    old_logps: FloatArray | None = None
    ref_logps: FloatArray | None = None
    segments: IntArray | None = None
    temperature: float = 1.0
    tensors: Mapping[str, FloatArray] = field(default_factory=dict)
    coupled: bool = False
    features: tuple[Mapping[str, Any], ...] = ()
    sampled: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def predicted(self) -> NDArray[np.bool_]:
        """``[N, T]`` the tokens that have a log-prob or value: those before each length that were sampled."""
        lengths = np.asarray(self.lengths, dtype=np.int64)
        inside: NDArray[np.bool_] = np.arange(self.ids.shape[1])[None, :] < lengths[:, None]
        return inside if self.sampled is None else inside & self.sampled

    def loss_tensors(self) -> dict[str, NDArray[Any]]:
        """The ``[N, T]`` arrays a loss reads, by field name; absent ones left out."""
        named = {name: getattr(self, name) for name in LOSS_TENSORS} | dict(self.tensors)
        return {name: array for name, array in named.items() if array is not None}

    def take(self, rows: Sequence[int] | IntArray) -> Batch:
        """Take these rows in this order, cut to their longest completion and to the prompts they use."""
        index = np.asarray(rows, dtype=np.int64)
        used, prompt_of = np.unique(self.prompt_of[index], return_inverse=True)
        longest = int(self.lengths[index].max(initial=0))
        cut: dict[str, Any] = {}
        for spec in fields(self):
            value = getattr(self, spec.name)
            if isinstance(value, np.ndarray):
                cut[spec.name] = value[index, :longest] if value.ndim == 2 else value[index]
        cut["tensors"] = {name: array[index, :longest] for name, array in self.tensors.items()}
        cut["prompts"] = tuple(self.prompts[m] for m in used)
        cut["features"] = tuple(self.features[m] for m in used) if self.features else ()
        cut["prompt_of"] = prompt_of.astype(np.int32)
        return replace(self, **cut)


LOSS_TENSORS = (
    "mask",
    "weights",
    "advantages",
    "rollout_logps",
    "old_logps",
    "ref_logps",
    "segments",
)
