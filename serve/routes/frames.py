"""Pictures of a scene: the store's small ones, and those of its log where the server may read them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from serve.answers import frame_url, thumbnail_frames
from serve.context import Context, Ctx, Reader
from serve.models import FrameInfo, FrameList
from serve.pictures import encoded_again, jpeg_of, picture_response
from serve.problems import ProblemError, problem_docs
from serve.routes.scenes import AsOf, Scene, find_scene
from serve.search_store import Row
from system.errors import DataError
from system.logs.decoding import PictureLimits
from system.pipelines.originals import read_original, scene_frames
from system.records import Frame
from system.store.pictures import StoredPicture

router = APIRouter(prefix="/v1/scenes", tags=["scenes"])
Kind = Annotated[Literal["thumbnail", "original"], Query()]
_PICTURE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}},
    206: {"description": "One range", "content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}},
    304: {"description": "Not changed"},
    **problem_docs(401, 403, 404, 409, 416, 422, 429, 503),
}
_MAX_LONG_SIDE = 4096


@router.get(
    "/{scene_id}/frames", summary="Pictures of a scene", responses=problem_docs(401, 403, 404, 409, 422, 429, 503)
)
async def frames(scene_id: Scene, context: Ctx, _: Reader, kind: Kind = "thumbnail", as_of: AsOf = None) -> FrameList:
    """Originals are the keyframes of the log; where the log is out of reach, `notes` says so."""
    row, _view = await find_scene(context, scene_id, as_of)
    if kind == "thumbnail":
        pictures = await context.run(context.services.store.pictures, row)
        return FrameList(kind=kind, frames=thumbnail_frames(scene_id, pictures))
    if not context.settings.originals:
        return FrameList(kind=kind, frames=[], notes=["this server shows no originals"])
    try:
        found = await context.run(scene_frames, row)
    except DataError as error:
        return FrameList(kind=kind, frames=[], notes=[f"the log cannot be read: {error.code}"])
    counts: dict[str, int] = {}
    listed = []
    for frame in found:
        k = counts[frame.camera] = counts.get(frame.camera, -1) + 1
        url = frame_url(scene_id, frame.camera, k, "original")
        listed.append(
            FrameInfo(camera=frame.camera, k=k, t_ns=frame.t_ns, width=frame.width, height=frame.height, url=url)
        )
    return FrameList(kind=kind, frames=listed)


@router.get("/{scene_id}/cover", summary="The picture of a scene", response_class=Response, responses=_PICTURE)
async def cover(request: Request, scene_id: Scene, context: Ctx, _: Reader, as_of: AsOf = None) -> Response:
    """A front camera's where there is one; of several moments the middle one."""
    row, _view = await find_scene(context, scene_id, as_of)
    pictures = await context.run(context.services.store.pictures, row)
    if not pictures:
        raise ProblemError(404, "no_picture", f"scene {scene_id} has no pictures")
    front = [p for p in pictures if "front" in p.camera.lower()] or pictures
    camera = min(front, key=lambda p: (len(p.camera), p.camera)).camera
    chosen = [p for p in front if p.camera == camera]
    return picture_response(request, await _thumbnail(context, chosen[len(chosen) // 2]))


# Topics of ROS name cameras with slashes in them, which servers unquote before a route is looked for.
@router.get(
    "/{scene_id}/frames/{camera:path}/{k}", summary="A picture of a scene", response_class=Response, responses=_PICTURE
)
async def frame(
    request: Request,
    scene_id: Scene,
    camera: Annotated[str, Path(min_length=1, max_length=200)],
    k: Annotated[int, Path(ge=0, lt=100_000)],
    context: Ctx,
    _: Reader,
    kind: Kind = "thumbnail",
    long_side: Annotated[int | None, Query(ge=16, le=_MAX_LONG_SIDE, description="of an original, in pixels")] = 1280,
    as_of: AsOf = None,
) -> Response:
    """The k-th picture of a camera in order of time, as a JPEG that was encoded anew. Answers ranges and ETags."""
    row, _view = await find_scene(context, scene_id, as_of)
    if kind == "thumbnail":
        pictures = await context.run(context.services.store.pictures, row)
        of_camera = [picture for picture in pictures if picture.camera == camera]
        if k >= len(of_camera):
            raise _no_picture(scene_id, camera, k, len(of_camera))
        return picture_response(request, await _thumbnail(context, of_camera[k]))
    if not context.settings.originals:
        raise ProblemError(404, "no_originals", "this server shows no originals")
    return picture_response(request, await _original(context, row, camera, k, long_side))


async def _thumbnail(context: Context, picture: StoredPicture) -> bytes:
    try:
        return await context.run(encoded_again, picture.jpeg, picture.camera, PictureLimits())
    except DataError as error:
        raise ProblemError(409, error.code, "the stored picture is damaged") from error


async def _original(context: Context, row: Row, camera: str, k: int, long_side: int | None) -> bytes:
    try:
        of_camera = [frame for frame in await context.run(scene_frames, row) if frame.camera == camera]
        if k >= len(of_camera):
            raise _no_picture(row["scene_id"], camera, k, len(of_camera))
        limits = PictureLimits(max_pixels=context.limits.max_pixels)
        async with context.in_time(), context.decoding:
            return await run_in_threadpool(_jpeg_of_original, of_camera[k], limits, long_side)
    except DataError as error:
        # Its message names a path of the server's, which is no client's business.
        raise ProblemError(409, error.code, "the picture cannot be read from its log") from error


def _jpeg_of_original(frame: Frame, limits: PictureLimits, long_side: int | None) -> bytes:
    return jpeg_of(read_original(frame, limits), long_side)


def _no_picture(scene_id: str, camera: str, k: int, count: int) -> ProblemError:
    return ProblemError(
        404, "no_picture", f"scene {scene_id} has {count} such pictures of {camera[:60]!r}, not {k + 1}"
    )
