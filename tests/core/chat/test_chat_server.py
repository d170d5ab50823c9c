"""The client of chat servers: order, retries, limits, and errors that say what to do."""

from __future__ import annotations

import json
import logging
import socket
import time
from typing import Any

import pytest

from mindrlhf_grpo.chat.chat_server import ChatServer
from mindrlhf_grpo.errors import ConfigError, RequestRefused, ServerError
from tests.support.fake_chat_server import FakeChatServer, serve


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def echo(messages: list[dict[str, str]]) -> str:
    return f"heard {messages[-1]['content']}"


def test_answers_come_in_the_order_of_the_questions_and_side_by_side() -> None:
    with serve(echo, seconds=0.05) as server, ChatServer(server.url, concurrency=4) as client:
        answers = client.complete([asked(str(number)) for number in range(8)], max_tokens=5)
        assert answers == [f"heard {number}" for number in range(8)]
        assert server.most_at_once == 4
        assert client.complete([], max_tokens=5) == []


def test_a_request_carries_model_tokens_temperature_and_the_further_fields() -> None:
    with serve(echo) as server:
        extra = {"chat_template_kwargs": {"enable_thinking": False}}
        with ChatServer(server.url + "/v1/", body=extra) as client:
            client.complete([asked("你好")], max_tokens=7, temperature=0.7)
        assert server.requests == [
            {"model": "fake-model", "messages": asked("你好"), "max_tokens": 7, "temperature": 0.7, **extra}
        ]


@pytest.mark.parametrize("model", ["served", "sglang-only-model"])
def test_the_model_is_asked_for(model: str) -> None:
    with serve(echo, model=model) as server, ChatServer(server.url) as client:
        assert client.model == model


@pytest.mark.parametrize("statuses", [(500,), (503, 502), (429,), (408, 529)])
def test_trouble_that_passes_is_tried_again(statuses: tuple[int, ...]) -> None:
    with serve(echo, *statuses) as server, ChatServer(server.url, backoff=0.01) as client:
        assert client.complete([asked("a")], max_tokens=5) == ["heard a"]
        assert (len(server.requests), client.retried) == (len(statuses) + 1, len(statuses))


def test_waits_double_and_retry_after_is_obeyed() -> None:
    server = FakeChatServer(echo, [(500, {}), (500, {}), (429, {"Retry-After": "0.5"})])
    with ChatServer(server.url, backoff=0.1) as client:
        client.complete([asked("a")], max_tokens=5)
    server.close()
    waits = [later - sooner for sooner, later in zip(server.times, server.times[1:], strict=False)]
    assert waits[0] >= 0.08
    assert waits[1] >= 0.16
    assert waits[2] >= 0.5  # and not 0.4, the third of the client's own


def test_a_server_that_stays_down_is_one_clear_error() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with ChatServer(url, model="m", retries=2, backoff=0.01) as client, pytest.raises(ServerError) as failed:
        client.complete([asked("a"), asked("b")], max_tokens=5)
    for part in (url, "model m", "asked 3 times", "refused", "run the same command again"):
        assert part in str(failed.value)


def test_a_slow_server_is_a_timeout() -> None:
    options: dict[str, Any] = {"model": "m", "timeout": 0.1, "retries": 1, "backoff": 0.01}
    with serve(echo, seconds=1.0) as server, ChatServer(server.url, **options) as client:
        with pytest.raises(ServerError, match=r"no answer within 0\.1 s \(timeout\)"):
            client.complete([asked("a")], max_tokens=5)
        assert client.retried == 1


def test_an_answer_that_is_no_json_is_tried_again_and_then_shown() -> None:
    replies = [b"<html>gateway</html>", b'{"choices": [{"message": {"content": "fine"}}]}']
    with serve(lambda _: replies.pop(0)) as server, ChatServer(server.url, backoff=0.01) as client:
        assert client.complete([asked("a")], max_tokens=5) == ["fine"]
    with (
        serve(lambda _: b"{") as server,
        ChatServer(server.url, retries=1, backoff=0.01) as client,
        pytest.raises(ServerError, match=r"no JSON: '\{'"),
    ):
        client.complete([asked("a")], max_tokens=5)


def test_json_of_another_form_is_an_error_that_shows_it() -> None:
    with (
        serve(lambda _: {"choices": []}) as server,
        ChatServer(server.url) as client,
        pytest.raises(ServerError, match=r'no answer in the form .*\{"choices": \[\]\}'),
    ):
        client.complete([asked("a")], max_tokens=5)


@pytest.mark.parametrize(("status", "said"), [(400, "not now"), (401, "CHAT_SERVER_API_KEY"), (404, "address right")])
def test_a_refused_request_is_not_asked_again(status: int, said: str) -> None:
    with serve(echo, status) as server, ChatServer(server.url, backoff=0.01) as client:
        with pytest.raises(ServerError, match=f"status {status}.*{said}") as refused:
            client.complete([asked("a")], max_tokens=5)
        assert isinstance(refused.value, RequestRefused) is (status == 400)  # only then is the request at fault
        assert len(server.requests) == 1


def test_an_answer_of_nothing_but_thought_is_empty() -> None:
    message = {"role": "assistant", "content": None, "reasoning_content": "hm"}
    with serve(lambda _: {"choices": [{"message": message}]}) as server, ChatServer(server.url) as client:
        assert client.complete([asked("a")], max_tokens=5) == [""]


def test_requests_keep_to_the_rate() -> None:
    with serve(echo) as server, ChatServer(server.url, requests_per_second=20) as client:
        assert client.model
        began = time.monotonic()
        client.complete([asked("a")] * 6, max_tokens=5)
        assert time.monotonic() - began >= 0.25


def test_the_key_comes_from_the_environment_and_is_told_to_nobody_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CHAT_SERVER_API_KEY", "hidden-word")
    caplog.set_level(logging.DEBUG)
    with serve(echo, 500, 401) as server, ChatServer(server.url, backoff=0.01) as client:
        with pytest.raises(ServerError) as failed:
            client.complete([asked("a")], max_tokens=5)
        assert server.headers[0]["Authorization"] == "Bearer hidden-word"
    assert "hidden-word" not in caplog.text + str(failed.value)


def test_the_first_failure_ends_the_waiting_of_all() -> None:
    def answer(messages: list[dict[str, str]]) -> bytes | str:
        return json.dumps({"no": "choices"}).encode() if messages[-1]["content"] == "bad" else b"<busy>"

    with serve(answer) as server, ChatServer(server.url, model="m", concurrency=2, backoff=30, retries=3) as client:
        began = time.monotonic()
        with pytest.raises(ServerError, match="no answer in the form"):
            client.complete([asked("good"), asked("bad")], max_tokens=5)
        assert time.monotonic() - began < 20  # about 0.2; 30 and more with the waiting


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "", "http://"])
def test_an_address_that_is_none_is_named(url: str) -> None:
    with pytest.raises(ConfigError, match="accepted: http://HOST:PORT"):
        ChatServer(url)


def test_an_address_with_a_password_is_not_taken() -> None:
    with pytest.raises(ConfigError, match="keys belong in the environment") as refused:
        ChatServer("http://me:secret-word@host:1")
    assert "secret-word" not in str(refused.value)


@pytest.mark.parametrize("option", [{"timeout": 0}, {"concurrency": 0}, {"retries": -1}, {"backoff": float("nan")}])
def test_a_number_out_of_range_is_named(option: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(option))} is .*at least"):
        ChatServer("http://host:1", **option)
