"""The application: FastAPI over a few services. Knows no Ray, so that tests and a single process need none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.context import Authenticate, Context
from serve.limits import BodyLimit
from serve.models import Problem
from serve.observe import Metrics, Observe, audit_logger
from serve.parameters import known_parameters
from serve.problems import add_problem_handlers
from serve.routes import catalogue, frames, health, infrared, scenes, search, sets
from serve.services import Services
from serve.settings import ServeSettings

WEB = Path(__file__).with_name("web")
_DESCRIPTION = """Search mined driving scenes, look at them, take sets of them away, and detect in infrared pictures.

Times are nanoseconds since 1970. Every error is `application/problem+json` with a `code` and a `request_id`.
A 503 or 429 carries `Retry-After`."""


def create_app(services: Services, settings: ServeSettings) -> FastAPI:
    """The whole application.

    The review page is mounted at / where its folder is there.
    """
    app = FastAPI(
        title="Nightminer", version="1", description=_DESCRIPTION, docs_url=None, redoc_url=None,
        openapi_url="/openapi.json", dependencies=[Depends(known_parameters)],
    )  # fmt: skip
    metrics = Metrics(settings.replica)
    context = Context(services, settings, metrics)
    app.state.context = context
    for module in (health, search, scenes, frames, catalogue, infrared, sets):
        app.include_router(module.router)
    add_problem_handlers(app, settings.limits.retry_after_s)
    # The last one added is the outermost.
    app.add_middleware(HeadAsGet)
    app.add_middleware(BodyLimit, limits=settings.limits)
    app.add_middleware(Authenticate, context=context)
    app.add_middleware(Observe, metrics=metrics, audit=audit_logger(settings))
    if (WEB / "index.html").is_file():
        app.mount("/", StaticFiles(directory=WEB, html=True), name="web")
    _describe_problems(app)
    return app


class HeadAsGet:
    """Answers HEAD as GET without its body: FastAPI's routes know no HEAD, and the page's files would say 404."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def bare(message: Message) -> None:
            is_body = message["type"] == "http.response.body"
            await send({**message, "body": b""} if is_body else message)

        as_get = {**scope, "method": "GET"}
        try:
            await self._app(as_get, receive, bare)
        finally:  # for the log
            scope.update({key: as_get[key] for key in ("route", "path_params") if key in as_get})


def _describe_problems(app: FastAPI) -> None:
    """Put the schema of problems into OpenAPI, which FastAPI's own of validation errors gives way to."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            components = schema.setdefault("components", {}).setdefault("schemas", {})
            components["Problem"] = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            for name in ("HTTPValidationError", "ValidationError"):
                components.pop(name, None)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
