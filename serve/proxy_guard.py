"""Around Ray's HTTP proxy: where a replica dies with a request in its hands, the client is asked to come again.

Ray's proxy then ends without an answer, which the web server turns into a bare 500. Ray calls `middlewares` in every
proxy where its environment names it, see `serve/ray_environment.py`.
"""

from __future__ import annotations

import json

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.observe import SECURITY_HEADERS, request_id
from serve.problems import MEDIA_TYPE, log

# Requests that change nothing, so that they may be asked of another replica without the client knowing.
_TRIES = 3
_REPEATABLE = ("GET", "HEAD")
_REPEATABLE_POSTS = ("/v1/search",)
_MAX_KEPT_BYTES = 64 * 1024
_DETAILS = {
    "replica_lost": "the process that was answering ended; try again",
    "timed_out": "not answered in time; try again, or ask for less",
    "overloaded": "the server has more waiting than it takes; try again",
}
# What Ray's proxy answers by itself, as plain text: its time limit, and full queues or no replica.
_OF_RAY = {408: "timed_out", 503: "overloaded"}


class ProxyGuard:
    """Asks again where that is harmless, and answers 503 with Retry-After where no replica has answered.

    The request's id is given here, so that all who were asked log it by the same one as the client is told.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        identity = request_id(scope)
        others = [header for header in scope["headers"] if header[0] != b"x-request-id"]
        scope = {**scope, "headers": [*others, (b"x-request-id", identity.encode())]}
        body = _Body(receive)
        path, method = scope["path"], scope["method"]
        is_repeatable = method in _REPEATABLE or (method == "POST" and path in _REPEATABLE_POSTS)
        for _ in range(_TRIES if is_repeatable else 1):
            answer = _Answer(send)
            await self._app(dict(scope), body.replayed(), answer.send)
            if answer.of_ray is not None:
                await _answer(send, answer.of_ray, identity)
                return
            if answer.started or body.is_gone:
                return
            if not body.is_kept:
                break
        await _answer(send, "replica_lost", identity)


class _Answer:
    """Hands an answer on, but for one that Ray's proxy made by itself; of_ray: the code of that."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False
        self.of_ray: str | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            kinds = [value for name, value in message.get("headers", ()) if name.lower() == b"content-type"]
            if message["status"] in _OF_RAY and not any(b"json" in kind for kind in kinds):
                self.of_ray = _OF_RAY[message["status"]]
        if self.of_ray is None:
            self.started = True
            await self._send(message)


class _Body:
    """What the client sent, kept while it is small, so that it can be sent again."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._messages: list[Message] = []
        self._bytes = 0
        self.is_kept, self.is_gone = True, False

    def replayed(self) -> Receive:
        place = 0

        async def receive() -> Message:
            nonlocal place
            if self.is_kept and place < len(self._messages):
                place += 1
                return self._messages[place - 1]
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.is_gone = True
                return message
            self._bytes += len(message.get("body", b""))
            if self._bytes > _MAX_KEPT_BYTES:
                self.is_kept = False
                self._messages.clear()
            if self.is_kept:
                self._messages.append(message)
                place += 1
            return message

        return receive


async def _answer(send: Send, code: str, identity: str) -> None:
    log.warning("request %s: the proxy answers 503 %s", identity, code)
    problem = {
        "type": "about:blank",
        "title": "Not available",
        "status": 503,
        "detail": _DETAILS[code],
        "code": code,
        "request_id": identity,
    }
    content = json.dumps(problem).encode()
    told = SECURITY_HEADERS | {
        "Content-Type": MEDIA_TYPE,
        "Content-Length": str(len(content)),
        "Retry-After": "1",
        "X-Request-ID": identity,
        "Cache-Control": "no-store",
    }
    headers = [(name.lower().encode(), value.encode()) for name, value in told.items()]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def middlewares() -> list[Middleware]:
    """For Ray."""
    return [Middleware(ProxyGuard)]
