"""A trained reward model as a reward: a score for every completion, in the model's own tokens and template.

A squash is applied to the pooled score of a sequence, never to token values (the sigmoid of a padding zero is 0.5). Each
scorer frees its weights when it has scored, so several need the memory of the largest, not of all.
Legend: N completions, T longest completion.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import numpy as np
from numpy.typing import NDArray

from ...batches.online import padded
from ...config.run import ModelConfig, TrainConfig
from ...errors import ConfigError, DataError, did_you_mean
from ...model_files.checkpoint_folders import policy_folder
from ...model_files.folder import find_folder, read_headers, read_model_config
from ...model_files.value_head import is_head
from ...tokenizers.masks import encode_conversation, encode_text
from ...tokenizers.prefill import answered, chat_prompt, is_prefilled
from ...tokenizers.tokenizer import Tokenizer, encode_prompt_text, load_tokenizer
from ...tokenizers.traces import fit_conversation
from ...types import Batch, Prompt, Rollout, RolloutGroup

if TYPE_CHECKING:
    from ...backend import Backend, ValueReader

LOG = logging.getLogger("mindrlhf_grpo.rewards")
CHOICES = {
    "tokens": ("own", "same"),
    "end": ("answer", "template"),
    "pooling": ("last", "mean"),
    "sign": (1, -1),
    "squash": ("identity", "sigmoid", "neg", "sigmoid_neg"),
    "dtype": ("float32", "bfloat16"),
}

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorerSettings:
    """Settings for reading a reward model.

    Attributes:
        model: folder of a sequence or token classifier with one output, or of one with an MLP head.
        tokens: ``own``: prompt and completion are put into the model's own template and tokens; ``same``: the ids of
            the rollout are taken as they are, which needs equal tokenizer files.
        tokenizer: folder of the model's tokenizer; empty: the model's folder.
        chat_template: ``auto``, ``none`` (prompt, completion and an end token, as in training), or a Jinja file.
        end: the last token of a sequence: ``answer``: the end token of the answer, where reward models are trained here;
            ``template``: what the template writes last (a newline, for some), or the last token of the text.
        pooling: ``last``: the value at the sequence's last token; ``mean``: over the tokens after the prompt.
        sign: factor of the pooled value, before ``squash``.
        squash: x, sigmoid(x), -x or sigmoid(-x) of that.
        max_tokens: cut longer sequences at their end; 0: never.
        device, dtype, tokens_per_micro_batch: see ``model.device``, ``model.dtype``, ``train.tokens_per_micro_batch``.
        keep: keep the weights between calls; for a single reward model that fits beside the policy.
        trust_remote_code: compute the score with the Python code in the model's folder, if it ships any and the backend
            can run it; else the model is read natively, which is logged.

    Raises:
        ConfigError: a value that is not accepted.
    """

    model: str
    tokens: str = "own"
    tokenizer: str = ""
    chat_template: str = "auto"
    end: str = "answer"
    pooling: str = "last"
    sign: int = 1
    squash: str = "identity"
    max_tokens: int = 0
    device: str = "auto"
    dtype: str = "float32"
    tokens_per_micro_batch: int = 8192
    keep: bool = False
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        for name, accepted in CHOICES.items():
            value = getattr(self, name)
            if value not in accepted:
                raise ConfigError(
                    f"reward model {self.model!r}: {name} is {value!r}; accepted: {', '.join(map(str, accepted))}"
                )
        if self.max_tokens < 0 or self.tokens_per_micro_batch < 1:
            raise ConfigError(
                f"reward model {self.model!r}: max_tokens {self.max_tokens} must not be negative, and "
                f"tokens_per_micro_batch {self.tokens_per_micro_batch} must be at least 1"
            )
        if self.trust_remote_code and self.pooling != "last":
            raise ConfigError(
                f"reward model {self.model!r}: pooling is {self.pooling!r}; with trust_remote_code only last is accepted, "
                "because the model's own code may put out one number a sequence"
            )


def settings_from_arguments(model: str, arguments: Mapping[str, Any]) -> ScorerSettings:
    """Return settings from the arguments of a reward component.

    Raises:
        ConfigError: an unknown argument, or a value that is not accepted.
    """
    known = [field.name for field in fields(ScorerSettings) if field.name != "model"]
    types = get_type_hints(ScorerSettings)
    for name, value in arguments.items():
        if name not in known:
            raise ConfigError(
                f"reward model {model!r}: argument {name!r} is unknown{did_you_mean(name, known)}; it takes {', '.join(known)}"
            )
        if not isinstance(value, types[name]):
            raise ConfigError(
                f"reward model {model!r}: {name} is {value!r}, a {type(value).__name__}; it takes a {types[name].__name__}"
            )
    return ScorerSettings(model=model, **arguments)


class Scorer:
    """Scores rollouts with one reward model; nothing is loaded before the first call.

    Args:
        policy_tokenizer: folder of the policy's tokenizer, for ``tokens: same``.
        headless: accept weights without a head, for reading embeddings only.

    Raises:
        ConfigError: ``tokens: same`` with tokenizer files that differ, or weights without a head.
        DataError: an unreadable tokenizer.
    """

    def __init__(
        self,
        settings: ScorerSettings,
        backend: Backend,
        policy_tokenizer: Path | None = None,
        *,
        headless: bool = False,
    ) -> None:
        self.settings, self.backend = settings, backend
        if not headless:
            check_head(settings)
        folder = settings.tokenizer or settings.model
        self.tokenizer: Tokenizer | None = None
        if settings.tokens == "same":
            check_same_tokenizer(policy_folder(Path(folder)), policy_tokenizer)
        else:
            self.tokenizer = load_tokenizer(folder, chat_template=settings.chat_template)
        self.model: ValueReader | None = None

    def score(self, groups: Sequence[RolloutGroup]) -> Floats:
        """Return scores ``[N]`` in float64, group by group, sample by sample; NaN for a completion without tokens.

        The weights are freed afterwards unless ``keep``.
        """
        rows = [self.sequence(group.prompt, rollout) for group in groups for rollout in group.rollouts]
        counts = [len(group.rollouts) for group in groups]
        scores = np.full(len(rows), np.nan)
        present = np.flatnonzero([row is not None for row in rows])
        if len(present):
            sequences = [row for row in rows if row is not None]
            batch = to_batch(sequences, np.repeat(np.arange(len(groups)), counts)[present])
            scores[present] = squash(self.settings, pool(self.settings, self.values(batch), batch.lengths))
        return scores

    def embeddings(self, groups: Sequence[RolloutGroup]) -> Floats:
        """Return embeddings ``[N, E]`` at the last token of each conversation, the inputs of a head.

        Raises:
            DataError: a completion without tokens.
        """
        rows = [self.sequence(group.prompt, rollout) for group in groups for rollout in group.rollouts]
        counts = [len(group.rollouts) for group in groups]
        sequences = [row for row in rows if row is not None]
        if len(sequences) < len(rows):
            raise DataError(f"{len(rows) - len(sequences)} of {len(rows)} completions have no tokens")
        try:
            batch = to_batch(sequences, np.repeat(np.arange(len(groups)), counts))
            return np.asarray(self.loaded().embeddings(batch), np.float64)
        finally:
            self.rest()

    def values(self, batch: Batch) -> NDArray[Any]:
        """Return values ``[N, T]`` at the tokens after each prompt."""
        try:
            return self.loaded().values(batch)
        finally:
            self.rest()

    def loaded(self) -> ValueReader:
        """Return the model, loading it at the first call; it reads its weights again if they were released."""
        if self.model is None:
            settings = self.settings
            model = ModelConfig.model_validate(
                {"path": settings.model, "device": settings.device, "dtype": settings.dtype}
            )
            train = TrainConfig(tokens_per_micro_batch=settings.tokens_per_micro_batch)
            self.model = self.remote_code(model, train) or self.backend.load_value_model(model, train, read_at="token")
        return self.model

    def rest(self) -> None:
        """Free the weights until the next call, unless ``keep``."""
        if self.model is not None and not self.settings.keep:
            self.model.release()

    def remote_code(self, model: ModelConfig, train: TrainConfig) -> ValueReader | None:
        """Return the model run by its folder's own code; None unless that is requested, shipped and possible."""
        if not self.settings.trust_remote_code:
            return None
        ships_code = bool(read_model_config(find_folder(self.settings.model)).get("auto_map"))
        reader = self.backend.load_remote_code(model, train) if ships_code else None
        if reader is None:
            why = f"backend {self.backend.name!r} does not run such code" if ships_code else "the folder ships none"
            LOG.info("reward model %s is read natively, not by its own code: %s", self.settings.model, why)
        return reader

    def sequence(self, prompt: Prompt, rollout: Rollout) -> tuple[list[int], int] | None:
        """Return the ids of prompt and completion, and the length of the prompt; None without a completion."""
        if not len(rollout.ids):
            return None
        if self.tokenizer is None:
            start, ids = len(prompt.ids), [*map(int, prompt.ids), *map(int, rollout.ids)]
        elif self.tokenizer.has_chat_template:
            start, ids = self.templated(self.tokenizer, conversation(prompt), rollout.text)
        else:
            before = encode_prompt_text(prompt.text, self.tokenizer)
            answer = self.tokenizer.literals.marked(rollout.text)  # a policy must not end the text for its judge
            if self.settings.end == "answer":
                start, ids = len(before), [*before, *map(int, encode_text(answer, self.tokenizer).ids)]
            else:
                ids = encode_prompt_text(prompt.text + answer, self.tokenizer)
                start = common_prefix(ids, before)
        if not ids:
            raise DataError(f"row {prompt.row}: prompt and completion have no tokens for {self.settings.model}")
        ids = ids[: self.settings.max_tokens or None]
        return ids, min(start, len(ids) - 1)

    def templated(self, tokenizer: Tokenizer, messages: list[Mapping[str, str]], text: str) -> tuple[int, list[int]]:
        """Return the length of the prompt, and the ids of the conversation up to the end that the settings name."""
        continued = is_prefilled(messages)
        asked = fit_conversation([dict(message) for message in messages], tokenizer, generation_prompt=not continued)
        whole = answered(asked, text)
        if self.settings.end == "answer":
            beginning = str(messages[-1]["content"]) if continued else ""
            before, completion = encode_conversation(whole, len(whole) - 1, tokenizer, continued=beginning)
            return len(before), [*map(int, before), *map(int, completion.ids)]
        ids = tokenizer.chat(whole, generation_prompt=False)
        return common_prefix(ids, chat_prompt(asked, tokenizer)), ids

    def close(self) -> None:
        """Free the weights; the scorer can be used again."""
        if self.model is not None:
            self.model.release()
            self.model = None


def conversation(prompt: Prompt) -> list[Mapping[str, str]]:
    """Return the messages of a prompt; a prompt of plain text is a user message."""
    return list(prompt.messages) or [{"role": "user", "content": prompt.text}]


def common_prefix(ids: Sequence[int], other: Sequence[int]) -> int:
    """Return the number of leading tokens that two lists share."""
    both = min(len(ids), len(other))
    return next((place for place in range(both) if ids[place] != other[place]), both)


def to_batch(rows: Sequence[tuple[Sequence[int], int]], group_of: NDArray[np.int64]) -> Batch:
    """Return sequences as a batch; the prompt of a group is the common beginning of its sequences' prompts.

    Args:
        rows: (ids, length of the prompt) of each sequence.
        group_of: group of each row, ascending.
    """
    numbers, prompt_of = np.unique(group_of, return_inverse=True)
    prompts: list[NDArray[np.int32]] = []
    for group in range(len(numbers)):
        members = [rows[row] for row in np.flatnonzero(prompt_of == group)]
        first = members[0][0]
        start = min(min(length, common_prefix(ids, first)) for ids, length in members)
        prompts.append(np.asarray(first[:start], dtype=np.int32))
    completions = [np.asarray(ids[len(prompts[m]) :], np.int64) for (ids, _), m in zip(rows, prompt_of, strict=True)]
    lengths = np.asarray([len(completion) for completion in completions], dtype=np.int64)
    shape = (len(rows), int(lengths.max(initial=0)))
    inside = (np.arange(shape[1]) < lengths[:, None]).astype(np.float32)
    zeros = np.zeros(shape, np.float32)
    return Batch(
        prompts=tuple(prompts),
        prompt_of=prompt_of.astype(np.int32),
        ids=padded(completions, np.zeros(shape, np.int64)),
        lengths=lengths,
        mask=inside,
        weights=zeros,
        advantages=zeros,
    )


def pool(settings: ScorerSettings, values: NDArray[Any], lengths: NDArray[Any]) -> Floats:
    """Return one number per row ``[N]`` from values ``[N, T]``, by length, never by padding id."""
    wide = np.asarray(values, dtype=np.float64)
    if settings.pooling == "mean":
        return np.asarray(wide.sum(axis=1) / lengths)
    return np.asarray(wide[np.arange(len(wide)), np.asarray(lengths) - 1])


def squash(settings: ScorerSettings, scores: Floats) -> Floats:
    """Apply the sign, then the squash, to one number per sequence."""
    scores = scores * settings.sign
    if settings.squash in ("neg", "sigmoid_neg"):
        scores = -scores
    if settings.squash in ("sigmoid", "sigmoid_neg"):
        scores = np.exp(-np.logaddexp(0.0, -scores))  # 1 / (1 + exp(-x)), for any x
    return np.asarray(scores)


def check_head(settings: ScorerSettings) -> None:
    """Raise ConfigError for weights without a head with one output: it would be initialised at random and score noise."""
    folder = Path(settings.model).expanduser()
    names = read_headers(find_folder(settings.model)) if folder.is_dir() else {}
    if names and not settings.trust_remote_code and not any(is_head(name) for name in names):
        raise ConfigError(
            f"reward model {settings.model!r} has no head of one number, only a language model's weights; accepted: a "
            "sequence or token classifier with one output, as `train` with objective.name: reward_model writes one"
        )


def check_same_tokenizer(folder: Path, policy: Path | None) -> None:
    """Raise ConfigError unless both folders hold equal vocabulary files."""
    if policy is None:
        raise ConfigError(f"reward model {folder}: tokens: same needs the policy's tokenizer folder; accepted: own")
    places = (folder, policy)
    names = {file.name for place in places for pattern in VOCABULARY_FILES for file in place.glob(pattern)}
    for name in sorted(names) or [VOCABULARY_FILES[0]]:
        files = [place / name for place in places]
        if not all(file.is_file() for file in files) or files[0].read_bytes() != files[1].read_bytes():
            raise ConfigError(
                f"reward model {folder}: tokens: same needs the policy's tokenizer, but {name} differs from that of "
                f"{policy}; accepted: tokens: own"
            )


VOCABULARY_FILES = ("tokenizer.json", "*.model", "*.tiktoken", "vocab.*", "merges.txt", "added_tokens.json")
