from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from mindrlhf_grpo.errors import DataError
from mindrlhf_grpo.tokenizers.tokenizer import Tokenizer, load_tokenizer
from tests.support.tiny_tokenizers import TEXT

sentencepiece = pytest.importorskip("sentencepiece")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As Llama 2's: BPE, byte fallback, <unk> <s> </s> as 0 1 2."""
    path = tmp_path_factory.mktemp("sentencepiece") / "tokenizer.model"
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXT),
            model_writer=file,
            vocab_size=330,
            model_type="bpe",
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            minloglevel=2,
        )
    return path


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> Tokenizer:
    return load_tokenizer(str(model.parent))


def test_facts_of_a_bare_file(tokenizer: Tokenizer) -> None:
    assert tokenizer.eos_ids == (2,)
    assert tokenizer.pad_id == 2
    assert tokenizer.vocab_size == 330
    assert not tokenizer.has_chat_template
    with pytest.raises(DataError, match="has no chat template"):
        tokenizer.chat([{"role": "user", "content": "x"}])


def test_text_survives_a_round_trip(tokenizer: Tokenizer) -> None:
    for text in ("the quick brown fox", "naïve 日本 🤖", ""):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_control_tokens_are_recognised_in_text_and_not_decoded(tokenizer: Tokenizer) -> None:
    dog = tokenizer.encode("dog")
    assert tokenizer.encode("<s>dog</s><s>dog") == [1, *dog, 2, 1, *dog]
    assert tokenizer.decode([1, *dog, 2]) == "dog"
    assert [tokenizer.piece(1), tokenizer.piece(2)] == ["<s>", "</s>"]


def test_pieces_show_spaces_and_are_safe_inside_a_character(tokenizer: Tokenizer) -> None:
    assert "".join(tokenizer.piece(token) for token in tokenizer.encode("the lazy dog")) == " the lazy dog"
    assert [tokenizer.piece(token) for token in tokenizer.encode("🤖")[-4:]] == ["�"] * 4
    assert tokenizer.piece(tokenizer.encode("\n")[-1]) == "\n"
    assert [tokenizer.piece(9999), tokenizer.decode([9999])] == ["", ""]


def test_a_folder_with_template_and_added_tokens(model: Path, tmp_path: Path) -> None:
    shutil.copy(model, tmp_path / "tokenizer.model")
    config = {
        "bos_token": "<s>",
        "eos_token": {"content": "</s>"},
        "chat_template": "{{ bos_token }}[INST] {{ messages[0].content }} [/INST]",
        "added_tokens_decoder": {
            "330": {"content": "<tool>", "special": False},
            "331": {"content": "<|end|>", "special": True},
        },
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 331]}')
    tokenizer = load_tokenizer(str(tmp_path))
    assert [tokenizer.vocab_size, tokenizer.eos_ids] == [332, (2, 331)]
    assert tokenizer.chat([{"role": "user", "content": "dog"}]) == [1, *tokenizer.encode("[INST] dog [/INST]")]
    assert tokenizer.decode([*tokenizer.encode("dog"), 330, 331]) == "dog<tool>"


def test_a_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"\x00damaged\x00")
    with pytest.raises(DataError, match="neither a sentencepiece model nor a tiktoken file"):
        load_tokenizer(str(tmp_path))


def test_a_missing_package_names_the_extra(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(DataError, match=r"needs sentencepiece: pip install 'mindrlhf-grpo\[tokenizers\]'"):
        load_tokenizer(str(model))
