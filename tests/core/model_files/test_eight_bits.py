"""Weights of eight bits with a factor for each block, as DeepSeek-V3 is published, are multiplied out as they are read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mindrlhf_grpo.errors import CheckpointError
from mindrlhf_grpo.model_files.families import read_architecture
from mindrlhf_grpo.model_files.folder import read_header, read_shapes
from mindrlhf_grpo.model_files.safetensors import E4M3, dequantised, read_tensor
from mindrlhf_grpo.testing.numpy_model.eight_bits import BLOCKS, write_eight_bits

CONFIG = {
    "model_type": "deepseek_v3", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4,
}  # fmt: skip


def test_every_pattern_is_its_published_number() -> None:
    patterns = {0x00: 0.0, 0x01: 2.0**-9, 0x07: 7 * 2.0**-9, 0x08: 2.0**-6, 0x38: 1.0, 0x3C: 1.5, 0x7E: 448.0}
    assert {bits: float(E4M3[bits]) for bits in patterns} == patterns
    assert float(E4M3[0x80 | 0x38]) == -1.0
    assert [bits for bits in range(256) if np.isnan(E4M3[bits])] == [0x7F, 0xFF]


def test_each_block_of_128_by_128_has_its_factor() -> None:
    bits = np.full((130, 300), 0x3C, np.uint8)  # 1.5
    values = dequantised(bits, np.array([[1, 2, 4], [10, 20, 40]], np.float32))
    assert values.dtype == np.float32
    assert values[0, [0, 127, 128, 255, 256, 299]].tolist() == [1.5, 1.5, 3.0, 3.0, 6.0, 6.0]
    assert values[[127, 128, 129], 299].tolist() == [6.0, 60.0, 60.0]
    with pytest.raises(
        CheckpointError, match=r"\[130, 300\] has block scales \[2, 2\]; accepted: \[2, 3\], one for each"
    ):
        dequantised(bits, np.ones((2, 2), np.float32))


def test_scales_belong_to_their_weights_and_are_no_weights_themselves(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    exact = {"a.weight": random.standard_normal((200, 130)).astype(np.float32), "b.weight": np.ones(5, np.float32)}
    written = write_eight_bits(tmp_path / "model.safetensors", exact, eight={"a.weight"})
    assert read_shapes(tmp_path) == {"a.weight": (200, 130), "b.weight": (5,)}
    header = read_header(tmp_path / "model.safetensors")
    found = read_tensor(tmp_path / "model.safetensors", header["a.weight"])
    np.testing.assert_array_equal(found, written["a.weight"])
    assert np.abs(found - exact["a.weight"]).max() <= 2.0**-4 * np.abs(exact["a.weight"]).max()
    write_eight_bits(tmp_path / "model.safetensors", exact, eight={"a.weight"}, scales=False)
    bare = read_header(tmp_path / "model.safetensors")["a.weight"]
    with pytest.raises(CheckpointError, match="weights of type F8_E4M3 cannot be used"):
        read_tensor(tmp_path / "model.safetensors", bare)


def test_the_published_setting_is_no_variant_and_others_are() -> None:
    published = read_architecture({**CONFIG, "quantization_config": BLOCKS})
    assert published.variants == ()
    assert "quantization_config" not in json.dumps(dict(published.config))
    other = read_architecture({**CONFIG, "quantization_config": {**BLOCKS, "weight_block_size": [64, 64]}})
    assert [variant.setting for variant in other.variants] == ["quantization_config"]
