"""What every route shares: who asks, what they may, and work that must not hold up the others."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, ParamSpec, TypeVar

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from serve.auth import AuthError, Scope, TokenBook, TokenRecord
from serve.exports import Exports
from serve.limits import InFlight
from serve.observe import Metrics
from serve.problems import ProblemError, busy, log, problem_response
from serve.queries import QueryVectors
from serve.services import Services
from serve.settings import Limits, ServeSettings
from system.errors import ConfigError

P = ParamSpec("P")
T = TypeVar("T")
# Pictures of clients and of logs decoded at a time: the peak of memory is so many, not as many as there are clients.
_DECODERS = 2
bearer = HTTPBearer(auto_error=False, description="A token of the server's token file.")


class Readiness:
    """What was found amiss when that was looked for last; `lock` is held while it is."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.checks: dict[str, str] = {}
        self.looked_s = -math.inf


class Context:
    """Of one application; lies in `app.state.context`."""

    def __init__(self, services: Services, settings: ServeSettings, metrics: Metrics) -> None:
        self.services, self.settings, self.metrics = services, settings, metrics
        self.tokens = TokenBook(settings.token_file)
        self.in_flight = InFlight(settings.limits)
        self.exports = Exports(settings.limits)
        self.readiness = Readiness()
        self.decoding = asyncio.Semaphore(_DECODERS)
        self.queries = QueryVectors(services, settings.limits, self.decoding)

    @property
    def limits(self) -> Limits:
        return self.settings.limits

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call something that blocks, in a thread. Raises ProblemError: as `in_time`."""
        async with self.in_time():
            return await run_in_threadpool(function, *args, **kwargs)

    @asynccontextmanager
    async def in_time(self) -> AsyncIterator[None]:
        """An end to what is done within; they may be nested.

        Raises:
            ProblemError: 503, it takes longer than a request may.
        """
        try:
            async with asyncio.timeout(self.limits.request_timeout_s):
                yield
        except TimeoutError as error:
            told = f"not answered within {self.limits.request_timeout_s:g} s; try again, or ask for less"
            raise busy("timed_out", told, self.limits.retry_after_s) from error


# Dependencies are coroutines, because FastAPI gives every plain function a thread.
async def context_of(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


def requires(scope: Scope) -> Any:
    """A dependency: lets those in whose token has the scope, and hands on the token's record."""

    async def check(request: Request, _: Annotated[Any, Depends(bearer)]) -> TokenRecord:
        record: TokenRecord = request.scope["state"]["token"]
        if scope not in record.scopes:
            told = f"this token has the scopes {', '.join(record.scopes)}; this needs {scope}"
            raise ProblemError(403, "scope_missing", told)
        return record

    return Depends(check)


Ctx = Annotated[Context, Depends(context_of)]
Reader = Annotated[TokenRecord, requires("read")]


class Authenticate:
    """Lets requests to /v1 and /metrics pass only with a token, before any of their body is read."""

    def __init__(self, app: ASGIApp, context: Context) -> None:
        self._app, self._context = app, context

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or not (path.startswith("/v1/") or path == "/metrics"):
            await self._app(scope, receive, send)
            return
        header = next((value for name, value in scope["headers"] if name == b"authorization"), None)
        try:
            record = self._context.tokens.authenticate(None if header is None else header.decode("latin-1"))
        except AuthError as error:
            told = {
                "missing": "expected a header `Authorization: Bearer TOKEN`",
                "malformed": "expected `Authorization: Bearer TOKEN`",
                "unknown": "this token is not known here",
                "expired": "this token has expired; ask for a new one",
            }[error.reason]
            challenge = (
                "Bearer"
                if error.reason == "missing"
                else f'Bearer error="invalid_token", error_description="{error.reason}"'
            )
            answer = problem_response(scope, 401, f"token_{error.reason}", told, {"WWW-Authenticate": challenge})
            await answer(scope, receive, send)
            return
        except ConfigError as error:
            log.error("%s", error)
            told = "the server cannot read its tokens; its log says why"
            answer = problem_response(scope, 503, "tokens_unavailable", told, {"Retry-After": "5"})
            await answer(scope, receive, send)
            return
        scope["state"]["token"], scope["state"]["token_name"] = record, record.name
        try:
            with self._context.in_flight.admit(record.name):
                await self._app(scope, receive, send)
        except ProblemError as error:  # refused at the door: nothing was answered yet
            answer = problem_response(
                scope, error.status_code, error.code, str(error.detail), dict(error.headers or {})
            )
            await answer(scope, receive, send)
