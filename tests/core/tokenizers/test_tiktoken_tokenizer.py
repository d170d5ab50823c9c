from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

import pytest

from mindrlhf_grpo.errors import DataError
from mindrlhf_grpo.tokenizers.tokenizer import load_tokenizer

pytest.importorskip("tiktoken")

MERGES = [b"th", b"the", b" d", b" do", b" dog", b"12", b"123"]


def write_ranks(path: Path) -> str:
    """All 256 bytes, then a few merges: ranks 0..262."""
    tokens = [bytes([byte]) for byte in range(256)] + MERGES
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens)))
    return str(path)


def test_qwen_file(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_ranks(tmp_path / "qwen.tiktoken"))
    assert tokenizer.encode("the dog") == [257, 260]
    assert tokenizer.encode("<|im_start|>the<|im_end|><|endoftext|>") == [264, 257, 265, 263]
    assert tokenizer.encode("123") == [49, 50, 51]  # Qwen cuts numbers into digits, so no merge applies
    assert tokenizer.encode("e\u0301") == tokenizer.encode("\u00e9")  # NFC
    assert tokenizer.eos_ids == (265, 263)
    assert tokenizer.pad_id == 263
    assert tokenizer.vocab_size == 263 + 3 + 205


def test_glm4_file_is_told_from_sentencepiece_by_content(tmp_path: Path) -> None:
    write_ranks(tmp_path / "tokenizer.model")
    tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer.encode("[gMASK]<sop><|user|>\n12345") == [265, 267, 270, 10, 262, 52, 53]  # digits by threes
    assert tokenizer.eos_ids == (263, 270, 272)
    assert tokenizer.vocab_size == 263 + 14


def test_special_tokens_of_the_configuration_take_precedence(tmp_path: Path) -> None:
    write_ranks(tmp_path / "tokenizer.model")
    added = {"263": {"content": "<|end|>", "special": True}, "270": {"content": "<think>", "special": False}}
    config = {
        "eos_token": "<|end|>",
        "added_tokens_decoder": added,
        "chat_template": "{{ messages[0].content }}<|end|>",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer.chat([{"role": "user", "content": "the"}]) == [257, 263]
    assert [tokenizer.eos_ids, tokenizer.pad_id, tokenizer.vocab_size] == [(263,), 263, 271]
    assert tokenizer.decode([257, 270, 263]) == "the<think>"


def test_decode_and_piece_are_safe_inside_a_character_and_outside_the_vocabulary(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_ranks(tmp_path / "qwen.tiktoken"))
    robot = tokenizer.encode("🤖")
    assert tokenizer.decode(robot) == "🤖"
    assert tokenizer.decode(robot[:2]) == "�"
    assert [tokenizer.piece(token) for token in robot] == ["�"] * 4
    assert tokenizer.decode([257, 265, 99999, -1]) == "the"
    assert [tokenizer.piece(260), tokenizer.piece(265), tokenizer.piece(99999)] == [" dog", "<|im_end|>", ""]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"IQ== 0\nIg==\n", r"qwen\.tiktoken:2: not a line of 'base64 rank'"),
        (b"IQ== 0\n!!! 1\n", r"qwen\.tiktoken:2: not a line"),
        (b"IQ== 0\nIg== 5\n", "2 ranks that are not 0..1: the file is cut off or damaged"),
        (b"", "damaged"),
    ],
)
def test_a_damaged_file_is_named_with_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "qwen.tiktoken"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_tokenizer(str(path))


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    with pytest.raises(DataError, match=r"needs tiktoken: pip install 'mindrlhf-grpo\[tokenizers\]'"):
        load_tokenizer(write_ranks(tmp_path / "qwen.tiktoken"))
