"""Folders of tiny language models, made once."""

from __future__ import annotations

import shutil
import string
from pathlib import Path

import pytest

from tests.support import tiny


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models ``safety``, ``value`` and ``base``, which several judges share."""
    pytest.importorskip("torch")
    root = tmp_path_factory.mktemp("judges")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "ALPHABET", tiny.ALPHABET + string.ascii_uppercase + "<>/.,:")
        tiny.write_model(root / "safety")
    for name in ("value", "base"):
        shutil.copytree(root / "safety", root / name)
    for name in ("safety", "value", "base"):  # judges' messages are longer than toy prompts
        path = root / name / "config.json"
        path.write_text(path.read_text().replace('"max_position_embeddings": 128', '"max_position_embeddings": 4096'))
    return root
