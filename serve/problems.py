"""Errors as problem+json (RFC 9457), each with a stable code and the request's id."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Scope

from serve.models import Problem
from system.errors import ModelError, StoreError

log = logging.getLogger("nightminer.serve")
MEDIA_TYPE = "application/problem+json"
_TITLES = {
    400: "Bad request",
    401: "Not authenticated",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict",
    410: "Gone",
    413: "Too large",
    415: "Unsupported picture",
    416: "Range not satisfiable",
    422: "Not valid",
    429: "Too many requests",
    500: "Internal error",
    503: "Not available",
}


class ProblemError(HTTPException):
    """What a route raises to answer with an error."""

    def __init__(self, status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, detail, headers)
        self.code = code


def busy(code: str, detail: str, retry_after_s: int, status: int = 503) -> ProblemError:
    """An answer that asks to come again."""
    return ProblemError(status, code, detail, {"Retry-After": str(retry_after_s)})


def problem_response(
    scope: Scope,
    status: int,
    code: str,
    detail: str,
    headers: dict[str, str] | None = None,
    errors: list[dict[str, Any]] | None = None,
) -> JSONResponse:
    """The answer to a request that failed."""
    scope.setdefault("state", {})["problem_code"] = code
    content = Problem(
        title=_TITLES.get(status, "Error"),
        status=status,
        detail=detail,
        code=code,
        request_id=scope["state"].get("request_id", ""),
        errors=errors,
    ).model_dump(exclude_none=True)
    return JSONResponse(content, status, headers, media_type=MEDIA_TYPE)


def add_problem_handlers(app: FastAPI, retry_after_s: int) -> None:
    """Turn everything that routes raise into problems. What was not foreseen is logged and told nobody."""

    async def of_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        code = error.code if isinstance(error, ProblemError) else _TITLES.get(error.status_code, "error").lower()
        headers = dict(error.headers) if error.headers else None
        return problem_response(request.scope, error.status_code, code.replace(" ", "_"), str(error.detail), headers)

    async def of_validation(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        # The input is not repeated: it may be a picture, and it may be a secret.
        errors = [{"where": ".".join(map(str, e["loc"])), "what": str(e["msg"])} for e in error.errors()[:20]]
        detail = "; ".join(f"{e['where']}: {e['what']}" for e in errors[:5])
        return problem_response(request.scope, 422, "not_valid", detail[:2000], errors=errors)

    async def of_store(request: Request, error: Exception) -> JSONResponse:
        log.error("request %s: %s", request.scope["state"].get("request_id"), error)
        told = "the store cannot be read now; the server's log says why"
        return problem_response(request.scope, 503, "store_unavailable", told, {"Retry-After": str(retry_after_s)})

    async def of_model(request: Request, error: Exception) -> JSONResponse:
        log.error("request %s: %s", request.scope["state"].get("request_id"), error)
        told = "a model cannot answer now; the server's log says why"
        return problem_response(request.scope, 503, "model_unavailable", told, {"Retry-After": str(retry_after_s)})

    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(RequestValidationError, of_validation)
    app.add_exception_handler(StoreError, of_store)
    app.add_exception_handler(ModelError, of_model)


def problem_docs(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses=` of a route, for OpenAPI."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": _TITLES[status], "content": {MEDIA_TYPE: {"schema": schema}}} for status in statuses
    }
