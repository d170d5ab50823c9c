"""A server that speaks OpenAI's chat protocol, on the standard library, for tests: answers are a Python function."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = str | dict[str, Any] | bytes  # content of the answer, or the whole object, or the raw body


class FakeChatServer:
    """Counts its requests; the first ones can be made to fail.

    Attributes:
        requests: bodies of the chat requests so far, those answered by a trouble included.
        headers: their headers.
        most_at_once: the largest number of requests under way together.
    """

    def __init__(
        self, answer: Callable[[list[dict[str, str]]], Reply], troubles: Sequence[tuple[int, dict[str, str]]] = (),
        *, seconds: float = 0.0, model: str = "fake-model", port: int = 0,
    ) -> None:  # fmt: skip
        """``troubles``: status and headers of the first answers; ``seconds``: duration of each answer."""
        self.answer, self.troubles, self.seconds, self.model = answer, list(troubles), seconds, model
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.most_at_once = self._now = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def reply(self, body: dict[str, Any], headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        with self._lock:
            self.requests.append(body)
            self.headers.append(headers)
            self.times.append(time.monotonic())
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            trouble = self.troubles.pop(0) if self.troubles else None
        time.sleep(self.seconds)
        try:
            if trouble is not None:
                return trouble[0], trouble[1], json.dumps({"error": {"message": "not now"}}).encode()
            said = self.answer(body["messages"])
        finally:
            with self._lock:
                self._now -= 1
        if isinstance(said, bytes):
            return 200, {}, said
        if isinstance(said, str):
            said = {"choices": [{"message": {"role": "assistant", "content": said}}]}
        return 200, {}, json.dumps(said).encode()


@contextmanager
def serve(answer: Callable[[list[dict[str, str]]], Reply], *troubles: int, **options: Any) -> Iterator[FakeChatServer]:
    """Run a server whose first answers have these statuses until the block ends."""
    server = FakeChatServer(answer, [(status, {}) for status in troubles], **options)
    try:
        yield server
    finally:
        server.close()


def _handler(server: FakeChatServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            known = {"/v1/models": {"data": [{"id": server.model}]}, "/get_model_info": {"model_path": server.model}}
            found = known.get(self.path)
            if server.model.startswith("sglang-only") and self.path == "/v1/models":
                found = None
            self._send(200 if found else 404, {}, json.dumps(found or {"error": "no such path"}).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._send(*server.reply(body, dict(self.headers)))

        def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
            try:
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)
            except OSError:
                pass  # the client has gone

        def log_message(self, format: str, *values: object) -> None:
            """Log nothing."""

    return Handler
