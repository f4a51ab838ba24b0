"""What keeps one client from taking the server from all others: sizes, and requests at a time.

Middleware is plain ASGI, so that a refused body is never read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.problems import ProblemError, busy, problem_response
from serve.settings import Limits

UPLOAD_PATHS = ("/v1/ir/detect",)
# What multipart adds around the pictures themselves.
_MULTIPART_BYTES = 64 * 1024


class BodyLimit:
    """Refuses bodies over a limit: by their stated length before a byte is read, or as soon as too much has come."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app, self._limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_upload = scope["path"] in UPLOAD_PATHS
        most = self._limits.max_upload_bytes + _MULTIPART_BYTES if is_upload else self._limits.max_json_bytes
        stated = next((value for name, value in scope["headers"] if name == b"content-length"), None)
        told = f"a body of at most {most} bytes is taken here"
        if stated is not None and (not stated.isdigit() or int(stated) > most):
            headers = {"Connection": "close"}
            await problem_response(scope, 413, "body_too_large", told, headers)(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > most:
                raise ProblemError(413, "body_too_large", told, {"Connection": "close"})
            return message

        await self._app(scope, counted, send)


class InFlight:
    """Requests that are being answered, all together and by token."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.total = 0
        self.by_token: Counter[str] = Counter()

    @contextmanager
    def admit(self, token: str) -> Iterator[None]:
        """Count a request while it lasts.

        Raises:
            ProblemError: 429, this token has enough of them; 503, the server has.
        """
        wait_s = self._limits.retry_after_s
        if self.total >= self._limits.max_in_flight:
            raise busy("overloaded", "the server answers as many requests as it takes; try again", wait_s)
        if self.by_token[token] >= self._limits.token_concurrency:
            told = f"this token has {self.by_token[token]} requests under way, which is what one may have; try again"
            raise busy("too_many_at_once", told, wait_s, status=429)
        self.total += 1
        self.by_token[token] += 1
        try:
            yield
        finally:
            self.total -= 1
            self.by_token[token] -= 1
            if not self.by_token[token]:
                del self.by_token[token]
