"""The architecture of a model as one record, read from ``config.json`` by ``families.read_architecture``.

Whatever depends on a model's structure derives from it: the names and shapes of the weights (``weights.py``), the
memory prediction, MindSpore's cells, the NumPy reference model. H, K: query and key/value heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .rotary import Rotary

Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentSizes:
    """Sizes of multi-head latent attention (DeepSeek-V2, https://arxiv.org/abs/2405.04434).

    Attributes:
        query_rank: width of the compressed query; None: queries are projected directly.
        key_value_rank: width of the compressed keys and values.
        plain_size: part of a head's query and key that is not rotated; the rest is ``rotary.size``.
    """

    query_rank: int | None
    key_value_rank: int
    plain_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertSizes:
    """Mixture of experts with sigmoid routing (DeepSeek-V3, https://arxiv.org/abs/2412.19437).

    Attributes:
        count, chosen: routed experts of a layer, and how many of them compute a token.
        groups, chosen_groups: the experts are chosen from the best groups.
        inner: inner width of one routed expert; ``shared``: of the shared experts together.
        normalised: whether the shares of the chosen experts are divided by their sum; ``scale`` multiplies them.
        first_layer: the first layer with experts; the layers before it have a dense feed-forward.
    """

    count: int
    chosen: int
    groups: int
    chosen_groups: int
    inner: int
    shared: int
    normalised: bool
    scale: float
    first_layer: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionTower:
    """The part of a model that reads images; its sizes in memory, and ``config`` for the shapes of its weights."""

    layers: int
    hidden: int
    inner: int
    config: Config = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Variant:
    """A setting of ``config.json`` that changes the computation beyond what the record describes.

    Sizes and weights are as described. A backend that builds its cells from the record alone must refuse the model.
    """

    setting: str
    described: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """Sizes and switches of a decoder.

    Attributes:
        inner: inner width of a dense feed-forward.
        key_size: size of a head's queries and keys; ``value_size``: of its values.
        input_bias: biases of the query, key and value projections (with latent attention: of the two that compress).
        output_bias, feed_forward_bias: biases of the output projection, and of the feed-forward's projections.
        head_norms: queries and keys are normed per head.
        sandwich_norms: the results of attention and feed-forward are normed too, before they are added.
        fused_gate_up: the feed-forward's gate and up projection are one matrix, in this order.
        further_layers: files may hold layers after the last one, for multi-token prediction; they are not used.
        labels: outputs of the score head of a sequence classifier, which has no vocabulary head; 0: a causal LM.
        headless: the body alone, whatever head the files hold besides.
        vision: the part that reads images, None for a model of text.
        variants: settings beyond this description.
        config: the ``config.json`` it was read from.
    """

    family: str
    vocabulary: int
    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    key_size: int
    value_size: int
    attention_scale: float
    norm_eps: float
    rotary: Rotary
    tied: bool = False
    input_bias: bool = False
    output_bias: bool = False
    feed_forward_bias: bool = False
    head_norms: bool = False
    sandwich_norms: bool = False
    fused_gate_up: bool = False
    latent: LatentSizes | None = None
    experts: ExpertSizes | None = None
    further_layers: bool = False
    labels: int = 0
    headless: bool = False
    vision: VisionTower | None = None
    variants: tuple[Variant, ...] = ()
    config: Config = field(default_factory=dict, compare=False, repr=False)

    @property
    def query_width(self) -> int:
        """Numbers of a token's queries in one layer."""
        return self.heads * self.key_size

    @property
    def key_width(self) -> int:
        """Numbers of a token's keys in one layer; latent attention expands them for every head."""
        return self.kv_heads * self.key_size

    @property
    def cached_width(self) -> int:
        """Numbers in the KV cache for each token and layer."""
        return self.kv_heads * (self.key_size + self.value_size)

    @property
    def inner_width(self) -> int:
        """Inner width that one token passes in the widest feed-forward: of its chosen and the shared experts, or the dense one."""
        if self.experts is None:
            return self.inner
        return max(self.inner, self.experts.chosen * self.experts.inner + self.experts.shared)

    @property
    def body(self) -> str:
        """Prefix of the language model's weights."""
        return "model.language_model" if self.vision else "model"
