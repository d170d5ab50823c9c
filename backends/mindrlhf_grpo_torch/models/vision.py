"""Models that read images: embeddings of images in place of their tokens, and rotary positions beside an image.

A prompt's images are encoded once for all its completions, in both layouts and in generation. Only prompts decide
which tokens stand for images: a completion may contain the same token by chance, and then it is a token like others.
Legend: P prompt tokens, A axes of a position (3 where height and width of an image count, else 1), I image tokens, E
hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mindrlhf_grpo.batches.packing import Places, image_places, text_positions
from mindrlhf_grpo.errors import BackendError
from mindrlhf_grpo.types import IntArray

from .hf import to_tensor

MISFIT = "the image processor's settings do not fit the model"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedImages:
    """Images of some prompts, and the places of their embeddings.

    Attributes:
        features: the arrays of each prompt that has images.
        embeddings, places, sources: see ``ImagePlaces``.
    """

    features: tuple[Mapping[str, Any], ...]
    embeddings: int
    places: Tensor
    sources: Tensor


def vision_of(model: Any) -> Vision | None:
    """The image side of a Hugging Face model without adapters; None for one that reads text only."""
    body = getattr(model, model.base_model_prefix)
    token = getattr(model.config, "image_token_id", None)
    return Vision(body, int(token)) if token is not None and hasattr(body, "get_image_features") else None


def language_part(model: nn.Module) -> Any:
    """The part of a model that computes tokens: the model itself where it reads text only."""
    return getattr(getattr(model, str(model.base_model_prefix)), "language_model", model)


class Vision:
    """The image side of one model.

    Args:
        body: the Hugging Face model below its head.
        token: id of an image's tokens.
    """

    def __init__(self, body: Any, token: int) -> None:
        self.body, self.token = body, token

    def positions(self, ids: IntArray, features: Mapping[str, Any]) -> NDArray[np.int64]:
        """Rotary positions ``[A, P]`` of a prompt; the token after it stands at the largest plus one.

        M-RoPE (Qwen2-VL, https://arxiv.org/abs/2409.12191): an image's tokens differ by row and column, so that an image
        takes fewer positions than tokens.
        """
        if not hasattr(self.body, "get_rope_index"):
            return np.arange(len(ids))[None]
        if not features:
            return np.tile(np.arange(len(ids)), (3, 1))
        row = torch.as_tensor(np.asarray(ids, np.int64))[None]
        grids = {name: torch.from_numpy(np.asarray(grid)) for name, grid in features.items() if name.endswith("_thw")}
        try:
            positions, _ = self.body.get_rope_index(row, mm_token_type_ids=(row == self.token).long(), **grids)
        except (RuntimeError, StopIteration) as error:
            raise BackendError(f"{MISFIT}: {' '.join(str(error).split())[:200]}") from None
        return np.asarray(positions[:, 0].numpy(), dtype=np.int64)

    def embed(self, ids: Tensor, images: PlacedImages) -> Tensor:
        """Embeddings ``[..., E]`` of ids ``[...]``, with images in their places."""
        embedded = self.body.get_input_embeddings()(ids)
        encoded = self.embeddings(images.features)
        if len(encoded) != images.embeddings:
            raise BackendError(
                f"{MISFIT}: {len(encoded)} embeddings of the images, {images.embeddings} tokens for them in the prompts"
            )
        chosen = encoded.index_select(0, images.sources).to(embedded.dtype)
        return torch.index_copy(embedded.flatten(0, -2), 0, images.places, chosen).view_as(embedded)

    def embeddings(self, features: Sequence[Mapping[str, Any]]) -> Tensor:
        """Embeddings ``[I, E]`` of the images of several prompts, one after the other."""
        device = next(self.body.parameters()).device
        joined = {
            name: to_tensor(np.concatenate([np.asarray(arrays[name]) for arrays in features]), device)
            for name in features[0]
        }
        encoded = self.body.get_image_features(**joined, return_dict=True).pooler_output
        parts = encoded if isinstance(encoded, tuple | list) else [encoded]
        return torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])

    def embed_text(self, ids: Tensor) -> Tensor:
        """``[..., E]`` of ids without images, by a pass through the vision tower that adds zero.

        Where weights are sharded, ranks without images must gather the tower's weights, and give it a gradient, as ranks
        with images do.
        """
        embedded: Tensor = self.body.get_input_embeddings()(ids)
        return embedded + (self.embeddings([self.blank()]).sum() * 0.0).to(embedded.dtype)

    def blank(self) -> dict[str, NDArray[Any]]:
        """The arrays of the smallest image there is, all zeros."""
        config = self.body.config.vision_config
        if not hasattr(self.body, "get_rope_index"):
            size = config.image_size
            sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
            return {"pixel_values": np.zeros((1, config.num_channels, *sides), np.float32)}
        merge, channels = config.spatial_merge_size, getattr(config, "in_channels", 3)
        values = channels * config.temporal_patch_size * config.patch_size**2
        return {
            "pixel_values": np.zeros((merge**2, values), np.float32),
            "image_grid_thw": np.array([[1, merge, merge]], np.int64),
        }


def prompt_positions(
    prompts: Sequence[IntArray], features: Sequence[Mapping[str, Any]], vision: Vision | None
) -> list[Places]:
    """Rotary positions ``[A, P]`` of every prompt."""
    if vision is None or not any(features):
        return text_positions(prompts)
    return [vision.positions(prompt, images) for prompt, images in zip(prompts, features, strict=True)]


def place_images(
    prompts: Sequence[IntArray],
    features: Sequence[Mapping[str, Any]],
    copies: Sequence[int] | Places,
    copy_starts: Sequence[int] | Places,
    vision: Vision | None,
    device: torch.device,
) -> PlacedImages | None:
    """The images of copies of prompts, see ``packing.image_places``; None without images."""
    if vision is None or not any(features):
        return None
    images = image_places(prompts, [bool(arrays) for arrays in features], vision.token, copies, copy_starts)
    return PlacedImages(
        features=tuple(arrays for arrays in features if arrays),
        embeddings=images.embeddings,
        places=to_tensor(images.places, device),
        sources=to_tensor(images.sources, device),
    )
