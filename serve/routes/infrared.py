"""Find things in infrared pictures that a client uploads."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from serve.auth import TokenRecord
from serve.context import Context, Ctx, requires
from serve.models import DetectAnswer, Detection, DetectorInfo, PictureDetections, PictureProblem
from serve.pictures import jpeg_of
from serve.problems import ProblemError, busy, problem_docs
from serve.queries import PICTURE_STATUS
from serve.services import DetectorFacts, DetectorService, OverloadedError
from system.errors import DataError
from system.infrared.detections import Detections
from system.pairs.pixels import InfraredMapping, PixelLimits, decode_infrared
from system.pairs.resize import fit_picture

router = APIRouter(prefix="/v1/ir", tags=["infrared"])
Detecting = Annotated[TokenRecord, requires("detect")]
_PREVIEW_LONG_SIDE = 1280
_MAX_NAME = 200
# Replicas look for a new detector once a second, each by itself: a call is put again until one detector answers all.
_TRIES, _WAIT_S = 4, 0.5
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["pictures"],
                    "properties": {
                        "pictures": {
                            "type": "array",
                            "minItems": 1,
                            "items": {"type": "string", "format": "binary"},
                            "description": "JPEG, PNG, TIFF, WebP, BMP or PPM, of 8, 16 or 32 bits",
                        }
                    },
                    "additionalProperties": False,
                },
                "encoding": {"pictures": {"contentType": "image/jpeg, image/png, image/tiff"}},
            }
        },
    }
}


@dataclass(frozen=True, eq=False)
class _Ready:
    """A decoded upload. pixels_hw: at the detector's size. size: (height, width) upright."""

    pixels_hw: NDArray[np.uint8]
    size: tuple[int, int]
    bits: int
    is_coloured: bool
    preview_jpeg: str | None


@router.get("/detector", summary="The detector that answers now", responses=problem_docs(401, 403, 404, 422, 429, 503))
async def detector(context: Ctx, _: Detecting) -> DetectorInfo:
    """It changes when a new one is put into its folder; nothing is restarted."""
    async with context.in_time():
        facts = await _describe(_detector(context), context)
    return DetectorInfo(
        detector_id=facts.detector_id, classes=list(facts.classes), height=facts.size[0], width=facts.size[1]
    )


@router.post(
    "/detect",
    summary="Detect in one or many pictures",
    responses=problem_docs(400, 401, 403, 404, 413, 415, 422, 429, 503),
    openapi_extra=_BODY,
)
async def detect(
    request: Request,
    context: Ctx,
    _: Detecting,
    min_score: Annotated[float, Query(ge=0, le=1)] = 0.3,
    preview: Annotated[bool, Query(description="also send each picture as the detector sees it, as a JPEG")] = False,
) -> DetectAnswer:
    """Upload as multipart/form-data, each picture a part named `pictures`.

    A picture that cannot be read is told with its reason: as this call's error where no picture can be read, and
    beside the answers of the others where some can.
    """
    service = _detector(context)
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise ProblemError(415, "not_multipart", "expected multipart/form-data with parts named `pictures`")
    form_of = request.form(max_files=context.limits.max_pictures, max_fields=1)
    async with form_of as form, context.in_time():
        files = _files(form)
        for _attempt in range(_TRIES):
            facts = await _describe(service, context)
            ready = [await _read(file, name, context, facts, preview) for name, file in files]
            good = [picture for picture in ready if isinstance(picture, _Ready)]
            found = await _detect(service, good, context) if good else []
            if all(of == facts for of, _ in found):
                break
            await asyncio.sleep(_WAIT_S)
        else:
            told = "the detector is being exchanged for another; try again"
            raise busy("detector_exchanged", told, context.limits.retry_after_s)
    for picture in ready:
        code = picture.code if isinstance(picture, DataError) else "ok"
        context.metrics.pictures.labels(context.metrics.replica, code).inc()
    if not good:
        first = next(picture for picture in ready if isinstance(picture, DataError))
        told = first.message if len(ready) == 1 else f"none of {len(ready)} pictures can be read; {first.message}"
        raise ProblemError(PICTURE_STATUS.get(first.code, 422), first.code, told)
    answers = iter(found)
    return DetectAnswer(
        detector_id=facts.detector_id,
        classes=list(facts.classes),
        pictures=[
            _answer(name, picture, next(answers)[1], facts.classes, min_score)
            if isinstance(picture, _Ready)
            else _refused(name, picture)
            for (name, _), picture in zip(files, ready, strict=True)
        ],
    )


def _files(form: FormData) -> list[tuple[str, UploadFile]]:
    """Names, made fit to be shown, and files. Raises ProblemError: anything else was sent."""
    parts = form.multi_items()
    files = [value for name, value in parts if name == "pictures" and isinstance(value, UploadFile)]
    if not parts or len(files) < len(parts):
        told = "expected one or more files, each a part named `pictures`, and nothing else"
        raise ProblemError(422, "no_pictures", told)
    return [(_safe_name(file.filename, n), file) for n, file in enumerate(files)]


async def _read(
    file: UploadFile, name: str, context: Context, facts: DetectorFacts, preview: bool
) -> _Ready | DataError:
    """A picture as this detector wants it. Called one after the other, so that no call holds more than one in full."""
    limits = context.limits
    pixel_limits = PixelLimits(max_file_bytes=limits.max_picture_bytes, max_pixels=limits.max_pixels)
    async with context.decoding:
        await file.seek(0)
        data = await file.read(limits.max_picture_bytes + 1)
        return await run_in_threadpool(_decode, data, name, facts.mapping, facts.size, pixel_limits, preview)


def _decode(
    data: bytes, name: str, mapping: InfraredMapping, size: tuple[int, int], limits: PixelLimits, preview: bool
) -> _Ready | DataError:
    if len(data) > limits.max_file_bytes:
        return DataError("too_large", f"{name}: more than {limits.max_file_bytes} bytes")
    try:
        infrared = decode_infrared(data, name, mapping, limits)
    except DataError as error:
        return error
    shown = base64.b64encode(jpeg_of(infrared.pixels_HW, _PREVIEW_LONG_SIDE)).decode() if preview else None
    height, width = infrared.pixels_HW.shape
    fitted = fit_picture(infrared.pixels_HW, size)
    return _Ready(fitted, (height, width), infrared.bits, infrared.is_coloured, shown)


def _answer(
    name: str, picture: _Ready, found: Detections, classes: tuple[str, ...], min_score: float
) -> PictureDetections:
    kept = found.above(min_score).resized(picture.size)
    detections = [
        Detection(box=tuple(round(float(x), 2) for x in box), score=round(float(score), 4), label=classes[int(label)])  # type: ignore[arg-type]
        for box, score, label in zip(kept.boxes_xyxy, kept.scores, kept.labels, strict=True)
    ]
    told = "coloured: expected infrared; an RGB picture or false colours give poor boxes"
    return PictureDetections(
        name=name,
        width=picture.size[1],
        height=picture.size[0],
        bits=picture.bits,
        is_coloured=picture.is_coloured,
        detections=sorted(detections, key=lambda d: -d.score),
        notes=[told] if picture.is_coloured else [],
        problem=None,
        preview_jpeg=picture.preview_jpeg,
    )


def _refused(name: str, error: DataError) -> PictureDetections:
    problem = PictureProblem(code=error.code, detail=error.message)
    return PictureDetections(
        name=name, width=None, height=None, bits=None, is_coloured=False, detections=[], notes=[], problem=problem
    )


def _detector(context: Context) -> DetectorService:
    if context.services.detector is None:
        raise ProblemError(404, "no_detector", "this server has no detector")
    return context.services.detector


async def _describe(service: DetectorService, context: Context) -> DetectorFacts:
    try:
        return await service.describe()
    except OverloadedError as error:
        told = "the detector has more waiting than it takes; try again"
        raise busy("detector_busy", told, context.limits.retry_after_s) from error


async def _detect(
    service: DetectorService, pictures: Sequence[_Ready], context: Context
) -> list[tuple[DetectorFacts, Detections]]:
    try:
        return await service.detect([picture.pixels_hw for picture in pictures])
    except OverloadedError as error:
        told = "the detector has more waiting than it takes; try again"
        raise busy("detector_busy", told, context.limits.retry_after_s) from error


def _safe_name(name: str | None, n: int) -> str:
    """What a client called a picture, for its answer and for errors; never a path that is opened."""
    shown = "".join(c for c in (name or "") if c.isprintable()).strip()
    return shown[:_MAX_NAME] or f"picture {n + 1}"
