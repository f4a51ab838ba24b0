"""Search, and the hardest scenes."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from serve.answers import search_answer
from serve.context import Context, Ctx, Reader
from serve.filters_in_url import UrlFilters
from serve.models import MAX_TOP, Cursor, Filters, SceneQuery, SearchAnswer, SearchRequest, TableTag, Weights
from serve.problems import ProblemError, problem_docs
from serve.queries import parts_of, scene_filter
from serve.search_store import ForeignCursorError, Page, StaleCursorError, View
from system.errors import ConfigError
from system.store.detections import Detected, among_detected
from system.store.filters import SceneFilter

router = APIRouter(prefix="/v1", tags=["search"])
ERRORS = problem_docs(401, 403, 404, 409, 410, 413, 415, 422, 429, 503)
Top = Annotated[int, Query(ge=1, le=MAX_TOP)]


@router.post("/search", summary="Search by words, picture or scene", responses={**problem_docs(400), **ERRORS})
async def search(request: SearchRequest, context: Ctx, _: Reader) -> SearchAnswer:
    """Scenes that pass the filters, best first, each with the parts of its score.

    Without `query` the scenes are ordered by the other weights, hardness where all are zero. Pages are cut from one
    ranking of one table version, so that they neither repeat nor miss a scene while rows arrive.
    """
    return await answer_search(request, context)


@router.get("/hard", summary="The hardest scenes", responses=ERRORS)
async def hard(
    where: UrlFilters,
    context: Ctx,
    _: Reader,
    top: Top = 24,
    cursor: Annotated[Cursor | None, Query()] = None,
    as_of: Annotated[TableTag | None, Query()] = None,
) -> SearchAnswer:
    """By hardness: risk, ambiguity and rarity as percentile ranks among all scenes, weighted."""
    weights = Weights(similarity=0, hardness=1)
    return await answer_search(
        SearchRequest(where=where, weights=weights, top=top, cursor=cursor, as_of=as_of), context
    )


async def answer_search(request: SearchRequest, context: Context) -> SearchAnswer:
    """One page. Raises ProblemError."""
    view = await pinned_view(context, request.as_of)
    vector = await context.queries.vector(request.query, view)
    itself = request.query.scene_id if isinstance(request.query, SceneQuery) else None
    where, notes = await passing(request.where, context, itself)
    weights, store = parts_of(request.weights), context.services.store
    try:
        page: Page = await context.run(store.search, vector, where, weights, request.top, request.cursor, request.as_of)
    except ForeignCursorError as error:
        told = "this cursor belongs to another question; send it with all else as it was"
        raise ProblemError(409, "foreign_cursor", told) from error
    except StaleCursorError as error:
        told = "the version of the table that this cursor pins was removed; start again without a cursor"
        raise ProblemError(410, "stale_cursor", told) from error
    except ConfigError as error:
        raise ProblemError(404, "unknown_name", str(error)) from error
    context.metrics.version.labels(context.metrics.replica).set(page.view.snapshot.version)
    return search_answer(page, notes)


async def passing(filters: Filters, context: Context, not_scene_id: str | None = None) -> tuple[SceneFilter, list[str]]:
    """The filter, and what a client should know of it. Raises ProblemError: detections that cannot be asked for."""
    where, notes = scene_filter(filters, not_scene_id)
    if not filters.detected and filters.detector is None:
        return where, notes
    wanted = [Detected(**each.model_dump()) for each in filters.detected]
    try:
        narrowed = await context.run(among_detected, context.services.store.location, where, wanted, filters.detector)
    except ConfigError as error:
        raise ProblemError(409, "cannot_ask_for_detections", str(error)) from error
    return narrowed or SceneFilter(scene_ids=("",)), notes


async def pinned_view(context: Context, as_of: str | None) -> View:
    """What a request looks at. Raises ProblemError: no version has this tag."""
    try:
        return await context.run(context.services.store.view, as_of)
    except ConfigError as error:
        raise ProblemError(404, "unknown_version", str(error)) from error
