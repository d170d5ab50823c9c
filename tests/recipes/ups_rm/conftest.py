"""Files that the tests of the recipe share: made once and only read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.recipes import ups_rm_files


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with policy, body, raw data, and a reward model with a random head."""
    folder = ups_rm_files.make(tmp_path_factory.mktemp("ups_rm"))
    ups_rm_files.with_random_head(folder)
    return folder
