"""The input of vision-language models: arrays from images, and the image tokens of a prompt.

The model folder's image processor in transformers makes the arrays (its Pillow form, which gives the same numbers on
every machine). Templates write one placeholder token per image. It is expanded to the image's tokens here, once and
among ids: text is never expanded, so nothing can be expanded twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, DataError
from ..model_files.folder import PROCESSOR_FILES, read_model_config
from ..tokenizers.tokenizer import Tokenizer
from .rows import unknown

if TYPE_CHECKING:
    from PIL.Image import Image

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTokens:
    """The image tokens of one model family.

    Attributes:
        placeholder: the text of an image in a prompt that no template renders.
        token: id of the placeholder, and of each of the image's tokens.
        before, after: ids around an image's tokens that templates leave out.
        count: a function from the processor's arrays to the number of tokens of each image.
        features: names of the arrays that the model reads.
        call: settings of every call of the image processor.
    """

    placeholder: str
    token: int
    count: Callable[[Arrays], list[int]]
    features: tuple[str, ...]
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    call: Mapping[str, Any] = field(default_factory=dict)

    def expanded(self, ids: Sequence[int], counts: Sequence[int]) -> list[int]:
        """Replace the placeholder of each image by its tokens.

        Raises:
            DataError: the numbers of placeholders and of images differ.
        """
        placeholders = sum(token == self.token for token in ids)
        if placeholders != len(counts):
            raise DataError(
                f"the prompt has {placeholders} image tokens before expansion for {len(counts)} images: "
                f"its text must not hold {self.placeholder!r} or a part of it, and its chat template must write one for each image"
            )
        remaining = iter(counts)
        expanded: list[int] = []
        for token in ids:
            expanded += [*self.before, *[token] * next(remaining), *self.after] if token == self.token else [token]
        return expanded


def qwen_tokens(config: Mapping[str, Any], tokenizer: Tokenizer, processor: Any) -> ImageTokens:
    """Return the image tokens of Qwen2-VL and Qwen2.5-VL, in which a square of ``merge_size`` patches is one token."""
    merged = int(processor.merge_size) ** 2
    return ImageTokens(
        placeholder="<|vision_start|><|image_pad|><|vision_end|>",
        token=int(config["image_token_id"]),
        count=lambda arrays: [int(grid.prod()) // merged for grid in arrays["image_grid_thw"]],
        features=("pixel_values", "image_grid_thw"),
    )


def internvl_tokens(config: Mapping[str, Any], tokenizer: Tokenizer, processor: Any) -> ImageTokens:
    """Return the image tokens of InternVL, which cuts an image into tiles of equal numbers of tokens and a thumbnail."""
    vision = config["vision_config"]
    sides = [
        size // patch for size, patch in zip(_pair(vision["image_size"]), _pair(vision["patch_size"]), strict=True)
    ]
    tile = round(sides[0] * sides[1] * float(config.get("downsample_ratio", 0.5)) ** 2)
    start, end = (tuple(tokenizer.encode(text)) for text in ("<img>", "</img>"))
    if len(start) != 1 or len(end) != 1:
        raise DataError("the tokenizer has no tokens <img> and </img>: it belongs to another model")
    return ImageTokens(
        placeholder="<IMG_CONTEXT>",
        token=int(config["image_token_id"]),
        count=lambda arrays: [int(tiles) * tile for tiles in arrays["num_patches"]],
        features=("pixel_values",),
        before=start,
        after=end,
        call={"crop_to_patches": True},
    )


PACKAGES = {"PIL": "pillow"}  # module -> package, where the names differ
FAMILIES = {"qwen2_vl": qwen_tokens, "qwen2_5_vl": qwen_tokens, "internvl": internvl_tokens}


class ImageProcessor:
    """The image processor of a model folder.

    Raises:
        ConfigError: the model reads text only, or its family is not supported.
        DataError: the processor does not have a setting, or a file is broken.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], tokenizer: Tokenizer) -> None:
        config = read_model_config(folder)
        family = str(config.get("model_type"))
        self._check(folder, family)
        check_installed("transformers", "PIL")
        from transformers import AutoImageProcessor

        try:
            self._processor: Any = AutoImageProcessor.from_pretrained(str(folder), backend="pil", **settings)
        except Exception as error:  # transformers raises whatever the processor's constructor raises
            raise DataError(f"transformers cannot read the image processor of {folder}: {error}") from error
        accepted = self._processor.valid_kwargs.__annotations__
        for name in settings:
            if name not in accepted:
                raise unknown("data.images.processor: setting", name, accepted)
        self.tokens: ImageTokens = FAMILIES[family](config, tokenizer, self._processor)

    @staticmethod
    def _check(folder: Path, family: str) -> None:
        if not any((folder / name).is_file() for name in PROCESSOR_FILES):
            raise ConfigError(
                f"data.images needs a model that reads images; {folder} has no image processor "
                f"({', '.join(PROCESSOR_FILES)}): the model reads text only"
            )
        if family not in FAMILIES:
            hint = "; its weights are published under the same name with -hf, too" if family == "internvl_chat" else ""
            raise ConfigError(
                f"data.images: models of type {family!r} are not known here; accepted: {', '.join(FAMILIES)}{hint}"
            )

    def read(self, images: Sequence[Image]) -> tuple[dict[str, NDArray[Any]], list[int]]:
        """Return the arrays of a prompt's images and the number of tokens of each.

        Raises:
            DataError: the processor refuses an image (too narrow, or empty) or the value of a setting.
        """
        if not images:
            return {}, []
        try:
            arrays = self._processor(images=list(images), return_tensors="np", **self.tokens.call)
        except Exception as error:  # the processor's own checks, and NumPy's and Pillow's
            raise DataError(f"the image processor refuses the images: {error}") from error
        features = {name: np.asarray(arrays[name]) for name in self.tokens.features}
        return features, self.tokens.count({name: np.asarray(array) for name, array in arrays.items()})


def check_installed(*modules: str) -> None:
    """Raise ConfigError if a package that images need is missing."""
    missing = [PACKAGES.get(module, module) for module in modules if find_spec(module) is None]
    if missing:
        raise ConfigError(f"data.images needs {' and '.join(missing)}: pip install {' '.join(missing)}")


def _pair(size: Any) -> tuple[int, int]:
    height, width = size if isinstance(size, Sequence) else (size, size)
    return int(height), int(width)
