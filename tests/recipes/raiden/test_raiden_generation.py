"""Samples written by a server: their content, the reasons for discards, and interruptions that lose or repeat none."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mindrlhf_grpo.chat.bedrock import Bedrock
from mindrlhf_grpo.chat.chat_server import ChatServer
from mindrlhf_grpo.cli.main import main
from mindrlhf_grpo.errors import ServerError
from mindrlhf_grpo.recipes.raiden.commands import BEDROCK, OPTIONS, make_samples
from mindrlhf_grpo.recipes.raiden.data import Sample
from mindrlhf_grpo.recipes.raiden.generation import Draft, Job, Writer
from mindrlhf_grpo.recipes.raiden.languages import load_texts
from mindrlhf_grpo.recipes.raiden.progress import Progress, clock
from mindrlhf_grpo.recipes.raiden.splits import without_repeats
from tests.support.fake_chat_server import FakeChatServer, serve
from tests.support.recipes.raiden_files import SAID, task_of, write_profiles, writes
from tests.support.runs import forked


def command(*arguments: str | Path) -> list[str]:
    return ["recipe", "raiden", *map(str, arguments)]


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    """Return the JSON of a command that succeeds."""
    with pytest.raises(SystemExit) as ended:
        main(command(*arguments))
    assert ended.value.code == 0, capsys.readouterr().err
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.row("raiden", "Generators", backend="none")
def test_two_sbk_samples_and_one_cm_sample_of_each_profile_in_its_language(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profiles = write_profiles(tmp_path / "profiles.jsonl", each=2)
    with serve(writes) as server:
        found = run(
            capsys, "generate", "--profiles_file", profiles, "--output_dir", tmp_path / "out", "--base-url", server.url,
            "--include_cm", "--auto_detect", "--output_file", tmp_path / "all.json",
        )  # fmt: skip
    assert (found["wanted"], found["kept"], found["repeated"]) == (24, 24, 8)  # this server repeats itself
    assert (found["train"], found["validation"]) == (14, 2)
    every = read(tmp_path, "all")
    assert len(every) == 16
    kinds = Counter((sample["metadata"]["source"], sample["metadata"]["language"]) for sample in every)
    assert kinds == {(f"sglang_{kind}", name): count for kind, count in (("sbk", 2), ("cm", 2)) for name in SAID}
    for sample in every:
        Sample.model_validate(sample, strict=True)
        said = SAID[sample["metadata"]["language"]]
        if sample["metadata"]["source"] == "sglang_cm":
            assert sample["question_type"] in ("why", "how")
            assert sample["difficulty"] in ("medium", "hard")
            assert [turn["role"] for turn in sample["conversation_history"]] == ["user", "assistant"] * 3
            assert sample["keywords"] == [said["words"][1]]
            assert sample["validation_method"] == "multi_term_parsing"
            assert sample["answer"] == said["remembered"]
        else:
            assert sample["question_type"] in ("what", "who", "where", "when")
            assert sample["conversation_history"] == []
            assert sample["keywords"] == [said["words"][0]]
            assert sample["validation_method"] == "single_term_validation"
        assert "<think>" not in json.dumps(sample)
    assert {sample["difficulty"] for sample in every} <= {"easy", "medium", "hard"}
    assert "よもぎ団子" in (tmp_path / "out" / "train.json").read_text(encoding="utf-8")
    assert read(tmp_path / "out", "dataset_stats")["total"] == 16


def test_thinking_is_off_unless_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profiles = write_profiles(tmp_path / "profiles.jsonl")
    for flag, thinks in (([], False), (["--enable_thinking"], True)):
        with serve(writes) as server:
            run(capsys, "generate", "--profiles_file", profiles, "--output_dir", tmp_path / str(thinks), "--base_url",
                server.url, "--max_profiles", "1", *flag)  # fmt: skip
        kwargs = {"enable_thinking": thinks, "thinking": thinks}
        assert all(body["chat_template_kwargs"] == kwargs for body in server.requests)
        assert {(body["temperature"], body["max_tokens"]) for body in server.requests} == {(0.7, 4000)}


class Converse:
    """A stand-in for boto3's client that answers as the server does."""

    def converse(self, **request: Any) -> Any:
        texts = [*request.get("system", []), *(part for message in request["messages"] for part in message["content"])]
        said = writes([{"role": "user", "content": part["text"]} for part in texts])
        return {"output": {"message": {"content": [{"text": said}]}}}


@pytest.mark.row("raiden", "Generators", backend="none")
def test_bedrock_writes_the_same_samples_under_its_own_name(tmp_path: Path) -> None:
    options = {name: row.get("default") for name, row in BEDROCK.items()} | {
        "profiles_file": write_profiles(tmp_path / "profiles.jsonl"), "output_dir": tmp_path, "include_cm": True,
        "auto_detect": True,
    }  # fmt: skip
    found = make_samples(Bedrock("some.model", client=Converse()), "bedrock", options)
    assert (found["wanted"], found["kept"]) == (12, 12)
    written = read(tmp_path, "train") + read(tmp_path, "validation")
    assert Counter(sample["metadata"]["source"] for sample in written) == {"bedrock_sbk": 4, "bedrock_cm": 4}
    assert {sample["metadata"]["model"] for sample in written} == {"some.model"}
    assert BEDROCK["model_id"]["default"].startswith("us.")  # an inference profile: finding F16
    assert "base_url" not in BEDROCK
    assert "region" not in OPTIONS["generate"]


def draft(answer: Any, kind: str, language: str, tmp_path: Path, **options: Any) -> dict[str, Any] | None:
    """Run one job against a server with this behaviour."""
    profile = {"Name": "a", "Gender": "b", "Introduction": SAID[language]["reply"], "Detailed Description": ""}
    with serve(answer) as server, ChatServer(server.url, retries=0) as model:
        writer = Writer(model=model, texts=load_texts(), source="sglang", refused=[], attempts=1, **options)
        return writer(Job(profile=profile, kind=kind, language=language, seed="1"))


def but(**other: str) -> Any:
    """Return a server that behaves differently for some tasks."""
    return lambda messages: other.get(task_of(messages)[1]) or writes(messages)


@pytest.mark.parametrize(
    ("kind", "server", "reason"),
    [
        ("sbk", but(script_question="<think>only thought"), "no question"),
        ("sbk", but(script_question="我不知道怎么问。"), "no question"),
        ("sbk", but(script_question="Okay, the user wants a question about tea"), "no question"),
        ("sbk", but(script_question="What do you like to drink?"), "other language"),
        ("sbk", but(reply="<think>x</think>"), "no answer"),
        ("sbk", but(reply="Let me think about what the character would say."), "no answer"),
        ("sbk", but(reply="没有。", keywords='{"keywords": ["别的"]}'), "no keyword"),
        ("sbk", but(script_question="你最喜欢桂花茶吗？"), "no keyword"),
        ("cm", but(visitor="今天天气很好。"), "no keyword"),
        ("cm", lambda messages: SAID["zh"]["reply"] if task_of(messages)[1] == "reply" else writes(messages), "no memory"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_discarded_by_reason_and_never_made_up(
    tmp_path: Path, kind: str, server: Any, reason: str
) -> None:
    assert draft(server, kind, "zh", tmp_path) == {"sample": None, "discarded": [reason]}


@pytest.mark.parametrize(
    ("language", "question", "kept"),
    [
        ("zh", "Okay, a question about tea.\n“你最喜欢喝什么？”", "你最喜欢喝什么？"),
        ("ja", "The user wants a question.\n好きな飲み物は何ですか", "好きな飲み物は何ですか"),
        ("ko", "Let me write one.\n무엇을 좋아합니까?", "무엇을 좋아합니까?"),
        ("en", "Sure, here is one:\n\nWhat do you like best?", "What do you like best?"),
    ],
)
def test_reasoning_before_the_question_is_cut_away(tmp_path: Path, language: str, question: str, kept: str) -> None:
    found = draft(but(script_question=question), "sbk", language, tmp_path)
    assert found is not None
    assert found["sample"]["question"] == kept


@pytest.mark.parametrize("language", ["zh", "ja", "en", "ko"])
def test_without_usable_json_the_keywords_are_what_answer_and_profile_share(tmp_path: Path, language: str) -> None:
    found = draft(but(keywords="I cannot do JSON"), "sbk", language, tmp_path)
    assert found is not None
    keywords = found["sample"]["keywords"]
    assert 1 <= len(keywords) <= 3
    assert all(word in SAID[language]["reply"] for word in keywords)


def test_an_attempt_that_fails_is_followed_by_another(tmp_path: Path) -> None:
    bad = [2]

    def server(messages: list[dict[str, str]]) -> str:
        if task_of(messages)[1] == "script_question" and bad[0]:
            bad[0] -= 1
            return "这不是问句。"
        return writes(messages)

    profile = {"Name": "a", "Gender": "b", "Introduction": SAID["zh"]["reply"], "Detailed Description": ""}
    with serve(server) as running, ChatServer(running.url) as model:
        writer = Writer(model=model, texts=load_texts(), source="sglang", refused=[], attempts=3)
        found = writer(Job(profile=profile, kind="sbk", language="zh", seed="1"))
    assert found is not None
    assert found["discarded"] == ["no question", "no question"]
    assert found["sample"]["question"] == SAID["zh"]["script_question"]


@pytest.mark.parametrize(
    ("kind", "wrong", "verdict", "kept"),
    [("sbk", 0, "是", True), ("sbk", 1, "是", True), ("sbk", 2, "是", False),
     ("cm", 0, "是", True), ("cm", 0, "否", False), ("cm", 0, "也许", False)],
)  # fmt: skip
def test_independent_answers_must_bear_a_sample_out(
    tmp_path: Path, kind: str, wrong: int, verdict: str, kept: bool
) -> None:
    """``wrong`` of four more answers to the question differ; 70 % must agree."""
    questions = (SAID["zh"]["script_question"], SAID["zh"]["memory_question"])
    asked = [0]

    def server(messages: list[dict[str, str]]) -> str:
        task = task_of(messages)[1]
        if task == "judge":
            return verdict
        if task == "reply" and messages[-1]["content"].endswith(questions):
            asked[0] += 1
            if 1 < asked[0] <= 1 + wrong:
                return "我最喜欢别的东西。"
        return writes(messages)

    found = draft(server, kind, "zh", tmp_path, verify_n=4)
    assert found is not None
    assert asked == [5]
    assert (found["sample"] is not None) is kept
    assert found["discarded"] == ([] if kept else ["references disagree"])


def test_a_refused_request_costs_its_own_sample_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profiles = write_profiles(tmp_path / "profiles.jsonl")
    with serve(writes, 400) as server:
        arguments = (
            "generate",
            "--profiles_file",
            profiles,
            "--output_dir",
            tmp_path / "out",
            "--base_url",
            server.url,
            "--auto_detect",
        )
        found = run(capsys, *arguments)
        assert (found["wanted"], found["kept"], found["refused"]) == (8, 7, 1)
        again = run(capsys, *arguments)  # it is asked once more
    assert (again["done_before"], again["kept"], again["refused"]) == (7, 8, 0)


def test_a_sample_is_in_the_data_once_and_so_on_one_side_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Finding F18: exact duplicates were kept, and split over training and validation data."""
    profiles = write_profiles(tmp_path / "profiles.jsonl")
    with serve(writes) as server:
        found = run(capsys, "generate", "--profiles_file", profiles, "--output_dir", tmp_path / "out", "--base_url",
                    server.url, "--auto_detect", "--num_samples_per_profile", "5", "--train_ratio", "0.5")  # fmt: skip
    assert (found["kept"], found["repeated"], found["train"], found["validation"]) == (20, 16, 2, 2)
    sides = [{(one["character_name"], one["question"]) for one in read(tmp_path / "out", name)} for name in ("train", "validation")]  # fmt: skip
    assert not sides[0] & sides[1]


def test_samples_that_differ_in_history_or_answer_are_no_repeats() -> None:
    """Finding F18: only character, history, question and answer together make a sample."""
    one = {
        "character_profile": {"Name": "a"},
        "conversation_history": [],
        "question": "q",
        "answer": "x",
        "keywords": ["x"],
    }
    others = [{**one, "answer": "y"}, {**one, "conversation_history": [{"role": "user", "content": "h"}]}]
    assert without_repeats([one, *others, {**one, "keywords": []}]) == [one, *others]


def test_skipped_lines_refusals_and_progress_are_told_while_samples_are_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Findings F26 and F27: bad lines were counted without number and reason, and nothing was shown until the end."""
    profiles = write_profiles(tmp_path / "profiles.jsonl")
    lines = profiles.read_text(encoding="utf-8").splitlines()
    profiles.write_text(
        "\n".join([lines[0], "{broken", '{"prompt": "no block"}', '{"text": "x"}', *lines[1:], ""]), "utf-8"
    )
    with serve(writes, 400) as server, pytest.raises(SystemExit) as ended:
        main(command("generate", "--profiles_file", profiles, "--output_dir", tmp_path / "out", "--base_url",
                     server.url, "--auto_detect"))  # fmt: skip
    shown = capsys.readouterr()
    assert ended.value.code == 0
    assert json.loads(shown.out)["skipped_lines"] == 3
    assert f"{profiles}:2: invalid JSON" in shown.err
    assert f"{profiles}:3: no <Character Setting> block; the line is skipped" in shown.err
    assert f"{profiles}:4: no text under 'prompt'; the line is skipped" in shown.err
    assert "1 samples were refused and are asked for again next time; the first: the chat server at" in shown.err
    assert "1 of 8 samples in 0:" in shown.err
    assert "8 of 8 samples in 0:" in shown.err


def test_progress_counts_what_an_earlier_run_did_and_is_shown_now_and_then() -> None:
    """Finding F27."""
    lines: list[str] = []
    progress = Progress(10, 4, lines.append, seconds=3600.0)
    for _ in range(6):
        progress.finished()
    assert [line.split(" samples")[0] for line in lines] == ["5 of 10", "10 of 10"]
    assert clock(3723) == "1:02:03"
    assert clock(123.4) == "2:03"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--language", "fr"], "--language fr is unknown; there are zh, ja, en, ko"),
     (["--split_by", "name"], "--split_by name is unknown"),
     (["--profiles_file", "none.jsonl"], "none.jsonl cannot be read"),
     (["--texts", "none.yaml"], "none.yaml cannot be read"),
     (["--base_url", "here"], "accepted: http://HOST:PORT"),
     (["--base_url", "http://127.0.0.1:9", "--retries", "0"], "http://127.0.0.1:9 did not answer, asked once")],
)  # fmt: skip
def test_mistakes_are_told_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    profiles = write_profiles(tmp_path / "profiles.jsonl")
    with pytest.raises(SystemExit) as ended:
        main(command("generate", "--profiles_file", profiles, "--output_dir", tmp_path / "out", *arguments))
    assert ended.value.code in (2, 4)
    shown = capsys.readouterr().err
    assert said in shown
    assert "Traceback" not in shown


def test_a_server_that_dies_half_way_leaves_a_job_that_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profiles = write_profiles(tmp_path / "profiles.jsonl", each=3)
    options = {name: row.get("default") for name, row in OPTIONS["generate"].items()} | {
        "profiles_file": profiles, "output_dir": tmp_path / "out", "auto_detect": True, "concurrency": 2, "include_cm": True,
    }  # fmt: skip
    server = FakeChatServer(writes)

    def until_it_dies(messages: list[dict[str, str]]) -> str | bytes:
        return writes(messages) if len(server.requests) < 60 else b"dead"

    server.answer = until_it_dies
    with pytest.raises(ServerError, match="run the same command again"):
        make_samples(ChatServer(server.url, retries=0), "sglang", options)
    journal = (tmp_path / "out" / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    done = [json.loads(line)["key"] for line in journal[1:]]
    assert 5 <= len(done) < 36
    server.answer = writes
    found = make_samples(ChatServer(server.url), "sglang", options)
    server.close()
    assert (found["done_before"], found["kept"], found["wanted"]) == (len(done), 36, 36)
    keys = [
        json.loads(line)["key"]
        for line in (tmp_path / "out" / "journal.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    ]
    assert len(keys) == len(set(keys)) == 36
    assert keys[: len(done)] == done


def test_a_killed_process_goes_on_where_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profiles = write_profiles(tmp_path / "profiles.jsonl", each=2)
    journal = tmp_path / "out" / "journal.jsonl"
    with serve(writes, seconds=0.02) as server:
        arguments = ("generate", "--profiles_file", profiles, "--output_dir", tmp_path / "out", "--base_url", server.url,
                     "--auto_detect", "--concurrency", "2")  # fmt: skip
        killed = forked.start(command(*arguments))
        while not journal.exists() or len(journal.read_bytes().splitlines()) < 6:
            time.sleep(0.01)
            assert killed.poll() is None
        killed.kill()
        found = run(capsys, *arguments)
    assert found["done_before"] >= 5
    assert (found["wanted"], found["kept"]) == (16, 16)
    keys = [json.loads(line)["key"] for line in journal.read_text(encoding="utf-8").splitlines()[1:]]
    assert len(keys) == len(set(keys)) == 16


# The lines of the original's README, after the name of their script.
LINES = {
    "generate": [
        "--profiles_file ./data/online_profiles.jsonl --num_samples_per_profile 2 --include_cm --language zh",
        "--language ja",
        "--auto_detect",
        "--profiles_file ./data/online_profiles.jsonl --output_file ./data/generated_samples.json "
        "--num_samples_per_profile 2 --include_cm --language zh --max_profiles 100",
        "--num_samples_per_profile 5 --include_cm",
        "--train_ratio 0.8",
    ],
    "generate-bedrock": ["--num_samples_per_profile 2 --language zh", "--enable_thinking --region us-east-1"],
}
DEFAULTS = {"profiles_file": "data/online_profiles.jsonl", "output_dir": "data/training", "num_samples_per_profile": 2,
            "include_cm": False, "language": "zh", "auto_detect": False, "train_ratio": 0.9, "max_profiles": None,
            "output_file": None}  # fmt: skip


@pytest.mark.parametrize(("name", "line"), [(name, line) for name, lines in LINES.items() for line in lines])
def test_lines_of_the_originals_readme_mean_what_they_mean_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, line: str
) -> None:
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr("mindrlhf_grpo.chat.bedrock._client", lambda *_: Converse())
    monkeypatch.setattr(
        "mindrlhf_grpo.recipes.raiden.commands.make_samples", lambda model, source, options: seen.append(options) or {}
    )
    with pytest.raises(SystemExit) as ended:
        main(command(name, *line.split()))
    assert not ended.value.code, capsys.readouterr().err
    words = line.replace("./", "").split()
    given = dict(pairwise(words))
    for option, default in DEFAULTS.items():
        text = given.get(f"--{option}", default)
        expected = True if f"--{option}" in words and isinstance(default, bool) else text
        assert str(seen[0][option]) == str(expected)


def test_the_same_seed_asks_for_the_same_types(tmp_path: Path) -> None:
    profile = {"Name": "a", "Gender": "b", "Introduction": "", "Detailed Description": ""}
    with serve(writes) as server, ChatServer(server.url) as model:
        writer = Writer(model=model, texts=load_texts(), source="sglang", refused=[])
        drawn = [
            (one.type, one.difficulty)
            for seed in ("1/a", "1/a", "2/a")
            for one in [Draft(writer, Job(profile=profile, kind="sbk", language="zh", seed=seed), random.Random(seed))]
        ]
    assert drawn[0] == drawn[1]
