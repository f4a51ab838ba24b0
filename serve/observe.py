"""Around every request: its id, security headers, a line in the audit log, figures for Prometheus, and a last resort.

The audit log says who asked which route about which scene, and what came of it. It never holds a token, a query, a
header or a picture.
"""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from logging.handlers import WatchedFileHandler
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.problems import log, problem_response
from serve.settings import ServeSettings

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
# Pictures are fetched with a header, hence blob:; previews of uploads come within their answer, hence data:.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "font-src 'self'; connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Metrics:
    """What /metrics shows. Each replica counts for itself and says which it is."""

    def __init__(self, replica: str) -> None:
        self.registry = CollectorRegistry()
        self.replica = replica
        self.requests = Counter(
            "nightminer_requests", "Requests answered", ["replica", "route", "method", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "nightminer_request_seconds",
            "Time to the last byte",
            ["replica", "route"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=self.registry,
        )
        self.problems = Counter(
            "nightminer_problems", "Errors by their code", ["replica", "code"], registry=self.registry
        )
        self.pictures = Counter(
            "nightminer_pictures", "Uploaded pictures by what came of them", ["replica", "code"], registry=self.registry
        )
        self.in_flight = Gauge(
            "nightminer_requests_in_flight", "Requests under way", ["replica"], registry=self.registry
        )
        self.version = Gauge(
            "nightminer_table_version",
            "Newest version of the scenes seen",
            ["replica"],
            registry=self.registry,
        )


def audit_logger(settings: ServeSettings) -> logging.Logger:
    """Writes one JSON object a line, to a file where one is named (which may be rotated), else to stderr."""
    logger = logging.getLogger(f"nightminer.audit.{settings.replica}")
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        handler: logging.Handler = logging.StreamHandler()
        if settings.audit_log is not None:
            handler = WatchedFileHandler(settings.audit_log, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
    return logger


class Observe:
    """The outermost middleware."""

    def __init__(self, app: ASGIApp, metrics: Metrics, audit: logging.Logger) -> None:
        self._app, self._metrics, self._audit = app, metrics, audit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["request_id"] = request_id(scope)
        started_s = time.perf_counter()
        status, sent = 0, 0

        async def watched(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = state["request_id"]
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
                if "cache-control" not in headers:
                    headers["Cache-Control"] = "no-store"
            elif message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
            await send(message)

        gauge = self._metrics.in_flight.labels(self._metrics.replica)
        gauge.inc()
        try:
            await self._app(scope, receive, watched)
        except Exception:  # noqa: BLE001 - the last resort: a client sees no traceback, the log does
            log.exception("request %s failed", state["request_id"])
            if not status:
                told = "something went wrong here; the server's log knows it by this request's id"
                await problem_response(scope, 500, "internal_error", told)(scope, receive, watched)
        finally:
            gauge.dec()
            self._record(scope, status, sent, time.perf_counter() - started_s)

    def _record(self, scope: Scope, status: int, sent: int, seconds: float) -> None:
        state, metrics = scope["state"], self._metrics
        route = _route(scope)
        metrics.requests.labels(metrics.replica, route, scope["method"][:10], status).inc()
        metrics.seconds.labels(metrics.replica, route).observe(seconds)
        code = state.get("problem_code")
        if code:
            metrics.problems.labels(metrics.replica, code).inc()
        line: dict[str, Any] = {
            "t": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "request_id": state["request_id"],
            "token": state.get("token_name"),
            "client": (scope.get("client") or (None,))[0],
            "method": scope["method"][:10],
            "route": route,
            "ids": {k: str(v)[:64] for k, v in scope.get("path_params", {}).items() if k in ("scene_id", "set_id")},
            "status": status,
            "code": code,
            "ms": round(1000 * seconds, 1),
            "bytes": sent,
        }
        self._audit.info(json.dumps(line))


def _route(scope: Scope) -> str:
    """The template and not the path, so that figures stay few and the log holds nothing that a client made up."""
    path: str | None = getattr(scope.get("route"), "path_format", None)
    return path or "(none)"


def request_id(scope: Scope) -> str:
    """What the client calls the request by `X-Request-ID`, if that is fit for a log, or a new id."""
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    return given.decode() if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
