"""The command that tests judges before a run: what each says about one row, and its exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mindrlhf_grpo.cli.main import main
from tests.support.fake_chat_server import serve
from tests.support.recipes.safework_judges import Judges

CLASSES = """
class Nine:
    def __call__(self, input_ids, attention_mask):
        return [0.25] * len(input_ids)

class Fails:
    def __call__(self, input_ids, attention_mask):
        raise RuntimeError("out of memory")

class Nothing:
    def __call__(self, input_ids, attention_mask):
        return [float("nan")] * len(input_ids)
"""


def check(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[dict[str, Any], int, str]:
    """Return the results by judge, the exit code, and standard error."""
    with pytest.raises(SystemExit) as ended:
        main(["recipe", "safework", "check-judges", *words])
    shown = capsys.readouterr()
    results = [json.loads(line) for line in shown.out.splitlines()]
    return {result["judge"]: result for result in results}, int(str(ended.value.code or 0)), shown.err


def by_judge(messages: list[dict[str, str]]) -> str:
    return "Safe with refusal" if "verdicts" in messages[0]["content"] else "0.5"


def test_judges_on_a_server_say_what_they_think_of_a_row(capsys: pytest.CaptureFixture[str]):
    """Finding F20: nothing tested judges before a run."""
    with serve(by_judge) as server:
        words = ("--reward_pretrain", "safety:a,general:b", "--rm_use_engine", "--rm_engine_url", server.url)
        found, code, _ = check(capsys, *words, "--question", "Why?", "--response", "No.", "--reference", "Yes")
    assert code == 0
    assert {name: (one["answer"], one["score"]) for name, one in found.items()} == {
        "safety": ("Safe with refusal", 0.1), "general": ("0.5", 0.5),
    }  # fmt: skip
    assert "Request:\nWhy?\n\nReply:\nNo.\n" in server.requests[0]["messages"][0]["content"]
    assert "Yes" in server.requests[-1]["messages"][0]["content"]


@pytest.mark.parametrize(("says", "statuses", "code", "said"), [
    ("hm", (), 2, "safety (URL): this answer cannot be read as a verdict"),
    ("Unsafe", (401,), 4, "safety (URL): the chat server at URL refused"),
    ("Unsafe", (400,), 4, "safety (URL): all of the last 1 requests to a judge were refused"),
])  # fmt: skip
def test_a_judge_on_a_server_that_cannot_be_used_decides_the_exit_code(
    capsys: pytest.CaptureFixture[str], says: str, statuses: tuple[int, ...], code: int, said: str
):
    with serve(lambda _: says, *statuses) as server:
        words = ("--reward_pretrain", "safety:a", "--rm_use_engine", "--rm_engine_url", server.url)
        found, ended, shown = check(capsys, *words)
    assert ended == code
    assert "error" in found["safety"]
    assert f"1 of 1 judges cannot be used: {said}".replace("URL", server.url) in shown
    assert "Traceback" not in shown


def test_a_class_of_ones_own_that_fails_is_named_with_its_line_and_others_are_still_tested(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folders: Path
):
    (tmp_path / "mine.py").write_text(CLASSES)
    names = {"good": "Nine", "bad": "Fails", "empty": "Nothing"}
    paths = {
        name: {"path": str(folders / "value"), "class": f"{tmp_path / 'mine.py'}:{one}"} for name, one in names.items()
    }
    registry = tmp_path / "registry.json"
    registry.write_text(json.dumps({**paths, "value": str(folders / "value")}))
    backend = Judges(lambda name, message: "good")
    backend.comm = type("Comm", (), {"close": staticmethod(lambda: None)})  # type: ignore[attr-defined]
    monkeypatch.setattr("mindrlhf_grpo.recipes.safework.check_judges.load_backend", lambda config: backend)
    found, code, shown = check(capsys, "--reward_pretrain", str(registry))
    assert code == 2
    assert "2 of 4 judges cannot be used: bad (" in shown
    assert f"out of memory ({tmp_path / 'mine.py'}:8)" in found["bad"]["error"]
    assert "finite" in found["empty"]["error"]
    assert (found["good"]["score"], found["value"]["score"], found["value"]["answer"]) == (0.25, 1.0, "good")


def test_without_a_judge_there_is_nothing_to_test(capsys: pytest.CaptureFixture[str]):
    _, code, shown = check(capsys)
    assert code == 2
    assert "--reward_pretrain is missing" in shown


def test_real_judges_in_this_process_are_loaded(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    pytest.importorskip("torch")
    from tests.support.recipes.safework_runs import prepared

    made = prepared(tmp_path / "tiny")
    words = ("--reward_pretrain", f"value:{made / 'value'},knowledge:{made / 'base'}", "--device", "cpu")
    found, code, _ = check(capsys, *words, "--question", "4+5=?", "--response", "9")
    assert code == 0
    assert [0 <= found[name]["score"] <= 1 for name in ("value", "knowledge")] == [True, True]
