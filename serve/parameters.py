"""Refuse query parameters that a route does not have: a misspelt filter would else be no filter, in silence."""

from __future__ import annotations

from fastapi import FastAPI, Request

from serve.problems import ProblemError


async def known_parameters(request: Request) -> None:
    """A dependency of every route.

    Raises:
        ProblemError: 422, naming what the route takes.
    """
    if not request.query_params:
        return
    app: FastAPI = request.app
    path = getattr(request.scope.get("route"), "path_format", "")
    described = app.openapi()["paths"].get(path, {}).get(request.method.lower(), {})
    known = [parameter["name"] for parameter in described.get("parameters", ()) if parameter["in"] == "query"]
    unknown = sorted(set(request.query_params) - set(known))
    if unknown:
        takes = f"it takes {', '.join(known)}" if known else "it takes none"
        raise ProblemError(422, "unknown_parameter", f"no parameter {unknown[0][:60]!r} here; {takes}")
