"""Decoders that run the Hugging Face modules unchanged, adapters included: with a cache, and without one.

``CachedDecoder`` gives the model a cache with one row per slot, and masks for the length of each slot.
``RecomputeDecoder`` runs full sequences for every token: slow, but it works for any model.
Legend: n running slots (``0..n-1``), K heads, L places, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin
from transformers.modeling_layers import GradientCheckpointingLayer

from mindrlhf_grpo.errors import BackendError
from mindrlhf_grpo.types import IntArray

from ..models.hf import causal_lm_of, to_tensor
from ..models.vision import place_images, prompt_positions, vision_of
from .decoder import UnsupportedModel
from .kv_cache import PromptCache, SlotCache, round_up

PREFILL_TOKENS = 4096  # tokens computed at once


def last_logits(model: Any, input_ids: Tensor | None, **settings: Any) -> Tensor:
    """Logits ``[rows, V]`` float32 after the last token of ``[rows, L]``; settings go to the model's forward."""
    if "logits_to_keep" in inspect.signature(causal_lm_of(model).forward).parameters:
        settings["logits_to_keep"] = 1
    logits: Tensor = model(input_ids=input_ids, **settings).logits
    return logits[:, -1].float()


def equal_lengths(rows: Sequence[Sequence[int] | IntArray], tokens: int) -> list[list[int]]:
    """Group row indices by length, at most ``tokens`` tokens in a batch: no padding, so no mask."""
    batches: list[list[int]] = []
    for index in sorted(range(len(rows)), key=lambda row: (len(rows[row]), row)):
        length = len(rows[index])
        if not batches or len(rows[batches[-1][0]]) != length or (len(batches[-1]) + 1) * length > tokens:
            batches.append([])
        batches[-1].append(index)
    return batches


class RecomputeDecoder:
    """Implements ``decoder.Decoder`` without any cache: a prompt's state is the prompt."""

    name = "recompute"
    inference_mode = False

    def __init__(self, model: Any) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self.rows: list[list[int]] = []

    def weights(self) -> Mapping[str, Tensor] | None:
        return None

    def open(self, slots: int) -> None:
        self.rows = [[] for _ in range(slots)]

    def cache_bytes(self) -> int:
        return 0

    def close(self) -> None:
        self.rows = []

    def prefill(
        self, prompts: Sequence[IntArray], features: Sequence[Mapping[str, Any]] = ()
    ) -> tuple[list[IntArray], Tensor]:
        if any(features):
            raise BackendError(f"{type(self.model).__name__}: images can only be read by a decoder that keeps a cache")
        return list(prompts), self._forward(prompts)

    def fork(self, prompt: IntArray, slot: int) -> None:
        self.rows[slot] = [int(token) for token in prompt]

    def move(self, source: int, target: int) -> None:
        self.rows[target] = self.rows[source]

    def decode(self, tokens: Sequence[int], positions: Sequence[int]) -> Tensor:
        for row, token, position in zip(self.rows, tokens, positions, strict=False):
            row[position:] = [token]
        return self._forward(self.rows[: len(tokens)])

    def _forward(self, rows: Sequence[Sequence[int] | IntArray]) -> Tensor:
        results: dict[int, Tensor] = {}
        for batch in equal_lengths(rows, PREFILL_TOKENS):
            ids = torch.as_tensor(np.array([rows[index] for index in batch]), dtype=torch.long, device=self.device)
            results.update(zip(batch, last_logits(self.model, ids, use_cache=False), strict=True))
        return torch.stack([results[index] for index in range(len(rows))])


class CachedDecoder:
    """Implements ``decoder.Decoder`` through the model's own cache interface."""

    name = "cached"
    inference_mode = False  # a model may keep tensors it makes in forward

    def __init__(self, model: Any) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self.dtype = next(model.parameters()).dtype
        self.vision = vision_of(causal_lm_of(model))
        self.windows = windows_of(causal_lm_of(model).config.get_text_config())
        self.slots, self.cache, self.layers = 0, None, Cache(layers=[])
        self.position_offsets = torch.zeros(0, dtype=torch.long)  # [S], see PromptCache
        self.step = Step()
        self.recomputed = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]

    cache: SlotCache | None

    def weights(self) -> Mapping[str, Tensor] | None:
        return None

    def open(self, slots: int) -> None:
        if slots != self.slots:
            self.close()
        self.slots = slots
        self.position_offsets = torch.zeros(slots, dtype=torch.long, device=self.device)

    def cache_bytes(self) -> int:
        return 0 if self.cache is None else self.cache.nbytes

    def close(self) -> None:
        self.slots, self.cache, self.layers = 0, None, Cache(layers=[])

    def prefill(
        self, prompts: Sequence[IntArray], features: Sequence[Mapping[str, Any]] = ()
    ) -> tuple[list[PromptCache], Tensor]:
        states: dict[int, PromptCache] = {}
        logits: dict[int, Tensor] = {}
        for batch in equal_lengths(prompts, PREFILL_TOKENS):
            ids = np.stack([prompts[index] for index in batch])
            inputs, offsets = self._model_inputs(ids, [features[index] for index in batch] if any(features) else ())
            cache = DynamicCache()
            rows = self._logits(**inputs, past_key_values=cache)
            for row, index in enumerate(batch):
                states[index], logits[index] = prompt_cache(cache, row, ids.shape[1], offsets[row]), rows[row]
        order = range(len(prompts))
        return [states[index] for index in order], torch.stack([logits[index] for index in order])

    def _model_inputs(
        self, ids: NDArray[Any], features: Sequence[Mapping[str, Any]]
    ) -> tuple[dict[str, Tensor | None], Sequence[int]]:
        """The model's inputs for prompts ``[rows, P]``, and the position offset of each, see ``PromptCache``."""
        rows, length = ids.shape
        tokens = to_tensor(ids.astype(np.int64), self.device)
        images = place_images(
            list(ids), features, range(rows), range(0, rows * length, length), self.vision, self.device
        )
        if self.vision is None or images is None:
            return {"input_ids": tokens}, [0] * rows
        positions = np.stack(prompt_positions(list(ids), features, self.vision), axis=1)
        inputs = {"input_ids": None, "inputs_embeds": self.vision.embed(tokens, images)}
        if len(positions) > 1:
            inputs["position_ids"] = to_tensor(positions, self.device)
        return inputs, (positions.max(axis=(0, 2)) + 1 - length).tolist()

    def fork(self, prompt: PromptCache, slot: int) -> None:
        if self.cache is None:
            shapes = [(part.shape[0], part.shape[2]) for part in prompt.parts]
            self.cache = SlotCache(shapes, self.slots, prompt.parts[0].dtype, self.device)
            self.layers = Cache(layers=[SlotLayer(self.cache, 2 * i, self.step) for i in range(len(shapes) // 2)])
        self.cache.fork(prompt, slot)
        self.position_offsets[slot] = prompt.position_offset

    def move(self, source: int, target: int) -> None:
        if self.cache is not None:
            self.cache.move(source, target)
        self.position_offsets[target] = self.position_offsets[source]

    def decode(self, tokens: Sequence[int], positions: Sequence[int]) -> Tensor:
        if self.cache is None:
            raise RuntimeError("fork(prompt, slot) comes before decoding")
        self.cache.reserve(max(positions) + 1)
        ids, places = torch.tensor([tokens, positions], device=self.device)
        self.step.begin(places, min(round_up(max(positions) + 1), self.cache.length))
        return self._logits(
            input_ids=ids[:, None], attention_mask=self._masks(), past_key_values=self.layers,
            position_ids=(places + self.position_offsets[: len(places)])[:, None],
        )  # fmt: skip

    def _logits(self, **inputs: Any) -> Tensor:
        """``last_logits`` with a cache; layers that recompute activations in training would not fill one."""
        training = [layer for layer in self.recomputed if layer.training]
        for layer in training:
            layer.training = False
        try:
            return last_logits(self.model, **inputs, use_cache=True)
        finally:
            for layer in training:
                layer.training = True

    def _masks(self) -> Tensor | dict[str, Tensor]:
        """One mask, or one for each kind of layer where the kinds differ."""
        masks = {kind: self._mask(window) for kind, window in self.windows.items()}
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _mask(self, window: int | None) -> Tensor:
        """Additive mask ``[n, 1, 1, L]``: a slot sees its own place and earlier ones within the window."""
        distance = self.step.positions[:, None] - torch.arange(self.step.used, device=self.device)
        unseen = (distance < 0) if window is None else (distance < 0) | (distance >= window)
        mask = torch.zeros(unseen.shape, dtype=self.dtype, device=self.device)
        return mask.masked_fill_(unseen, torch.finfo(self.dtype).min)[:, None, None]


def windows_of(config: Any) -> dict[str, int | None]:
    """The sliding window of each kind of layer, None for full attention.

    Raises:
        UnsupportedModel: a kind of layer without a plain cache of keys and values.
    """
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["full_attention" if window is None else "sliding_attention"]
    windows = {"full_attention": None, "sliding_attention": window}
    unknown = sorted(set(kinds) - set(windows))
    if unknown:
        raise UnsupportedModel(f"layers of kind {', '.join(unknown)} keep no plain cache")
    return {kind: windows[kind] for kind in sorted(set(kinds))}


def prompt_cache(cache: DynamicCache, row: int, length: int, position_offset: int = 0) -> PromptCache:
    """Keys and values of one row of a newly filled cache, key before value, layer by layer.

    Raises:
        UnsupportedModel: the model did not fill a plain cache.
    """
    parts: list[Tensor] = []
    for layer in cache.layers:
        for values in (getattr(layer, "keys", None), getattr(layer, "values", None)):
            if values is None or values.dim() != 4 or values.shape[2] != length:
                raise UnsupportedModel("it keeps something else than keys and values of every token")
            parts.append(values[row].contiguous())
    if not parts:
        raise UnsupportedModel("it keeps no cache")
    return PromptCache(parts=tuple(parts), position_offset=position_offset)


class Step:
    """The current decoding step, shared by all layers of the cache."""

    def __init__(self) -> None:
        self.positions = torch.empty(0, dtype=torch.long)
        self.used = 0
        self.targets: dict[int, Tensor] = {}  # places to write, by number of heads

    def begin(self, positions: Tensor, used: int) -> None:
        """``positions`` ``[n]`` of the tokens being appended; ``used`` places are read."""
        self.positions, self.used, self.targets = positions, used, {}


class SlotLayer(CacheLayerMixin):
    """One layer of the slot cache in the interface of transformers; ``first`` is the part of its keys, values come next."""

    is_sliding = False

    def __init__(self, cache: SlotCache, first: int, step: Step) -> None:
        super().__init__()
        self.cache, self.first, self.step = cache, first, step
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the cache is made from the shapes of the prompts."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Store ``[n, K, 1, D]`` at each slot's place; return all places in use ``[n, K, L, D]``."""
        return self._store(self.first, key_states), self._store(self.first + 1, value_states)

    def _store(self, part: int, states: Tensor) -> Tensor:
        running, heads = states.shape[:2]
        if heads not in self.step.targets:
            self.step.targets[heads] = self.cache.places(self.step.positions, heads)
        self.cache.write(part, self.step.targets[heads], states[:, :, 0])
        return self.cache.read(part, running, self.step.used)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.step.used, 0

    def get_seq_length(self) -> int:
        return self.step.used - 1

    def get_max_length(self) -> int:
        return -1
