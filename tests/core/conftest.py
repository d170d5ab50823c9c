from __future__ import annotations

from pathlib import Path

import pytest

from mindrlhf_grpo.tokenizers.tokenizer import Tokenizer, load_tokenizer
from tests.support.tiny_tokenizers import write_huggingface


@pytest.fixture(scope="session")
def huggingface(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_huggingface(tmp_path_factory.mktemp("huggingface"))


@pytest.fixture(scope="session")
def chat_tokenizer(huggingface: Path) -> Tokenizer:
    return load_tokenizer(str(huggingface))


@pytest.fixture(scope="session")
def plain_tokenizer(huggingface: Path) -> Tokenizer:
    return load_tokenizer(str(huggingface), chat_template="none")
