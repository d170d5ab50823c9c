from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mindrlhf_grpo.errors import DataError
from mindrlhf_grpo.tokenizers.tokenizer import Tokenizer, load_tokenizer
from tests.support.tiny_tokenizers import CHATML, write_huggingface

MESSAGES = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "what is 12 + 34?"}]
RENDERED = (
    "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nwhat is 12 + 34?<|im_end|>\n<|im_start|>assistant\n"
)


def test_facts_of_the_folder(chat_tokenizer: Tokenizer) -> None:
    assert chat_tokenizer.eos_ids == (2, 0)  # generation_config.json lists both; eos_token is 2 again
    assert chat_tokenizer.pad_id == 2
    assert chat_tokenizer.vocab_size == 320
    assert chat_tokenizer.has_chat_template


def test_text_survives_a_round_trip(chat_tokenizer: Tokenizer) -> None:
    for text in ("the quick brown fox", " leading space", "naïve 日本 🤖\n\ttabs", ""):
        assert chat_tokenizer.decode(chat_tokenizer.encode(text)) == text


def test_special_tokens_are_recognised_and_not_decoded(chat_tokenizer: Tokenizer) -> None:
    ids = chat_tokenizer.encode("dog<|im_end|>")
    assert ids[-1] == 2
    assert chat_tokenizer.decode(ids) == "dog"
    assert chat_tokenizer.piece(2) == "<|im_end|>"


def test_chat_renders_the_template(chat_tokenizer: Tokenizer) -> None:
    assert chat_tokenizer.chat(MESSAGES) == chat_tokenizer.encode(RENDERED)


def test_pieces_join_to_the_text_and_are_safe_inside_a_character(chat_tokenizer: Tokenizer) -> None:
    ids = chat_tokenizer.encode("the lazy dog")
    assert "".join(chat_tokenizer.piece(token) for token in ids) == "the lazy dog"
    robot = chat_tokenizer.encode("🤖")
    assert len(robot) > 1
    assert {chat_tokenizer.piece(token) for token in robot} == {"�"}


def test_ids_of_a_padded_vocabulary_are_harmless(chat_tokenizer: Tokenizer) -> None:
    ids = chat_tokenizer.encode("dog")
    assert chat_tokenizer.decode([*ids, 5000]) == "dog"
    assert chat_tokenizer.piece(5000) == ""


def test_same_ids_as_transformers(huggingface: Path, chat_tokenizer: Tokenizer) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(str(huggingface))
    text = "pack my box <|im_start|>naïve 日本 0123"
    assert chat_tokenizer.encode(text) == theirs.encode(text, add_special_tokens=False)
    assert (
        chat_tokenizer.chat(MESSAGES) == theirs.apply_chat_template(MESSAGES, add_generation_prompt=True)["input_ids"]
    )


def test_loading_never_imports_a_framework_or_transformers(huggingface: Path) -> None:
    code = (
        "import sys\n"
        "from mindrlhf_grpo.tokenizers.tokenizer import load_tokenizer\n"
        f"load_tokenizer({str(huggingface)!r}).chat([{{'role': 'user', 'content': 'x'}}])\n"
        "import mindrlhf_grpo.data.stream\n"
        "print(sorted({'torch', 'mindspore', 'transformers', 'datasets', 'pyarrow', 'reasoning_gym'} & set(sys.modules)))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_truncation_and_padding_stored_in_the_file_are_ignored(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Fast

    folder = write_huggingface(tmp_path)
    fast = Fast.from_file(str(folder / "tokenizer.json"))
    fast.enable_truncation(4)
    fast.enable_padding(length=64)
    fast.save(str(folder / "tokenizer.json"))
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer.decode(tokenizer.encode("the quick brown fox jumps")) == "the quick brown fox jumps"


def test_added_tokens_of_the_configuration_are_added(tmp_path: Path) -> None:
    added = {"320": {"content": "<think>", "special": False}, "321": {"content": "<hidden>", "special": True}}
    tokenizer = load_tokenizer(
        str(write_huggingface(tmp_path, added_tokens_decoder=added, pad_token={"content": "<hidden>"}))
    )
    assert tokenizer.encode("<think><hidden>") == [320, 321]
    assert tokenizer.decode([320, 321]) == "<think>"
    assert [tokenizer.pad_id, tokenizer.vocab_size] == [321, 322]


def test_added_tokens_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    added = {"7": {"content": "<think>", "special": False}}
    with pytest.raises(DataError, match=r"gives '<think>' the id 7, tokenizer\.json 320"):
        load_tokenizer(str(write_huggingface(tmp_path, added_tokens_decoder=added)))


def test_template_choice(huggingface: Path, tmp_path: Path) -> None:
    assert not load_tokenizer(str(huggingface), chat_template="none").has_chat_template
    file = tmp_path / "mine.jinja"
    file.write_text("Q: {{ messages[-1].content }} A:")
    custom = load_tokenizer(str(huggingface), chat_template=str(file))
    assert custom.decode(custom.chat(MESSAGES)) == "Q: what is 12 + 34? A:"
    with pytest.raises(DataError, match=r"chat_template 'no\.jinja' cannot be read .* accepted: auto, none"):
        load_tokenizer(str(huggingface), chat_template="no.jinja")


def test_template_in_the_configuration_also_as_a_list(tmp_path: Path) -> None:
    for place, template in (
        ("text", CHATML),
        ("list", [{"name": "tools", "template": "x"}, {"name": "default", "template": CHATML}]),
    ):
        tokenizer = load_tokenizer(str(write_huggingface(tmp_path / place, template=None, chat_template=template)))
        assert tokenizer.chat(MESSAGES) == tokenizer.encode(RENDERED)


def test_a_single_file_takes_what_lies_beside_it(huggingface: Path) -> None:
    assert load_tokenizer(str(huggingface / "tokenizer.json")).eos_ids == (2, 0)


def test_end_token_of_config_json_where_generation_config_has_none(tmp_path: Path) -> None:
    folder = write_huggingface(tmp_path)
    (folder / "generation_config.json").unlink()
    (folder / "config.json").write_text(json.dumps({"eos_token_id": 0}))
    assert load_tokenizer(str(folder)).eos_ids == (0, 2)


def test_no_end_token_or_one_outside_the_vocabulary_is_an_error(tmp_path: Path) -> None:
    folder = write_huggingface(tmp_path, eos_token=None)
    (folder / "generation_config.json").write_text('{"eos_token_id": 50000}')
    with pytest.raises(DataError, match="has 320 tokens, but its end token is 50000"):
        load_tokenizer(str(folder))
    (folder / "generation_config.json").unlink()
    with pytest.raises(DataError, match="has no end token"):
        load_tokenizer(str(folder))


def test_broken_or_absent_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such folder or file, and it is no hub id"):
        load_tokenizer("./no/such/folder")
    with pytest.raises(DataError, match=r"no tokenizer in .*: looked for tokenizer\.json"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(DataError, match=r"tokenizer\.json is broken"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(DataError, match=r"tokenizer_config\.json holds a list, not an object"):
        load_tokenizer(str(tmp_path))


def test_no_hub_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        DataError, match="tokenizer 'nobody/nothing' not found: no such folder, and the hub did not give it"
    ):
        load_tokenizer("nobody/nothing")


def test_vocabulary_that_only_transformers_reads(tmp_path: Path) -> None:
    fast = json.loads((write_huggingface(tmp_path / "source") / "tokenizer.json").read_text())["model"]
    folder = tmp_path / "slow"
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(fast["vocab"]))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in fast["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "GPT2Tokenizer", "chat_template": CHATML})
    )
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer.eos_ids == (0,)
    assert tokenizer.decode(tokenizer.encode("the lazy dog")) == "the lazy dog"
    assert [tokenizer.piece(0), tokenizer.decode([0])] == ["<|endoftext|>", ""]
    assert tokenizer.chat(MESSAGES)[-1] == tokenizer.encode("\n")[-1]
