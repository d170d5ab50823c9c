"""The sizes of a model that memory depends on, from its config.json and the shapes of its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .weight_shapes import VISION, Config, text_part


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The sizes that memory depends on.

    Attributes:
        parameters: all weights, tied ones once.
        intermediate: inner width that a token passes through in a layer, over all experts chosen for it.
        query, key: heads times head size, of queries and of keys (or values).
        largest: elements of the largest tensor.
        linear: (in + out) summed over the linear layers that all-linear LoRA adapts.
        adapted: weights of those layers.
        experts: weights of the routed experts, of ``parameters``.
        embeddings: weights of the embedding and of an output head of its own.
        frozen: weights that are not trained.
        cached: numbers in the cache for each token and layer; 0: keys and values of width ``key``.
        vision: weights of the vision tower and its projector; then its sizes.
    """

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    query: int
    key: int
    vocabulary: int
    largest: int
    linear: int
    adapted: int
    experts: int = 0
    embeddings: int = 0
    frozen: int = 0
    cached: int = 0
    vision: int = 0
    vision_layers: int = 0
    vision_hidden: int = 0
    vision_inner: int = 0

    @property
    def split(self) -> tuple[int, int]:
        """Weights outside of routed experts, and in them."""
        return self.parameters - self.experts, self.experts

    @property
    def trained(self) -> tuple[int, int]:
        """The same of those that are trained."""
        return self.parameters - self.experts - self.frozen, self.experts

    @property
    def vision_trained(self) -> bool:
        """Whether the tower is, and so keeps what its backward pass needs."""
        return self.frozen < self.vision


def shape_of(config: Config, shapes: Mapping[str, tuple[int, ...]], frozen: Sequence[str] = ()) -> ModelShape:
    """Sizes from a model's config.json and its weights.

    Args:
        config: ``config.json``.
        shapes: weight name -> shape, from the headers of files or from ``weight_shapes``.
        frozen: prefixes of names of weights that are not trained; a leading ``model.`` may be left out.

    Raises:
        KeyError: config.json does not name a width that is needed.
    """
    text, vision = text_part(config), config.get("vision_config") or {}
    tied = bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False)))
    repeated = {"lm_head.weight"} if tied and any("embed_tokens" in name for name in shapes) else set()
    sizes = {name: math.prod(shape) for name, shape in shapes.items() if name not in repeated}
    adapted = [shape for name, shape in shapes.items() if _is_linear(name, shape)]
    query, key, cached = attention_widths(text)

    def counted(*parts: str) -> int:
        return sum(size for name, size in sizes.items() if any(part in name for part in parts))

    return ModelShape(
        parameters=sum(sizes.values()),
        layers=text["num_hidden_layers"],
        hidden=text["hidden_size"],
        intermediate=inner_width(text),
        query=query,
        key=key,
        vocabulary=text["vocab_size"],
        largest=max(sizes.values(), default=0),
        linear=sum(sum(shape) for shape in adapted),
        adapted=sum(math.prod(shape) for shape in adapted),
        experts=counted(".experts."),
        embeddings=counted("embed_tokens", "lm_head"),
        frozen=sum(size for name, size in sizes.items() if name.removeprefix("model.").startswith(
            tuple(prefix.removeprefix("model.") for prefix in frozen)
        )),
        cached=cached,
        vision=counted(*VISION),
        vision_layers=vision.get("depth") or vision.get("num_hidden_layers", 0),
        vision_hidden=vision.get("hidden_size", 0),
        vision_inner=vision.get("intermediate_size") or 4 * vision.get("hidden_size", 0),
    )  # fmt: skip


def attention_widths(text: Config) -> tuple[int, int, int]:
    """Widths of queries, of keys, and of what is cached for each token and layer.

    With multi-head latent attention keys and values of all heads are cached as they are expanded.
    """
    heads = text["num_attention_heads"]
    if text.get("kv_lora_rank"):
        query = heads * (text["qk_nope_head_dim"] + text["qk_rope_head_dim"])
        return query, query, query + heads * text["v_head_dim"]
    head = text.get("head_dim") or text["hidden_size"] // heads
    key = (text.get("num_key_value_heads") or heads) * head
    return heads * head, key, 2 * key


def inner_width(text: Config) -> int:
    """Inner width of the feed-forward that one token passes: of the experts it is sent to, and those it always passes."""
    dense: int = text.get("intermediate_size") or 4 * text["hidden_size"]
    if not text.get("n_routed_experts"):
        return dense
    chosen: int = text["num_experts_per_tok"] + text.get("n_shared_experts", 0)
    inner: int = text["moe_intermediate_size"]
    return max(dense, chosen * inner)


def _is_linear(name: str, shape: tuple[int, ...]) -> bool:
    """Whether all-linear LoRA adapts this weight: every matrix but embeddings, the output projection and the vision tower."""
    return len(shape) == 2 and not any(part in name for part in ("embed", "wte", "wpe", "lm_head", "norm", *VISION))
