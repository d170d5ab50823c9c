"""The toy backend passes every check of the conformance suite but those of the capabilities it leaves out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mindrlhf_grpo.backend import backend_module, record_files
from mindrlhf_grpo.cli.main import main
from mindrlhf_grpo.errors import BackendError
from mindrlhf_grpo.testing import conformance
from mindrlhf_grpo.testing.conformance import CHECKS, BackendUnderTest, left_out

TOY = "tests.support.toy_backend"
LEFT_OUT = {
    "adapters_are_computed_and_alone_are_trained": "lora: weights are plain arrays",
    "tokens_of_an_environment_are_context_only": "conversations: a completion is made at once",
}
CLAIMED = [name for name in CHECKS if name not in LEFT_OUT]


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> BackendUnderTest:
    return BackendUnderTest(TOY, tmp_path_factory.mktemp("conformance"))


@pytest.mark.parametrize("name", CLAIMED)
def test_the_toy_backend_conforms(backend: BackendUnderTest, name: str) -> None:
    CHECKS[name](backend)


def test_only_checks_of_unsupported_capabilities_are_left_out() -> None:
    assert left_out(TOY) == LEFT_OUT
    assert len(CLAIMED) == len(CHECKS) - 2 >= 20


def test_the_command_says_what_was_run_and_what_was_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("weights_are_those_of_the_folder", "no_prompts_give_no_completions", *LEFT_OUT)
    monkeypatch.setattr(conformance, "CHECKS", {name: CHECKS[name] for name in few})
    with pytest.raises(SystemExit) as stopped:
        main(["parity", "conform", "--backend", TOY])
    shown = capsys.readouterr()
    assert stopped.value.code == 0
    assert shown.err.splitlines() == [
        "ok   weights_are_those_of_the_folder",
        "ok   no_prompts_give_no_completions",
        *(f"skip {name}: {reason}" for name, reason in LEFT_OUT.items()),
    ]
    assert json.loads(shown.out.splitlines()[-1]) == {
        "passed": True, "checks": 2, "failed": {}, "left_out": LEFT_OUT,
    }  # fmt: skip


def test_a_module_that_lacks_members_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_a_backend.py").write_text("FRAMEWORK = 'numpy'\n\ndef build(config):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BackendError, match="half_a_backend is no backend: it lacks UNSUPPORTED, check, environment_w"):
        backend_module("half_a_backend")


def test_a_backend_whose_framework_is_absent_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = Path(__file__).parents[2] / "support/toy_backend.py"
    (tmp_path / "far_backend.py").write_text(toy.read_text() + "\nFRAMEWORK = 'no_such_framework'\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BackendError, match=r"backend .far_backend. needs no_such_framework, which is not installed$"):
        backend_module("far_backend")


def test_an_unknown_backend_is_named_with_those_available() -> None:
    with pytest.raises(BackendError, match=r"'no\.such\.backend' is unknown; available: mindspore, torch, or a module"):
        backend_module("no.such.backend")


def test_a_backend_without_a_file_format_is_named() -> None:
    with pytest.raises(BackendError, match=f"backend '{TOY}' has no file format of rows"):
        record_files(TOY)
