"""Sets of scenes: save, list, take away."""

from __future__ import annotations

from typing import IO, Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.background import BackgroundTask
from starlette.responses import StreamingResponse

from serve.auth import TokenRecord
from serve.context import Context, Ctx, Reader, requires
from serve.exports import Check
from serve.models import SaveSet, SetDetail, SetId, SetList, SetSummary
from serve.problems import ProblemError, log, problem_docs
from serve.routes.search import pinned_view
from system.errors import ConfigError, DamagedError, DataError, StoppedError
from system.pipelines.export_set import FORMATS, ExportFormat, export_set
from system.store.sets import SavedSet, list_sets, read_set, remove_set, save_set, set_ids

router = APIRouter(prefix="/v1/sets", tags=["sets"])
Exporter = Annotated[TokenRecord, requires("export")]
Id = Annotated[SetId, Path()]
_ERRORS = problem_docs(401, 403, 404, 422, 429, 503)
_CHUNK = 1 << 18


@router.post(
    "", status_code=201, summary="Save a set", responses=problem_docs(400, 401, 403, 404, 409, 413, 422, 429, 503)
)
async def save(asked: SaveSet, context: Ctx, token: Exporter) -> SetDetail:
    """Scene ids in the order given, each once; every one of them must be in the store."""
    store = context.services.store
    view = await pinned_view(context, asked.search.as_of if asked.search else None)
    ids = list(dict.fromkeys(asked.scene_ids))
    found = await context.run(store.table, view, ids, ["scene_id"])
    missing = sorted(set(ids) - set(found["scene_id"].to_pylist()))
    if missing:
        told = f"{len(missing)} of {len(ids)} scenes are not in the store, e.g. {missing[0]}"
        raise ProblemError(404, "no_such_scene", told)
    if len(await context.run(set_ids, store.location)) >= context.limits.max_saved_sets:
        most = context.limits.max_saved_sets
        told = f"there are {most} sets, damaged ones too, which is what this server keeps; remove one"
        raise ProblemError(409, "too_many_sets", told)
    search = None
    if asked.search is not None:  # pictures are not kept with it
        search = asked.search.model_dump(mode="json", exclude={"query": {"image_base64"}, "cursor": True})
    as_of = await context.run(store.tag_of, view.snapshot.version)  # before it is saved: this may fail
    values: dict[str, Any] = {
        "name": asked.name,
        "note": asked.note,
        "created_by": token.name,
        "model_id": view.model["model_id"],
        "version": view.snapshot.version,
        "scene_ids": tuple(ids),
        "search": search,
    }
    return _detail(await context.run(save_set, store.location, values), as_of)


@router.get("", summary="Saved sets", responses=problem_docs(401, 403, 422, 429, 503))
async def sets(context: Ctx, _: Reader) -> SetList:
    """Newest first."""
    return SetList(sets=[_summary(saved) for saved in await context.run(list_sets, context.services.store.location)])


@router.get("/{set_id}", summary="A saved set", responses=_ERRORS)
async def saved_set(set_id: Id, context: Ctx, _: Reader) -> SetDetail:
    """With its scenes."""
    saved = await _find(context, set_id)
    return _detail(saved, await context.run(context.services.store.tag_of, saved.version))


@router.delete("/{set_id}", status_code=204, summary="Remove a set", responses=_ERRORS)
async def remove(set_id: Id, context: Ctx, token: Exporter) -> Response:
    """By the token that saved it, or by one with the scope admin, which need not be able to read it."""
    if "admin" not in token.scopes and await _saver(context, set_id) != token.name:
        told = "this set was saved by another, or is damaged; it takes the scope admin to remove it"
        raise ProblemError(403, "not_yours", told)
    try:
        await context.run(remove_set, context.services.store.location, set_id)
    except ConfigError as error:
        raise ProblemError(404, "no_such_set", str(error)) from error
    return Response(status_code=204)


@router.get(
    "/{set_id}/export",
    summary="Take a set away",
    response_class=Response,
    responses={
        200: {
            "content": {
                kind.media_type: {"schema": {"type": "string", "format": "binary"}} for kind in FORMATS.values()
            }
        },
        **problem_docs(409, 413),
        **_ERRORS,
    },
)
async def export(
    request: Request,
    set_id: Id,
    context: Ctx,
    token: Exporter,
    format: Annotated[ExportFormat, Query()] = "parquet",
) -> Response:
    """parquet, csv: a row a scene. coco, fiftyone: a zip with the small pictures. nuscenes: sample tokens as JSON.

    COCO's `annotations` is empty, because boxes of detectors are in pixels of original pictures, whose sizes the store
    does not keep; tags stand with its images and as `categories`.
    """
    saved = await _find(context, set_id)
    kind = FORMATS[format]

    def write(file: IO[bytes], check: Check) -> None:
        export_set(context.services.store.location, saved, format, file, check)

    try:
        file = await context.exports.write(token.name, write, request.is_disconnected)
    except StoppedError:
        return Response(status_code=503)  # to nobody
    except ConfigError as error:
        raise ProblemError(409, "cannot_export", str(error)) from error
    except DataError as error:
        # Its message names a path of the server's.
        log.error("set %s cannot be taken away as %s: %s", set_id, format, error)
        told = "nuScenes' tables of these scenes cannot be read; the server's log says why"
        raise ProblemError(409, error.code, told) from error
    size = file.tell()
    file.seek(0)
    headers = {
        "Content-Disposition": f'attachment; filename="nightminer-{set_id}-{format}.{kind.suffix}"',
        "Content-Length": str(size),
    }
    return StreamingResponse(
        _chunks(file), media_type=kind.media_type, headers=headers, background=BackgroundTask(file.close)
    )


def _chunks(file: IO[bytes]) -> Any:
    while chunk := file.read(_CHUNK):
        yield chunk


async def _find(context: Context, set_id: str) -> SavedSet:
    try:
        return await context.run(read_set, context.services.store.location, set_id)
    except ConfigError as error:
        raise ProblemError(404, "no_such_set", str(error)) from error


async def _saver(context: Context, set_id: str) -> str | None:
    """Who saved it; None where the set is damaged."""
    try:
        return (await _find(context, set_id)).created_by
    except DamagedError:
        return None


def _summary(saved: SavedSet) -> SetSummary:
    return SetSummary(**_values(saved))


def _detail(saved: SavedSet, as_of: str | None) -> SetDetail:
    return SetDetail(**_values(saved), scene_ids=list(saved.scene_ids), search=saved.search, as_of=as_of)


def _values(saved: SavedSet) -> dict[str, Any]:
    values = saved.model_dump(exclude={"scene_ids", "search"})
    return values | {"num_scenes": len(saved.scene_ids)}
