"""One scene: all that is known of it, what is like it, and what came before and after."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from serve.answers import detail_of, known, thumbnail_frames
from serve.context import Context, Ctx, Reader
from serve.filters_in_url import UrlFilters
from serve.models import (
    Cursor,
    Moment,
    SceneDetail,
    SceneId,
    SceneQuery,
    SearchAnswer,
    SearchRequest,
    TableTag,
    Timeline,
    Weights,
)
from serve.problems import ProblemError, problem_docs
from serve.routes.search import ERRORS, Top, answer_search
from serve.search_store import Row, View
from system.errors import ConfigError

router = APIRouter(prefix="/v1/scenes", tags=["scenes"])
Scene = Annotated[SceneId, Path()]
AsOf = Annotated[TableTag | None, Query()]
_ERRORS = problem_docs(401, 403, 404, 422, 429, 503)


async def find_scene(context: Context, scene_id: str, as_of: str | None) -> tuple[Row, View]:
    """A scene's row. Raises ProblemError: there is none."""
    try:
        return await context.run(context.services.store.scene, scene_id, as_of)
    except ConfigError as error:
        raise ProblemError(404, "no_such_scene" if as_of is None else "unknown_name", str(error)) from error


@router.get("/{scene_id}", summary="All that is known of a scene", responses=_ERRORS)
async def scene(scene_id: Scene, context: Ctx, _: Reader, as_of: AsOf = None) -> SceneDetail:
    """Tags, risk with its most dangerous agents, bird's-eye tracks, pictures, and why it ranks where it does."""
    row, view = await find_scene(context, scene_id, as_of)
    pictures = await context.run(context.services.store.pictures, row)
    return detail_of(row, view, thumbnail_frames(scene_id, pictures))


@router.get("/{scene_id}/similar", summary="More like this one", responses=ERRORS)
async def similar(
    scene_id: Scene,
    where: UrlFilters,
    context: Ctx,
    _: Reader,
    top: Top = 24,
    cursor: Annotated[Cursor | None, Query()] = None,
    as_of: AsOf = None,
) -> SearchAnswer:
    """By cosine similarity of their vectors; the scene itself is not among them."""
    query = SceneQuery(kind="scene", scene_id=scene_id)
    request = SearchRequest(query=query, where=where, weights=Weights(), top=top, cursor=cursor, as_of=as_of)
    return await answer_search(request, context)


@router.get("/{scene_id}/timeline", summary="The scenes of its log, in order of time", responses=_ERRORS)
async def timeline(scene_id: Scene, context: Ctx, _: Reader, as_of: AsOf = None) -> Timeline:
    """Risk and hardness over the drive."""
    row, view = await find_scene(context, scene_id, as_of)
    rows = await context.run(context.services.store.timeline, view, row["source"], row["log_id"])
    moments = [
        Moment(
            scene_id=moment["scene_id"],
            t_start_ns=moment["t_start_ns"],
            t_end_ns=moment["t_end_ns"],
            risk=known(moment["risk"]),
            hardness=known(moment["hardness"]),
            tags=moment["tags"] or [],
        )
        for moment in rows
    ]
    return Timeline(source=row["source"], log_id=row["log_id"], moments=moments)
