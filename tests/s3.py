"""An S3 server of this machine, in a process of its own, and what goes wrong between a client and its bucket."""

from __future__ import annotations

import http.client
import os
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fsspec

_START_S = 60
_KEYS = {"AWS_ACCESS_KEY_ID": "nightminer", "AWS_SECRET_ACCESS_KEY": "nightminer", "AWS_DEFAULT_REGION": "us-east-1"}
_ERROR = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'


@dataclass
class Faults:
    """Shares of requests that go wrong, in this order; `seen` counts what happened, `requests` what was asked.

    unavailable: answered 503 without being done. slow: done after `slow_s`. cut: the connection ends before anything is
    done. lost: it is done, and the answer never arrives. expired: answered as with credentials that have ended.
    """

    unavailable: float = 0.0
    slow: float = 0.0
    cut: float = 0.0
    lost: float = 0.0
    expired: float = 0.0
    slow_s: float = 0.3
    seen: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)
    draw: random.Random = field(default_factory=lambda: random.Random(0))

    def next(self, method: str) -> str:
        share = self.draw.random()
        self.requests[method] += 1
        for name in ("unavailable", "slow", "cut", "lost", "expired"):
            if share < getattr(self, name):
                self.seen[name] += 1
                return name
            share -= getattr(self, name)
        return "none"


@contextmanager
def s3_bucket(name: str = "bucket", faults: Faults | None = None) -> Iterator[str]:
    """Yields s3://<name>, reached as users reach theirs: by the environment, which later processes inherit.

    Args:
        faults: what goes wrong, once the bucket is there; may be changed meanwhile.
    """
    port = _free_port()
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    before = {key: os.environ.get(key) for key in (*_KEYS, "AWS_ENDPOINT_URL")}
    proxy = None
    try:
        os.environ.update(_KEYS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"})
        _wait(port)
        _forget_filesystems()
        fsspec.filesystem("s3").mkdir(name)
        if faults is not None:
            proxy = _proxy(port, faults)
            os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{proxy.server_port}"
            _forget_filesystems()
        yield f"s3://{name}"
    finally:
        if proxy is not None:
            proxy.shutdown()
            proxy.server_close()
        server.terminate()
        server.wait()
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
        _forget_filesystems()


def _proxy(port: int, faults: Faults) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = faults.next(self.command)
            if fault == "unavailable":
                return self._answer(503, {}, _ERROR.format(code="SlowDown", message="reduce your rate").encode())
            if fault == "expired":
                return self._answer(400, {}, _ERROR.format(code="ExpiredToken", message="token expired").encode())
            if fault == "cut":
                return self._hang_up()
            if fault == "slow":
                time.sleep(faults.slow_s)
            upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            headers = {key: value for key, value in self.headers.items() if key.lower() != "connection"}
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            content = answer.read()
            upstream.close()
            if fault == "lost":
                return self._hang_up()
            return self._answer(answer.status, dict(answer.getheaders()), content)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _forward

        def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
            kept = {
                k: v
                for k, v in headers.items()
                if k.lower() not in ("connection", "transfer-encoding", "server", "date")
            }
            if self.command != "HEAD":
                kept = {k: v for k, v in kept.items() if k.lower() != "content-length"} | {
                    "Content-Length": str(len(content))
                }
            self.send_response(status)
            for key, value in kept.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def _hang_up(self) -> None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait(port: int) -> None:
    until = time.monotonic() + _START_S
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/data.json", timeout=5).close()
            return
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def _forget_filesystems() -> None:
    """They keep the endpoint that they were made with."""
    import s3fs

    from system.logs import files

    files._filesystem.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()
