"""Name the colour of a picture, or of a word: one letter. And tiny random vision-language models that can learn it.

    python examples/vision/task.py models/tiny-vision

writes the model that `train.yaml` beside this file trains.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (40, 70, 220), "white": (240, 240, 240)}
SIDE = 16  # pixels of a picture: 16 patches, of which four each are one token
LETTERS = "abcdefghijklmnopqrstuvwxyz?: \n"
SPECIAL = ("<pad>", "<eos>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<IMG_CONTEXT>", "<img>", "</img>")
TEMPLATE = (
    "{% for message in messages %}{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}{% if part.type == 'image' %}PLACEHOLDER{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}{% endfor %}: "
)


def rows(count: int = 400, seed: int = 0, text_share: float = 0.25) -> list[dict[str, Any]]:
    """Return rows with noisy squares of one colour, and some prompts without a picture."""
    draw = np.random.default_rng(seed)
    made = []
    for name in draw.choice(list(COLOURS), count).tolist():
        if draw.random() < text_share:
            made.append({"prompt": f"{name}?", "images": [], "answer": name[0]})
            continue
        pixels = draw.normal(COLOURS[name], 20.0, (SIDE, SIDE, 3)).clip(0, 255).astype(np.uint8)
        made.append({"prompt": "<image>which?", "images": [Image.fromarray(pixels)], "answer": name[0]})
    return made


def right(completions: list[str], answer: list[str]) -> list[float]:
    """Return 1 for the first letter of the colour, else 0."""
    return [float(text.strip()[:1] == letter) for text, letter in zip(completions, answer, strict=True)]


def write_model(folder: str | Path, family: str = "qwen2_5_vl", seed: int = 0) -> Path:
    """Write a random model of two language layers and two vision layers, with tokenizer and image processor."""
    import torch
    from transformers import AutoModelForImageTextToText

    tokenizer = write_tokenizer(folder, family)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    config, processor = (qwen if family == "qwen2_5_vl" else internvl)(ids, len(tokenizer))
    torch.manual_seed(seed)
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return Path(folder)


def write_tokenizer(folder: str | Path, family: str) -> Any:
    """Return a tokenizer with a token per character, and those around images."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {piece: index for index, piece in enumerate([*SPECIAL, *LETTERS])}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    plain.pre_tokenizer = pre_tokenizers.Split(Regex("(?m)."), "isolated")
    plain.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", eos_token="<eos>", additional_special_tokens=list(SPECIAL[2:])
    )
    image = "<|vision_start|><|image_pad|><|vision_end|>" if family == "qwen2_5_vl" else "<IMG_CONTEXT>"
    tokenizer.chat_template = TEMPLATE.replace("PLACEHOLDER", image)
    tokenizer.save_pretrained(folder)
    return tokenizer


def language(vocabulary: int) -> dict[str, Any]:
    """Return the sizes of the language part."""
    return {
        "vocab_size": vocabulary, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "bos_token_id": None,
        "eos_token_id": 1, "pad_token_id": 0, "initializer_range": 0.2, "tie_word_embeddings": False,
    }  # fmt: skip


def qwen(ids: dict[str, int], vocabulary: int) -> tuple[Any, Any]:
    """Return configuration and image processor of Qwen2.5-VL."""
    from transformers import Qwen2_5_VLConfig
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    text = {
        **language(vocabulary),
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
    }
    vision = {
        "depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "patch_size": 4,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 16, "fullatt_block_indexes": [1],
        "out_hidden_size": 32, "initializer_range": 0.2,
    }  # fmt: skip
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, image_token_id=ids["<|image_pad|>"], video_token_id=vocabulary - 1,
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
    )  # fmt: skip
    processor = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, min_pixels=64, max_pixels=SIDE * SIDE)
    return config, processor


def internvl(ids: dict[str, int], vocabulary: int) -> tuple[Any, Any]:
    """Return configuration and image processor of InternVL."""
    from transformers import InternVLConfig
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    vision = {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
        "image_size": [SIDE, SIDE], "patch_size": [4, 4], "initializer_range": 0.2,
    }  # fmt: skip
    config = InternVLConfig(
        text_config={"model_type": "qwen2", **language(vocabulary)}, vision_config=vision,
        image_token_id=ids["<IMG_CONTEXT>"], downsample_ratio=0.5, image_seq_length=4, tie_word_embeddings=False,
    )  # fmt: skip
    processor = GotOcr2ImageProcessorPil(size={"height": SIDE, "width": SIDE}, min_patches=1, max_patches=4)
    return config, processor


if __name__ == "__main__":
    print(write_model(*sys.argv[1:]))
