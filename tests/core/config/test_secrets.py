"""Secrets in arguments stay out of the files of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from mindrlhf_grpo.config.file import load_config
from mindrlhf_grpo.config.secrets import HIDDEN, hidden_places, hide_secrets
from mindrlhf_grpo.errors import CheckpointError
from mindrlhf_grpo.run.folder import RunFolder
from mindrlhf_grpo.trainers.preflight import problems_of
from tests.support.tiny_run import needs_torch, write_run

SECRETS = {
    "api_key": "sk-abc", "apiKey": "sk-1", "hf_token": "hf_a1", "client_secret": "plain", "PASSWORD": "plain",
    "authorization": "Bearer x1",
}  # fmt: skip
OTHERS = {
    "input_key": "question", "tokens": "same", "max_tokens": 64, "tokenizer": "models/x1", "keywords": ["a1"],
    "token": "", "monkey": "x1",
}  # fmt: skip


def test_secrets_are_known_by_the_words_of_their_key() -> None:
    assert hide_secrets(SECRETS) == dict.fromkeys(SECRETS, HIDDEN)
    assert hide_secrets(OTHERS) == OTHERS
    assert hide_secrets({"servers": [{"api_keys": ["sk-1", "sk-2"]}]}) == {"servers": [{"api_keys": [HIDDEN, HIDDEN]}]}
    assert hidden_places({"rewards": [{"arguments": {"api_key": HIDDEN}}]}) == ["rewards.0.arguments.api_key"]


@needs_torch
def test_a_run_hides_secrets_resumes_with_another_and_does_not_train_without(tmp_path: Path) -> None:
    """Finding P3.3: a key in a reward's arguments lay in config.yaml, the report and the trackers."""
    config = write_run(tmp_path)
    reward = "def short(completions, limit, api_key=''):\n    return [0.0 for text in completions]\n"
    (tmp_path / "rewards.py").write_text(reward)
    given = load_config(config, ["rewards.1.arguments.api_key=sk-secret-1"])
    folder = RunFolder(given.run_dir)
    folder.open(given, {})
    folder.checkpoint(1).mkdir(parents=True)
    text = (folder.path / "config.yaml").read_text()
    assert "sk-secret" not in text
    assert f"api_key: {HIDDEN}" in text
    folder.check(load_config(config, ["rewards.1.arguments.api_key=sk-secret-2", "train.steps=9"]))
    again = load_config(folder.path / "config.yaml", [])
    assert [key for key, _ in problems_of(again)] == ["rewards.1.arguments.api_key"]


@pytest.mark.parametrize("content", [b"\xff\xfe\x00binary", b"", b"a: [1", b"- 1"])
def test_a_destroyed_configuration_is_named_with_the_way_out(tmp_path: Path, content: bytes) -> None:
    """Findings P3.7 and P4: a binary file ended with exit 70, an empty one with an empty reason."""
    given = load_config(write_run(tmp_path), [])
    folder = RunFolder(given.run_dir)
    folder.checkpoint(1).mkdir(parents=True)
    (folder.path / "config.yaml").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.yaml .*put the file back, or use another run_dir"):
        folder.check(given)
