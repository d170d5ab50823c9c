"""Generative judges: questions, answers, the places of models and their time in memory."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindrlhf_grpo.backend import LogProbs
from mindrlhf_grpo.config.run import RewardConfig
from mindrlhf_grpo.errors import ConfigError, ServerError
from mindrlhf_grpo.rewards import Rewards
from mindrlhf_grpo.rewards.judges.answers import judged_choice, number_reader, verdict_reader
from mindrlhf_grpo.rewards.judges.judge import JudgeReward, build_judge
from mindrlhf_grpo.rewards.judges.models import JudgeModels, Place
from mindrlhf_grpo.rewards.judges.templates import JudgeTemplate, load_template
from mindrlhf_grpo.types import Batch, FinishReason, Prompt, Rollout, RolloutGroup
from tests.support import tiny
from tests.support.fake_chat_server import serve

Groups = Callable[..., RolloutGroup]
SAFETY = {"Safe with refusal": 0.1, "Safe": 1.0, "Unsafe": 0.0}


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Safe", 1.0),
        (" **unsafe**. ", 0.0),
        ("Safe with refusal", 0.1),
        ("Verdict: Safe with refusal, not unsafe", 0.1),
        ("unsafe, though it looks safe", 0.0),
        ("It is safe. Not Unsafe.", 1.0),
        ("", None),
        ("no idea", None),
    ],
)
def test_the_verdict_that_stands_first_counts_and_the_longer_of_two(text: str, score: float | None):
    assert verdict_reader(SAFETY)(text) == score


def test_a_verdict_may_have_to_begin_the_answer():
    read = verdict_reader({"good": 1, "bad": 0}, "start")
    assert [read(text) for text in ("Good.", '"bad"', "not good", "goodness")] == [1.0, 0.0, None, 1.0]


@pytest.mark.parametrize(
    ("text", "score"),
    [("0.6", 0.5), ("score: .8 of 1", 1.0), ("-3", 0.0), ("0.25", 0.0), ("7/10", 1.0), ("none", None)],
)
def test_a_number_moves_to_the_nearest_accepted_one(text: str, score: float | None):
    assert number_reader([1, 0, 0.5])(text) == score


def test_probabilities_are_read_in_three_ways():
    assert [judged_choice(0.5, read, 0.5) for read in ("prob", "hard", "both")] == [0.5, 1.0, 0.75]
    assert judged_choice(0.49, "hard", 0.5) == 0.0


def test_the_script_of_the_question_chooses_the_template():
    template = JudgeTemplate({"en": "Is {{ response }} right?", "zh": "{{ response }}对吗？", "ko": "{{ response }}?"})
    say = [template.render({"question": question, "response": "9"}) for question in ("6+3?", "why 九?", "왜?", "なぜ?")]
    assert say == ["Is 9 right?", "9对吗？", "9?", "Is 9 right?"]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"verdicts": {"a": 1}, "numbers": [1]}, "one way to read"),
        ({}, "one way to read"),
        ({"verdicts": {"": 1}}, "different texts"),
        ({"verdicts": {"a": 1}, "max_tokns": 3}, "max_tokns"),
        ({"verdicts": {"a": "high"}}, r"verdicts.a is 'high'"),
        ({"verdicts": {"a": 1}, "template": "missing.txt"}, "missing.txt' cannot be read"),
        ({"verdicts": {"a": 1}, "template": "broken.txt"}, "does not compile"),
        ({"verdicts": {"a": 1}, "template": "empty.txt"}, "is empty"),
    ],
)
def test_wrong_settings_name_the_judge_and_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], problem: str
):
    monkeypatch.chdir(tmp_path)
    for name, text in {"t.txt": "{{ question }}", "broken.txt": "{% if %}", "empty.txt": " \n"}.items():
        Path(name).write_text(text)
    with pytest.raises(ConfigError, match=f"judge safety: .*{problem}"):
        build_judge({"template": "t.txt", **settings}, label="judge safety")


def test_a_template_that_names_what_is_not_there_is_an_error(tmp_path: Path):
    (tmp_path / "t.txt").write_text("{{ question }} {{ referense }}")
    template = load_template(str(tmp_path / "t.txt"))
    with pytest.raises(ConfigError, match="'referense' is undefined; there are question, reference"):
        template.render({"question": "a", "reference": "b"})


class Says:
    """A language model whose answers depend on the prompt; it records questions and releases."""

    def __init__(self, folder: str, tokenizer: Any, log: list[str]) -> None:
        self.folder, self.tokenizer, self.log, self.loaded = Path(folder).name, tokenizer, log, False

    def load(self) -> None:
        if not self.loaded:
            self.log.append(f"load {self.folder}")
        self.loaded = True

    def generate(self, prompts: Sequence[Prompt], sampling: Any, *, group_size: int) -> list[RolloutGroup]:
        self.load()
        assert (sampling.temperature, group_size) == (0.0, 1)
        return [RolloutGroup(prompt=prompt, rollouts=(rollout(self.say(prompt.text)),)) for prompt in prompts]

    def say(self, text: str) -> str:
        return "good" if "9" in text else "bad" if "8" in text else "hm"

    def logps(self, batch: Batch) -> LogProbs:
        """Log-odds of 2 for the first choice where the prompt has a 9, else against it."""
        self.load()
        nine = self.tokenizer.encode("9")[0]
        good = np.array([nine in batch.prompts[m] for m in batch.prompt_of])
        first = np.arange(len(batch)) % 2 == 0
        return LogProbs(logps=np.where(good == first, -1.0, -3.0)[:, None].astype(np.float32))

    def release(self) -> None:
        if self.loaded:
            self.log.append(f"release {self.folder}")
        self.loaded = False


def rollout(text: str) -> Rollout:
    return Rollout(sample=0, ids=np.arange(2), logps=np.zeros(2), finish=FinishReason.STOP, text=text)


class Backend:
    def __init__(self) -> None:
        self.log: list[str] = []

    def load_language_model(self, config: Any, tokenizer: Any, *, slots: int) -> Says:
        return Says(config.path, tokenizer, self.log)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    return tiny.write_model(tmp_path_factory.mktemp("judges") / "judge")


@pytest.fixture
def template(tmp_path: Path) -> str:
    (tmp_path / "judge.txt").write_text("{{ question }} {{ response }}?")
    return str(tmp_path / "judge.txt")


def reward(folder: Path, template: str, **judge: Any) -> RewardConfig:
    settings = {"template": template, "choices": ["good", "bad"], "on_nonsense": 0.25, **judge}
    arguments = {"model": str(folder), "judge": settings}
    return RewardConfig(function="mindrlhf_grpo.rewards.judges:JudgeReward", name="judge", arguments=arguments)


def test_a_judge_in_this_process_is_read_by_the_probabilities_of_its_choices(
    group: Groups, folder: Path, template: str
):
    backend = Backend()
    with Rewards([reward(folder, template)], backend=backend) as rewards:
        assert rewards.uses_models
        table = rewards.score([group(["<think>8</think> 9", "<think>9</think> 8"], prompt="q")])
    odds = 1 / (1 + np.exp(-2.0))
    np.testing.assert_allclose(table.values[:, 0, 0], [odds, 1 - odds], rtol=0, atol=1e-7)
    assert backend.log == ["load judge", "release judge"]


def test_an_answer_that_cannot_be_read_is_counted_and_has_its_configured_value(
    group: Groups, folder: Path, template: str
):
    verdicts = {"good": 1, "bad": 0}
    config = reward(folder, template, choices=[], verdicts=verdicts, empty=-1.0)
    long = "9" * 200  # more than the judge has positions
    with Rewards([config], backend=Backend()) as rewards:
        table = rewards.score([group(["9", "8", "7", "", long], prompt="q")])
        assert table.values[:, 0, 0].tolist() == [1.0, 0.0, 0.25, -1.0, 0.25]
        assert table.failures == {"judge/unreadable": 2}
        assert rewards.score([group(["9"], prompt="q")]).failures == {}


def test_models_are_shared_by_folder_and_take_memory_one_after_another(folder: Path, tmp_path: Path):
    backend = Backend()
    models = JudgeModels(backend)
    other = shutil.copytree(folder, tmp_path / "other")
    for place in (Place(model=str(folder)), Place(model=f"{folder}/"), Place(model=str(other), keep=True)):
        models.use(place).answers(["9"], 2)
    assert backend.log == ["load judge", "release judge", "load other"]
    models.release()
    models.use(Place(model=str(folder))).answers(["9"], 2)
    models.use(Place(model=str(other), keep=True)).answers(["9"], 2)
    models.release()
    assert backend.log[3:] == ["load judge", "release judge"]
    assert models.loads == {str(folder): 2, str(other): 1}
    models.close()
    assert backend.log[5:] == ["release other"]


def test_choices_must_begin_with_different_tokens(folder: Path, template: str):
    made = JudgeReward(Backend(), None, model=str(folder), judge={"template": template, "choices": ["safe", "sound"]})
    with pytest.raises(ConfigError, match="safe, sound do not begin with different tokens"):
        made.score([RolloutGroup(prompt=Prompt(uid=0, ids=np.arange(2), text="q"), rollouts=(rollout("9"),))])


class Handler(BaseHTTPRequestHandler):
    """A chat server that calls messages with a 9 good."""

    def do_GET(self) -> None:
        self.reply({"data": [{"id": "tiny"}]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text = asked["messages"][-1]["content"]
        assert (asked["max_tokens"], asked["temperature"]) == (16, 0.0)
        self.reply({"choices": [{"message": {"content": "Good!" if "9" in text else "well"}}]})

    def reply(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}/v1"
        listening.shutdown()


def test_a_judge_on_a_server_is_read_as_text(group: Groups, server: str, template: str):
    judge = {"template": template, "choices": ["good", "bad"], "match": "start", "on_nonsense": 0.5}
    config = RewardConfig(
        function="mindrlhf_grpo.rewards.judges:JudgeReward", name="j", arguments={"server": server, "judge": judge}
    )
    with Rewards([config]) as rewards:
        table = rewards.score([group(["9", "8"], prompt="q")])
    assert table.values[:, 0, 0].tolist() == [1.0, 0.5]
    assert table.failures == {"j/unreadable": 1}


def on_server(url: str, template: str) -> RewardConfig:
    judge = {"template": template, "verdicts": {"good": 1, "bad": 0}, "on_nonsense": 0.25}
    arguments = {"server": url, "judge": judge, "options": {"concurrency": 1}}
    return RewardConfig(function="mindrlhf_grpo.rewards.judges:JudgeReward", name="j", arguments=arguments)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_request_to_a_judge_is_counted_and_has_its_configured_value(
    group: Groups, template: str, status: int, caplog: pytest.LogCaptureFixture
):
    """Finding F8: one refusal (an over-long completion, say) ended the run."""
    with serve(lambda _: "good", status) as running, Rewards([on_server(running.url, template)]) as rewards:
        table = rewards.score([group(["9", "8", "7"], prompt="q")])
        assert table.values[:, 0, 0].tolist() == [0.25, 1.0, 1.0]
        assert table.failures == {"j/unreadable": 1}
        assert f"1 of 3 requests were refused; the first: the chat server at {running.url}" in caplog.text
        running.troubles = [(status, {})] * 2  # all answers to one question, after others
        assert rewards.score([group(["9", "8"], prompt="q")]).values[:, 0, 0].tolist() == [0.25, 0.25]


def test_a_judge_that_refuses_everything_stops_the_run(group: Groups, template: str):
    """Finding F8: only a judge that answers nothing at all is a fault of the settings."""
    said = r"all of the last 2 requests to a judge were refused: .* status 400"
    with (
        serve(lambda _: "good", *[400] * 99) as running,
        Rewards([on_server(running.url, template)]) as rewards,
        pytest.raises(ServerError, match=said),
    ):
        rewards.score([group(["9", "8"], prompt="q")])


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({}, "a folder, or a server"),
        ({"model": "no/such/folder"}, "no/such/folder"),
        ({"server": "ftp://x"}, "ftp://x"),
    ],
)
def test_a_place_that_is_none_is_found_before_the_run(template: str, arguments: dict[str, str], problem: str):
    with pytest.raises(ConfigError, match=problem):
        JudgeReward(None, None, judge={"template": template, "choices": ["a", "b"]}, **arguments)
