"""Whether the server lives, whether it can answer, and its figures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import JSONResponse

from serve.auth import TokenRecord
from serve.context import Context, Ctx, Reader, requires
from serve.models import Health, Me
from serve.problems import ProblemError, problem_docs
from serve.services import OverloadedError
from system.errors import NightminerError

router = APIRouter(tags=["health"])
# Of each model, to say that it is there.
_ANSWERS_WITHIN_S = 3.0
# Anybody may ask, so that models are asked once in so long.
_KEPT_S = 1.0


@router.get("/healthz", summary="Whether the process lives", responses=problem_docs(422))
async def healthz() -> Health:
    """No token needed. Touches neither store nor models."""
    return Health(status="ok")


@router.get(
    "/readyz", summary="Whether requests can be answered", responses={503: {"model": Health}, **problem_docs(422)}
)
async def readyz(context: Ctx) -> Response:
    """No token needed, so it tells what is amiss and not why; the log does. An answer is kept for a second.

    A model that has more waiting than it takes, or does not answer in time, is `busy`; the server is ready still.
    """
    async with context.readiness.lock:
        if time.monotonic() - context.readiness.looked_s >= _KEPT_S:
            context.readiness.checks = await _look(context)
            context.readiness.looked_s = time.monotonic()
        checks = context.readiness.checks
    is_ready = "unavailable" not in checks.values()
    status = "not ready" if not is_ready else "busy" if "busy" in checks.values() else "ok"
    health = Health(status=status, checks=checks)
    headers = {} if is_ready else {"Retry-After": str(context.limits.retry_after_s)}
    return JSONResponse(health.model_dump(), 200 if is_ready else 503, headers)


async def _look(context: Context) -> dict[str, str]:
    """By name: "ok", "busy" or "unavailable"."""
    checks: dict[str, str] = {}
    for name, check in (
        ("store", lambda: context.services.store.view()),
        ("tokens", context.tokens.records),
    ):
        try:
            await context.run(check)
            checks[name] = "ok"
        except (NightminerError, ProblemError):
            checks[name] = "unavailable"
    services = context.services
    models: dict[str, Callable[[], Awaitable[Any]]] = {"encoder": services.encoder.check}
    if services.detector is not None:
        models["detector"] = services.detector.describe
    for name, ask in models.items():
        try:
            async with asyncio.timeout(_ANSWERS_WITHIN_S):
                await ask()
            checks[name] = "ok"
        except (OverloadedError, TimeoutError):
            checks[name] = "busy"
        except Exception:  # noqa: BLE001 - whatever it is, it does not answer
            checks[name] = "unavailable"
    return checks


@router.get(
    "/metrics",
    summary="Figures for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}, **problem_docs(401, 403, 422, 429, 503)},
)
async def metrics(context: Ctx, _: Annotated[TokenRecord, requires("admin")]) -> Response:
    """Of the replica that answers; the label `replica` tells them apart."""
    return Response(generate_latest(context.metrics.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/me", summary="What a token may do", responses=problem_docs(401, 403, 422, 429, 503))
async def me(token: Reader) -> Me:
    """Name, scopes and end of the token that asks."""
    expires = None if token.expires is None else token.expires.isoformat()
    return Me(name=token.name, scopes=list(token.scopes), expires=expires)
