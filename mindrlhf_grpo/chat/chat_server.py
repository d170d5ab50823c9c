"""Client of a server that speaks OpenAI's chat protocol (vLLM, SGLang and others): conversations in, texts out.

Transient trouble (no connection, time-outs, 408, 429, 5xx, an answer that is not JSON) is retried with exponential
backoff, or after the time that the server asks for; if it lasts, there is one clear error. A key is read from the
environment and never written anywhere.
"""

from __future__ import annotations

import email.utils
import json
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar
from urllib.parse import urlsplit

from ..errors import ConfigError, RequestRefused, ServerError

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")
Q = TypeVar("Q")
LOG = logging.getLogger("mindrlhf_grpo.chat.chat_server")
Conversation: TypeAlias = Sequence[Mapping[str, str]]
TRANSIENT = {408, 409, 425, 429, 500, 502, 503, 504, 529}
LONGEST_WAIT = 300.0  # seconds, even if a server asks for more
LONGEST_PAUSE = 30.0  # seconds between two tries unless the server asks for a time
KEY_VARIABLE = "CHAT_SERVER_API_KEY"
LOCAL = {"localhost", "127.0.0.1", "::1"}


class ChatModel(Protocol):
    """A model that answers conversations; ``model`` is its name and ``url`` its address, both for messages."""

    url: str

    @property
    def model(self) -> str: ...
    def complete(
        self, conversations: Sequence[Conversation], *, max_tokens: int, temperature: float = 0.0
    ) -> list[str]: ...
    def close(self) -> None: ...


class Trouble(Exception):
    """A request that failed and may succeed later; ``wait`` is the pause that the server asks for, in seconds."""

    def __init__(self, what: str, wait: float | None = None) -> None:
        super().__init__(what)
        self.wait = wait


class NotThere(ServerError):
    """The server does not know the path or model."""


class ChatServer:
    """One model at one address. It is safe to use from several threads; close it, or use it in a ``with``."""

    def __init__(
        self,
        base_url: str,
        *,
        model: str | None = None,
        timeout: float = 120.0,
        concurrency: int = 8,
        requests_per_second: float = 0.0,
        retries: int = 6,
        backoff: float = 1.0,
        body: Mapping[str, Any] | None = None,
        key_variable: str = KEY_VARIABLE,
    ) -> None:
        """Prepare a client; nothing is sent yet.

        Args:
            base_url: ``http://HOST:PORT``, with or without ``/v1``.
            model: its name on the server; None: the first that the server lists.
            timeout: longest time for one answer, in seconds.
            concurrency: parallel requests within one ``complete``.
            requests_per_second: limit over all threads, including retries; 0: none.
            retries: tries after the first.
            backoff: seconds before the second try; doubles with each retry up to 30, minus up to 20 % at random.
            body: more fields of every request, such as ``chat_template_kwargs`` or ``top_p``.
            key_variable: environment variable with the key, which is sent if set.

        Raises:
            ConfigError: an invalid address, one with a password, or numbers out of range.
        """
        self.url = _base_address(base_url)
        for name, value, least in (
            ("timeout", timeout, 1e-3),
            ("concurrency", concurrency, 1),
            ("retries", retries, 0),
            ("backoff", backoff, 0),
            ("requests_per_second", requests_per_second, 0),
        ):
            if not value >= least:
                raise ConfigError(f"chat server {self.url}: {name} is {value}; it must be at least {least:g}")
        self.retried = 0
        self._model = model
        self._timeout, self._concurrency = timeout, concurrency
        self._retries, self._backoff = retries, backoff
        self._body = dict(body or {})
        self._key_variable = key_variable
        self._pace = Pace(requests_per_second)
        self._lock = threading.Lock()
        self._connected: httpx.Client | None = None

    def __enter__(self) -> ChatServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        with self._lock:
            if self._connected is not None:
                self._connected.close()
            self._connected = None

    @property
    def model(self) -> str:
        """The model's name, requested once: from ``/v1/models``, else from SGLang's ``/get_model_info``."""
        if self._model is None:
            try:
                self._model = str(self._request("GET", "/v1/models", None, threading.Event())["data"][0]["id"])
            except (NotThere, KeyError, IndexError, TypeError):
                info = self._request("GET", "/get_model_info", None, threading.Event())
                try:
                    self._model = str(info["model_path"])
                except (KeyError, TypeError):
                    raise ServerError(
                        f"the server at {self.url} does not say which model it serves; name it (model)"
                    ) from None
        return self._model

    def complete(
        self, conversations: Sequence[Conversation], *, max_tokens: int, temperature: float = 0.0
    ) -> list[str]:
        """Return the answer to each conversation, in order; empty where the server returns none (only a thought).

        Raises:
            RequestRefused: a conversation itself is at fault, for example too long: the server will not answer it.
            ServerError: the server is unreachable, too slow, rejects key or model, or its answer is unreadable.
        """
        return self._ask_all(self._answer, conversations, max_tokens, temperature)

    def replies(
        self, conversations: Sequence[Conversation], *, max_tokens: int, temperature: float = 0.0
    ) -> list[str | RequestRefused]:
        """Return the answer to each conversation, in order, or the refusal of one that is itself at fault.

        Raises:
            ServerError: as for ``complete``.
        """
        return self._ask_all(self._reply, conversations, max_tokens, temperature)

    def _ask_all(
        self,
        ask: Callable[[Mapping[str, Any], threading.Event], T],
        conversations: Sequence[Conversation],
        max_tokens: int,
        temperature: float,
    ) -> list[T]:
        stop = threading.Event()
        bodies = [
            {
                "model": self.model,
                "messages": [dict(message) for message in conversation],
                "max_tokens": max_tokens,
                "temperature": temperature,
                **self._body,
            }
            for conversation in conversations
        ]
        try:
            return in_parallel(lambda body: ask(body, stop), bodies, self._concurrency)
        finally:
            stop.set()

    def _reply(self, body: Mapping[str, Any], stop: threading.Event) -> str | RequestRefused:
        try:
            return self._answer(body, stop)
        except RequestRefused as refusal:
            return refusal

    def _answer(self, body: Mapping[str, Any], stop: threading.Event) -> str:
        reply = self._request("POST", "/v1/chat/completions", body, stop)
        try:
            content = reply["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            raise ServerError(
                f"the server at {self.url} gave no answer in the form of OpenAI's chat completions, but "
                f"{json.dumps(reply, ensure_ascii=False)[:200]}; is this its chat address?"
            ) from None
        return content if isinstance(content, str) else ""

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None, stop: threading.Event) -> Any:
        began = time.monotonic()
        for attempt in range(self._retries + 1):
            self._pace.wait(stop)
            if stop.is_set():
                raise ServerError(f"the chat server at {self.url} was not asked: another request has failed")
            try:
                return self._once(method, path, body)
            except Trouble as trouble:
                if attempt == self._retries:
                    raise self._gave_up(str(trouble), attempt + 1, time.monotonic() - began) from None
                pause = trouble.wait
                if pause is None:
                    pause = min(self._backoff * 2**attempt, LONGEST_PAUSE) * random.uniform(0.8, 1.0)
                pause = min(pause, LONGEST_WAIT)
                LOG.warning("chat server %s: %s; trying again in %.1f s", self.url, trouble, pause)
                self.retried += 1
                stop.wait(pause)
        raise AssertionError("unreachable")

    def _once(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        import httpx

        key = os.environ.get(self._key_variable)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        deadline = time.monotonic() + self._timeout
        content = bytearray()
        try:
            with self._client().stream(method, self.url + path, json=body, headers=headers) as response:
                for chunk in response.iter_bytes():
                    content += chunk
                    if time.monotonic() > deadline:
                        raise Trouble(f"no whole answer within {self._timeout:g} s (timeout)")
        except httpx.TimeoutException:
            raise Trouble(f"no answer within {self._timeout:g} s (timeout)") from None
        except httpx.HTTPError as error:
            raise Trouble(f"{error or type(error).__name__}") from None
        if response.status_code in TRANSIENT:
            raise Trouble(
                f"status {response.status_code}{_error_text(content)}", _seconds(response.headers.get("retry-after"))
            )
        if response.status_code != 200:
            kinds = {400: RequestRefused, 413: RequestRefused, 422: RequestRefused, 404: NotThere}
            kind = kinds.get(response.status_code, ServerError)
            raise kind(self._refused(response.status_code, path, content))
        try:
            return json.loads(content)
        except ValueError:
            raise Trouble(f"an answer that is no JSON: {_clip(content)!r}") from None

    def _client(self) -> httpx.Client:
        import httpx

        with self._lock:
            if self._connected is None:
                # A server on this machine is not asked through a proxy, whatever the environment says.
                local = urlsplit(self.url).hostname in LOCAL
                self._connected = httpx.Client(timeout=self._timeout, trust_env=not local, limits=httpx.Limits())
            return self._connected

    def _gave_up(self, what: str, tries: int, seconds: float) -> ServerError:
        model = f" (model {self._model})" if self._model else ""
        times = "once" if tries == 1 else f"{tries} times in {seconds:.0f} s"
        return ServerError(
            f"the chat server at {self.url}{model} did not answer, asked {times}: {what}. Start it or wait until it is "
            f"up, then run the same command again; or give another address, a longer timeout or more retries"
        )

    def _refused(self, status: int, path: str, content: bytes | bytearray) -> str:
        hints = {
            401: f"; put its key into the environment variable {self._key_variable}",
            403: f"; put a key that may use it into the environment variable {self._key_variable}",
            404: "; is the address right, and is the model one it serves?",
        }
        model = f" for model {self._model}" if self._model else ""
        return f"the chat server at {self.url} refused {path}{model}: status {status}{_error_text(content)}{hints.get(status, '')}"


class Pace:
    """Limits calls to a number per second; 0: no limit."""

    def __init__(self, per_second: float) -> None:
        self._interval = 1 / per_second if per_second else 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self, stop: threading.Event) -> None:
        """Return when it is this caller's turn, or when ``stop`` is set."""
        if not self._interval:
            return
        with self._lock:
            turn = max(self._next, time.monotonic())
            self._next = turn + self._interval
        stop.wait(turn - time.monotonic())


def in_parallel(ask: Callable[[Q], T], questions: Sequence[Q], concurrency: int) -> list[T]:
    """Call ``ask`` for every question in parallel and return the answers in order; the first failure is raised at once."""
    if len(questions) <= 1:
        return [ask(question) for question in questions]
    pool = ThreadPoolExecutor(min(concurrency, len(questions)))
    try:
        asked = [pool.submit(ask, question) for question in questions]
        for failed in (future for future in wait(asked, return_when=FIRST_EXCEPTION).done if future.exception()):
            failed.result()
        return [future.result() for future in asked]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _base_address(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"chat server address {url!r} is none; accepted: http://HOST:PORT or https://HOST, with or without /v1"
        )
    if parts.username or parts.password:
        raise ConfigError(
            f"the address of the chat server at {parts.hostname} holds a name or password; keys belong in the environment"
        )
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def _error_text(content: bytes | bytearray) -> str:
    """Return the server's error message, shortened, or nothing."""
    text = _clip(content)
    try:
        reply = json.loads(content)
        error = reply.get("error", reply)
        text = str(error.get("message", error))[:300] if isinstance(error, dict) else str(error)[:300]
    except (ValueError, AttributeError):
        pass
    return f": {text}" if text else ""


def _clip(content: bytes | bytearray) -> str:
    return content[:200].decode("utf-8", "replace").strip()


def _seconds(retry_after: str | None) -> float | None:
    """Return the seconds of a Retry-After header, which is a number or a date; None without one."""
    if retry_after is None:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None
