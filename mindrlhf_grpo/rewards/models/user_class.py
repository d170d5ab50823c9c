"""A user's own reward model: a class whose objects are called with ``input_ids`` and ``attention_mask`` ``[B, T]``.

It returns B scores, or a mapping with them under ``score``. It is given tensors of the framework its base classes come
from, NumPy arrays if they come from none, padded on the right, and computes without gradients. Of ``prompts``,
``completions`` and the data columns, lists of B values, it is given those that it names, or all if it takes
``**kwargs``.
"""

from __future__ import annotations

import gc
import inspect
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...backend import backend_of_type
from ...errors import ConfigError, DataError, RunFailed, UserError
from ...tokenizers.tokenizer import Tokenizer, encode_prompt_text, load_tokenizer
from ...tokenizers.traces import fit_conversation
from ...user_functions import file_of, import_function, line_of, stopping_the_run

Conversation = Sequence[Mapping[str, str]]


class UserModel:
    """A user-defined class and its tokenizer; an object of the class is built at the first call.

    Args:
        reference: ``file.py:Class`` or ``pkg.module:Class``. It is built with ``path`` if its constructor takes that,
            else without arguments.
        path: folder of the model; its tokenizer is used if it has one, else that of ``policy_folder``.
        device: where it computes, if it has a method ``to``.

    Raises:
        ConfigError: no such class, or no tokenizer.
    """

    def __init__(
        self, reference: str, *, path: str, policy_folder: Path | None = None, device: Any = None, batch: int = 8
    ) -> None:
        if ":" not in reference:
            raise ConfigError(
                f"custom reward model {reference!r} names no file; it is written file.py:{reference or 'Class'} or "
                f"pkg.module:{reference or 'Class'}"
            )
        try:
            user_class = import_function(reference)
        except UserError as error:
            raise ConfigError(f"custom reward model {reference!r}: {error}") from error
        if not inspect.isclass(user_class) or not any(
            {"forward", "__call__"} & set(vars(base)) for base in user_class.__mro__
        ):
            raise ConfigError(f"custom reward model {reference!r} must be a class whose objects can be called")
        self.reference, self.path, self.device, self.batch = reference, path, device, batch
        self.made: Any = user_class
        self.framework = backend_of_type(user_class)
        self.policy_folder = policy_folder
        self.model: Any = None

    def scores(
        self, conversations: Sequence[Conversation], columns: Mapping[str, Sequence[Any]] | None = None
    ) -> NDArray[np.float64]:
        """Return the score of each conversation ``[N]``; NaN where it is no finite number.

        Args:
            columns: further lists of N values that the class may read.

        Raises:
            ConfigError: the model does not return one number per conversation.
            RunFailed: the class raises an exception, or gives no conversation a finite number.
        """
        if self.model is None:
            self.model = self.build()
        encoded = [self.encode(conversation) for conversation in conversations]
        parts = [
            self.call(
                encoded[start : start + self.batch],
                {name: list(values[start : start + self.batch]) for name, values in (columns or {}).items()},
            )
            for start in range(0, len(encoded), self.batch)
        ]
        scores = np.concatenate([np.zeros(0), *parts])
        if len(scores) and not np.isfinite(scores).any():
            raise RunFailed(
                f"custom reward model {self.reference!r} ({line_of(self.made)}) gave none of {len(scores)} completions a "
                f"finite number: the first got {scores[0]}"
            )
        return np.where(np.isfinite(scores), scores, np.nan)

    def build(self) -> Any:
        """Build an object of the class, in evaluation mode and on its device where it has methods for these."""
        with self.named_in_errors():
            named = inspect.signature(self.made).parameters
            model = self.made(path=self.path) if "path" in named else self.made()
            if hasattr(model, "eval"):
                model.eval()
            return model.to(self.device) if self.device is not None and hasattr(model, "to") else model

    def named_in_errors(self) -> AbstractContextManager[None]:
        """A context in which what the class raises ends the run with its file and line."""
        return stopping_the_run(f"custom reward model {self.reference!r}", file_of(self.made))

    def encode(self, conversation: Conversation) -> list[int]:
        """Return the ids of a conversation, in the chat template if there is one."""
        tokenizer = self.tokenizer
        if tokenizer.has_chat_template:
            asked = fit_conversation([dict(message) for message in conversation[:-1]], tokenizer)
            return tokenizer.chat([*asked, conversation[-1]], generation_prompt=False)
        return encode_prompt_text("\n\n".join(message["content"] for message in conversation), tokenizer)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the model's folder, else of the policy's."""
        try:
            return load_tokenizer(self.path)
        except DataError:
            if self.policy_folder is None:
                raise ConfigError(f"custom reward model {self.reference!r}: {self.path} has no tokenizer") from None
            return load_tokenizer(str(self.policy_folder))

    def call(self, rows: Sequence[Sequence[int]], columns: Mapping[str, Sequence[Any]]) -> NDArray[np.float64]:
        """Score one batch ``[B]``."""
        ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
        mask = np.zeros_like(ids)
        for row, tokens in enumerate(rows):
            ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
        with self.named_in_errors(), nullcontext() if self.framework is None else self.framework.no_gradient():
            returned = self.model(
                input_ids=self.tensor(ids), attention_mask=self.tensor(mask), **self.read_columns(columns)
            )
            scores = as_array(returned["score"] if isinstance(returned, Mapping) else returned).reshape(-1)
        if len(scores) != len(rows):
            raise ConfigError(
                f"custom reward model {self.reference!r} returned {len(scores)} numbers for {len(rows)} conversations"
            )
        return scores

    def read_columns(self, columns: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
        """Return the columns that the class names, or all if it takes ``**kwargs``."""
        called = inspect.signature(getattr(self.model, "forward", self.model)).parameters
        takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in called.values())
        given = ("input_ids", "attention_mask")
        return {name: column for name, column in columns.items() if name not in given and (takes_all or name in called)}

    def tensor(self, array: NDArray[np.int64]) -> Any:
        """Return an array of the framework that the class or one of its bases belongs to; without one, the NumPy array."""
        return array if self.framework is None else self.framework.from_numpy(array, self.device)

    def release(self) -> None:
        """Free the object until the next call."""
        self.model = None
        gc.collect()


def as_array(values: Any) -> NDArray[np.float64]:
    """Return the numbers in float64 of a list, a NumPy array, or an array of a backend's framework."""
    if not isinstance(values, (np.ndarray, list, tuple, float, int)):
        backend = backend_of_type(type(values))
        values = values if backend is None else backend.to_numpy(values)
    return np.asarray(values, np.float64)
