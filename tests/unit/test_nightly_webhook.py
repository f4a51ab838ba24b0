"""A night's summary reaches a real HTTP server, signed."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from system.errors import ConfigError
from system.pipelines.nightly.config import WebhookConfig
from system.pipelines.nightly.webhook import read_secret, send

SECRET = "correct horse battery staple"


class Receiver(ThreadingHTTPServer):
    """Remembers what it got; answers with the given codes in turn, then 204."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.codes: list[int] = []
        self.got: list[tuple[dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hooks/secret-path"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((dict(self.headers), body))
        self.send_response(self.server.codes.pop(0) if self.server.codes else 204)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def hook(url: str, **more) -> WebhookConfig:
    return WebhookConfig.parse({"url": url, "secret_env": "HOOK_SECRET", **more}, "test")


def test_the_receiver_can_tell_who_sent_it_and_when(receiver):
    assert send(hook(receiver.url), SECRET.encode(), {"night": "2026-11-26", "committed": 3}, "run-1") is None
    ((headers, body),) = receiver.got
    assert json.loads(body) == {"night": "2026-11-26", "committed": 3}
    timestamp = headers["X-Nightminer-Timestamp"]
    assert abs(time.time() - int(timestamp)) < 60
    signed = hmac.new(SECRET.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
    assert headers["X-Nightminer-Signature"] == f"sha256={signed}"
    assert headers["X-Nightminer-Delivery"] == "run-1"
    assert SECRET not in str(headers)


def test_an_overloaded_server_is_asked_again_and_another_refusal_is_not(receiver):
    pauses: list[float] = []
    receiver.codes = [503, 429]
    assert send(hook(receiver.url), b"s", {}, "run-1", pauses.append) is None
    assert len(receiver.got) == 3 and pauses == [1.0, 2.0]
    assert len({headers["X-Nightminer-Delivery"] for headers, _ in receiver.got}) == 1
    receiver.codes = [401]
    problem = send(hook(receiver.url), b"s", {}, "run-1", pauses.append)
    assert problem is not None and "HTTP 401" in problem and "secret-path" not in problem and len(receiver.got) == 4


def test_a_redirect_does_not_take_the_summary_elsewhere(receiver):
    receiver.codes = [307]
    assert "HTTP 307" in str(send(hook(receiver.url), b"s", {}, "run-1"))
    assert len(receiver.got) == 1


def test_nobody_there_is_told_and_no_error():
    problem = send(hook("http://127.0.0.1:9", attempts=2), b"s", {}, "run-1", lambda _: None)
    assert problem is not None and "did not take the summary: ConnectError" in problem


def test_the_secret_comes_from_the_environment_or_a_file_and_is_long_enough(tmp_path, monkeypatch):
    monkeypatch.setenv("HOOK_SECRET", f" {SECRET}\n")
    assert read_secret(hook("http://a.example")) == SECRET.encode()
    monkeypatch.setenv("HOOK_SECRET", "short")
    with pytest.raises(ConfigError, match="at least 16 bytes in the environment variable HOOK_SECRET, found 5"):
        read_secret(hook("http://a.example"))
    file = tmp_path / "secret"
    config = hook("http://a.example", secret_env=None, secret_file=str(file))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_secret(config)
    file.write_text(SECRET)
    assert read_secret(config) == SECRET.encode()
