"""Keys of models that also read images."""

from __future__ import annotations

from typing import Any, Literal

from .section import Section, key


class ImagesConfig(Section):
    """Images of the prompts. Rows without any are text prompts like all others."""

    column: str = key(
        "images",
        "Column with a prompt's images: one, a list, or nothing. An image is a path (from the folder of the data file), bytes, base64 text, a data URL, or a PIL image.",
        peers="verl: data.image_key; lightrft: --images_key",
    )
    limit: int = key(0, "Most images of a prompt; 0: any number.", peers="lightrft: --limit_mm_image_per_prompt", ge=0)
    markers: Literal["strip", "place"] = key(
        "strip",
        "Treatment of <image> written in a prompt's text. strip: it is removed, and images come before the text of the first user message; place: each is where an image goes.",
    )
    processor: dict[str, Any] = key(
        {},
        "Settings of the image processor in place of the model folder's own, {max_pixels: 602112} or {max_patches: 6}: how many tokens an image takes.",
        peers="verl: max_pixels; qwen-vl-utils: max_pixels",
    )


class FreezeConfig(Section):
    """Weights that are not trained."""

    prefixes: list[str] = key(
        ...,
        "Weights whose names start so keep their values; a leading model. may be left out: [visual] is the vision tower of Qwen2.5-VL, [vision_tower, multi_modal_projector] that of InternVL.",
        peers="lightrft: --freeze_prefix; verl: freeze_vision_tower",
        min_length=1,
    )
