"""A client of the server: typed answers, and patience where the server asks for it. Knows no FastAPI and no Ray."""

from __future__ import annotations

import base64
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx2 as httpx
from pydantic import BaseModel, ValidationError

from serve.models import (
    DetectAnswer,
    Filters,
    Hit,
    Overview,
    Problem,
    SceneDetail,
    SearchAnswer,
    SearchRequest,
    SetDetail,
    Weights,
)
from system.errors import ConfigError, DataError, NightminerError

Model = TypeVar("Model", bound=BaseModel)
# What a server says when it will answer later; anything else is final.
_LATER = (429, 503)
# What changes nothing on the server may be sent twice. Anything else is sent again only where nothing was begun: nobody
# took the connection, or the answer says that the request was refused at the door.
_REPEATABLE_POSTS = ("/v1/search", "/v1/ir/detect")
_NOT_CONNECTED = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_NOTHING_BEGUN = ("overloaded", "tokens_unavailable")
_LONGEST_WAIT_S = 30.0
# Longer than a server takes for an export (limits.export_timeout_s), and than what stands in front of it waits.
_EXPORT_TIMEOUT_S = 720.0


class ServiceError(NightminerError):
    """The server refused, or could not be reached.

    Args:
        status: of HTTP, or None where there was no answer. problem: what the server said.
    """

    exit_code = 8

    def __init__(self, message: str, status: int | None = None, problem: Problem | None = None) -> None:
        super().__init__(message)
        self.status, self.problem = status, problem


class QueryClient:
    """Talks to one server; a context manager. Requests are tried again after 429, 503 and broken connections.

    What saves something is sent again only where the server cannot have begun it.
    """

    def __init__(
        self,
        url: str,
        token: str,
        tries: int = 5,
        timeout_s: float = 60.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """
        Args:
            tries: of each request, all in all.
        Raises:
            ConfigError: a token that no server makes.
        """
        if not token.isascii():
            raise ConfigError("the token holds a character that is not ASCII; give it as jobs/make_token.py printed it")
        headers = {"Authorization": f"Bearer {token}"}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout_s, transport=transport)
        self._tries = tries

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._http.close()

    def search(
        self,
        text: str | None = None,
        image: Path | None = None,
        scene: str | None = None,
        where: Filters | None = None,
        weights: Weights | None = None,
        top: int = 24,
        cursor: str | None = None,
        as_of: str | None = None,
    ) -> SearchAnswer:
        """A page of scenes; without text, image and scene the hardest.

        Raises:
            ConfigError: more than one of them, or one that no server takes. DataError: the image cannot be read.
            ServiceError.
        """
        if sum(query is not None for query in (text, image, scene)) > 1:
            raise ConfigError("name one of text, image and scene, not several")
        query: dict[str, Any] | None = None
        if text is not None:
            query = {"kind": "text", "text": text}
        elif scene is not None:
            query = {"kind": "scene", "scene_id": scene}
        elif image is not None:
            query = {"kind": "image", "image_base64": base64.b64encode(_read(image))}
        try:
            request = SearchRequest(
                query=query,  # type: ignore[arg-type]
                where=where or Filters(),
                weights=weights or Weights(),
                top=top,
                cursor=cursor,
                as_of=as_of,
            )
        except ValidationError as error:
            raise ConfigError(what_is_wrong(error)) from error
        return self._asked(SearchAnswer, "POST", "/v1/search", json=request.model_dump(mode="json"))

    def pages(self, most: int, **question: Any) -> Iterator[Hit]:
        """Up to `most` results over as many pages as it takes, all of one version of the table."""
        cursor = None
        while most > 0:
            page = self.search(**question, top=min(most, 100), cursor=cursor)
            yield from page.hits
            most -= len(page.hits)
            cursor = page.next_cursor
            if cursor is None:
                return

    def scene(self, scene_id: str) -> SceneDetail:
        """All that is known of a scene. Raises ServiceError."""
        return self._asked(SceneDetail, "GET", f"/v1/scenes/{scene_id}")

    def overview(self) -> Overview:
        """What the store holds. Raises ServiceError."""
        return self._asked(Overview, "GET", "/v1/overview")

    def detect(self, pictures: Sequence[Path], min_score: float = 0.3) -> DetectAnswer:
        """Boxes in infrared pictures, in their order.

        Raises:
            DataError: a picture cannot be read here. ServiceError.
        """
        files = [("pictures", (path.name, _read(path), "application/octet-stream")) for path in pictures]
        return self._asked(DetectAnswer, "POST", "/v1/ir/detect", params={"min_score": min_score}, files=files)

    def save_set(self, name: str, scene_ids: Sequence[str], note: str = "") -> SetDetail:
        """Keep scenes. Raises ServiceError: where a connection broke, they may have been kept nevertheless."""
        body = {"name": name, "scene_ids": list(scene_ids), "note": note}
        return self._asked(SetDetail, "POST", "/v1/sets", json=body)

    def export(self, set_id: str, kind: str) -> bytes:
        """A set as parquet, csv, coco, fiftyone or nuscenes. Raises ServiceError."""
        return self._send(
            "GET", f"/v1/sets/{set_id}/export", params={"format": kind}, timeout=_EXPORT_TIMEOUT_S
        ).content

    def _asked(self, model: type[Model], method: str, path: str, **options: Any) -> Model:
        answer = self._send(method, path, **options)
        try:
            return model.model_validate_json(answer.content)
        except ValidationError as error:
            told = f"{method} {path}: expected a {model.__name__}, found {error.error_count()} faults in the answer"
            raise ServiceError(f"{told}; is the server of another version?", answer.status_code) from error

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        is_repeatable = method == "GET" or path in _REPEATABLE_POSTS
        for attempt in range(1, self._tries + 1):
            try:
                answer = self._http.request(method, path, **options)
            except httpx.HTTPError as error:
                if attempt == self._tries or not (is_repeatable or isinstance(error, _NOT_CONNECTED)):
                    raise ServiceError(f"{self._http.base_url}: {type(error).__name__}: {error}") from error
                time.sleep(_wait_s(None, attempt))
                continue
            if answer.status_code < 400:
                return answer
            refused = _refused(method, path, answer)
            code = refused.problem.code if refused.problem else None
            is_harmless = is_repeatable or answer.status_code == 429 or code in _NOTHING_BEGUN
            if answer.status_code not in _LATER or attempt == self._tries or not is_harmless:
                raise refused
            time.sleep(_wait_s(answer.headers.get("retry-after"), attempt))
        raise AssertionError("unreachable")


def what_is_wrong(error: ValidationError) -> str:
    """Each key that a request cannot hold, and why; without the values, which may be pictures."""
    return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors(include_input=False))


def _wait_s(retry_after: str | None, attempt: int) -> float:
    """As long as the server asks, else longer each time; and a little more, so that not all come back together."""
    asked_s = float(retry_after) if retry_after is not None and retry_after.isdigit() else 0.25 * 2**attempt
    return min(asked_s, _LONGEST_WAIT_S) * (1 + 0.2 * random.random())


def _refused(method: str, path: str, answer: httpx.Response) -> ServiceError:
    try:
        problem = Problem.model_validate_json(answer.content)
    except ValidationError:
        return ServiceError(f"{method} {path}: HTTP {answer.status_code}", answer.status_code)
    told = f"{method} {path}: {problem.status} {problem.code}: {problem.detail} (request {problem.request_id})"
    return ServiceError(told, answer.status_code, problem)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError("unreadable_file", f"{path}: {error.strerror}") from error
