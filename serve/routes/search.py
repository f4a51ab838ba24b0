"""Search, and the hardest scenes."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Query

from serve.answers import search_answer
from serve.context import Context, Ctx, Reader
from serve.cursors import ForeignCursorError, Place, question_of
from serve.filters_in_url import UrlFilters
from serve.models import (
    MAX_TOP,
    Cursor,
    Filters,
    ImageQuery,
    SceneQuery,
    SearchAnswer,
    SearchRequest,
    TableTag,
    TextQuery,
    Weights,
)
from serve.problems import ProblemError, problem_docs
from serve.queries import parts_of, scene_filter
from serve.search_store import SearchStore, StaleCursorError, View
from system.errors import ConfigError
from system.store.detections import Detected, among_detected, newest_detections
from system.store.filters import SceneFilter

router = APIRouter(prefix="/v1", tags=["search"])
ERRORS = problem_docs(401, 403, 404, 409, 410, 413, 415, 422, 429, 503)
Top = Annotated[int, Query(ge=1, le=MAX_TOP)]


@router.post("/search", summary="Search by words, picture or scene", responses={**problem_docs(400), **ERRORS})
async def search(request: SearchRequest, context: Ctx, _: Reader) -> SearchAnswer:
    """Scenes that pass the filters, best first, each with the parts of its score.

    Without `query` the scenes are ordered by the other weights, hardness where all are zero. Pages are cut from one
    ranking of one table version, so that they neither repeat nor miss a scene while rows arrive. What a detector found
    is that of the first page on all of them; it is not kept by run, so `as_of` does not go back to what was found then.
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
    """One page, within the time that a request may take. Raises ProblemError."""
    async with context.in_time():
        return await _answer(request, context)


async def _answer(request: SearchRequest, context: Context) -> SearchAnswer:
    store = context.services.store
    view, place = await _begin(request, context)
    is_encoded = isinstance(request.query, TextQuery | ImageQuery)
    vector = place.query_E if is_encoded else None
    if vector is None:
        vector = await context.queries.vector(request.query, view)
    if is_encoded:
        place = replace(place, query_E=vector)
    if request.where.detected and place.detections is None:
        place = replace(place, detections=await context.run(newest_detections, store.location))
    itself = request.query.scene_id if isinstance(request.query, SceneQuery) else None
    where, notes = await passing(request.where, context, itself, place.detections)
    if request.where.detected and request.as_of is not None:
        notes = [*notes, f"detections are not kept by run: those of now were asked for, not those of {request.as_of}"]
    try:
        page = await context.run(store.search, view, place, vector, where, parts_of(request.weights), request.top)
    except ConfigError as error:
        raise ProblemError(404, "unknown_name", str(error)) from error
    context.metrics.version.labels(context.metrics.replica).set(page.view.snapshot.version)
    return search_answer(page, notes)


async def _begin(request: SearchRequest, context: Context) -> tuple[View, Place]:
    """What a page looks at and where it begins. Raises ProblemError: as `pinned_view`, or a cursor that cannot be."""

    def begin(store: SearchStore) -> tuple[View, Place]:
        return store.begin(question_of(request), request.cursor, request.as_of)

    try:
        return await context.run(begin, context.services.store)
    except ForeignCursorError as error:
        told = "this cursor belongs to another question; send it with all else as it was"
        raise ProblemError(409, "foreign_cursor", told) from error
    except StaleCursorError as error:
        told = "the version of the table that this cursor pins was removed; start again without a cursor"
        raise ProblemError(410, "stale_cursor", told) from error
    except ConfigError as error:
        raise ProblemError(404, "unknown_version", str(error)) from error


async def passing(
    filters: Filters, context: Context, not_scene_id: str | None = None, detections: int | None = None
) -> tuple[SceneFilter, list[str]]:
    """The filter, and what a client should know of it.

    Args:
        detections: version of their table; the newest, if not given.
    Raises:
        ProblemError: detections that cannot be asked for.
    """
    where, notes = scene_filter(filters, not_scene_id)
    if not filters.detected and filters.detector is None:
        return where, notes
    wanted = [Detected(**each.model_dump()) for each in filters.detected]
    location = context.services.store.location
    try:
        narrowed = await context.run(among_detected, location, where, wanted, filters.detector, detections)
    except ConfigError as error:
        raise ProblemError(409, "cannot_ask_for_detections", str(error)) from error
    return narrowed or SceneFilter(scene_ids=("",)), notes


async def pinned_view(context: Context, as_of: str | None) -> View:
    """What a request looks at. Raises ProblemError: no version has this tag."""
    try:
        return await context.run(context.services.store.view, as_of)
    except ConfigError as error:
        raise ProblemError(404, "unknown_version", str(error)) from error
