"""The sizes of a model that its memory depends on, from its architecture and the shapes of its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..model_files.architecture import Architecture
from ..parallel.parameter_names import divided_axis

VISION = ("visual", "vision_tower", "multi_modal_projector")  # parts of names, for what reads images


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The sizes of a model that its memory depends on.

    Attributes:
        parameters: all weights, tied ones once.
        intermediate: inner width that a token passes in a layer, over all experts chosen for it.
        query, key: heads times head size, of queries and of keys (or values).
        largest: elements of the largest tensor.
        linear: (in + out) summed over the linear layers that all-linear LoRA adapts.
        adapted: weights of those layers.
        experts: weights of the routed experts, part of ``parameters``.
        embeddings: weights of the embedding, and of the output head where it is not tied.
        frozen: weights that are not trained.
        whole: weights that every rank of a tensor group holds: norms, what latent attention compresses with, routers, a
            vision tower.
        cached: numbers in the cache for each token and layer; 0: keys and values of width ``key``.
        vision: weights of the vision tower and its projector; the sizes after it are the tower's.
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
    whole: int = 0
    cached: int = 0
    vision: int = 0
    vision_layers: int = 0
    vision_hidden: int = 0
    vision_inner: int = 0

    @property
    def split(self) -> tuple[int, int, int]:
        """Weights that a tensor group cuts, those of routed experts, and those that all its ranks hold."""
        return self.parameters - self.experts - self.whole, self.experts, self.whole

    @property
    def trained(self) -> tuple[int, int, int]:
        """The same of the trained weights; what is frozen is taken for what all ranks hold, as a vision tower is."""
        held = max(self.whole - self.frozen, 0)
        return self.parameters - self.experts - self.frozen - held, self.experts, held

    @property
    def vision_trained(self) -> bool:
        """True where the vision tower is trained and keeps values for its backward pass."""
        return self.frozen < self.vision


def model_shape(
    architecture: Architecture, shapes: Mapping[str, tuple[int, ...]], frozen: Sequence[str] = ()
) -> ModelShape:
    """The sizes of a model from its architecture and its weights.

    Args:
        shapes: weight name -> shape, from the headers of files or from ``weights.weight_shapes``.
        frozen: prefixes of names of weights that are not trained; a leading ``model.`` may be left out.
    """
    repeated = {"lm_head.weight"} if architecture.tied and any("embed_tokens" in name for name in shapes) else set()
    sizes = {name: math.prod(shape) for name, shape in shapes.items() if name not in repeated}
    adapted = [shape for name, shape in shapes.items() if _is_linear(name, shape)]
    untrained = tuple(prefix.removeprefix("model.") for prefix in frozen)
    vision = architecture.vision

    def total(*parts: str) -> int:
        return sum(size for name, size in sizes.items() if any(part in name for part in parts))

    return ModelShape(
        parameters=sum(sizes.values()),
        layers=architecture.layers,
        hidden=architecture.hidden,
        intermediate=architecture.inner_width,
        query=architecture.query_width,
        key=architecture.key_width,
        vocabulary=architecture.vocabulary,
        largest=max(sizes.values(), default=0),
        linear=sum(sum(shape) for shape in adapted),
        adapted=sum(math.prod(shape) for shape in adapted),
        experts=total(".experts."),
        embeddings=total("embed_tokens", "lm_head"),
        frozen=sum(size for name, size in sizes.items() if name.removeprefix("model.").startswith(untrained)),
        whole=sum(size for name, size in sizes.items() if divided_axis(name, len(shapes[name])) is None),
        cached=architecture.cached_width,
        vision=total(*VISION),
        vision_layers=vision.layers if vision else 0,
        vision_hidden=vision.hidden if vision else 0,
        vision_inner=vision.inner if vision else 0,
    )


def _is_linear(name: str, shape: tuple[int, ...]) -> bool:
    """True for a weight that all-linear LoRA adapts: a matrix outside embeddings, output head and vision tower."""
    return len(shape) == 2 and not any(part in name for part in ("embed", "wte", "wpe", "lm_head", "norm", *VISION))
