"""From what a client asks to a vector, a typed filter and weights."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool

from serve.cursors import normalised
from serve.models import Filters, ImageQuery, Query, SceneQuery, TextQuery, Weights
from serve.problems import ProblemError, busy
from serve.search_store import View
from serve.services import OverloadedError, Services
from serve.settings import Limits
from system.errors import ConfigError, DataError
from system.logs.decoding import Picture, PictureLimits, decode_picture
from system.store.filters import SceneFilter
from system.store.snapshot import Parts

_TEXTS_KEPT = 1024
# What is wrong with a picture, as a status; anything else is damage.
PICTURE_STATUS = {"too_large": 413, "not_an_image": 415}


class QueryVectors:
    """Vectors of queries; those of texts asked for last are kept, so that a next page asks no model.

    decoding: held while a picture is decoded.
    """

    def __init__(self, services: Services, limits: Limits, decoding: asyncio.Semaphore) -> None:
        self._services, self._limits, self._decoding = services, limits, decoding
        self._texts: OrderedDict[tuple[str, str], NDArray[np.float32]] = OrderedDict()
        self._pictures = PictureLimits(max_file_bytes=limits.max_picture_bytes, max_pixels=limits.max_pixels)

    async def vector(self, query: Query | None, view: View) -> NDArray[np.float32] | None:
        """float32 [E]; None where nothing is asked.

        Raises:
            ProblemError: an unreadable picture, no such scene, one without a vector, or a busy encoder.
        """
        if query is None:
            return None
        if isinstance(query, SceneQuery):
            return await run_in_threadpool(self.of_scene, query.scene_id, view)
        if isinstance(query, TextQuery) and not query.text.strip():
            raise ProblemError(422, "empty_text", "query.text: expected words, found blanks")
        try:
            return await (self._of_text(query.text) if isinstance(query, TextQuery) else self._of_image(query))
        except OverloadedError as error:
            told = "the encoder has more waiting than it takes; try again"
            raise busy("encoder_busy", told, self._limits.retry_after_s) from error

    def of_scene(self, scene_id: str, view: View) -> NDArray[np.float32]:
        """A scene's own vector. Raises ProblemError."""
        try:
            vector = view.snapshot.embedding(scene_id, view.model["model_id"])
        except ConfigError as error:
            raise ProblemError(404, "no_such_scene", str(error)) from error
        if vector is None:
            told = f"scene {scene_id} has no pictures, hence nothing to compare it by"
            raise ProblemError(409, "scene_without_pictures", told)
        return vector

    async def _of_text(self, text: str) -> NDArray[np.float32]:
        key = (self._services.store.tower(), normalised(text))
        if key in self._texts:
            self._texts.move_to_end(key)
            return self._texts[key]
        vector = await self._services.encoder.encode_text(key[1])
        self._texts[key] = vector
        while len(self._texts) > _TEXTS_KEPT:
            self._texts.popitem(last=False)
        return vector

    async def _of_image(self, query: ImageQuery) -> NDArray[np.float32]:
        try:
            async with self._decoding:
                picture = await run_in_threadpool(self._decode, query.image_base64)
        except DataError as error:
            raise ProblemError(PICTURE_STATUS.get(error.code, 422), error.code, error.message) from error
        return await self._services.encoder.encode_image(picture.rgb_HWC)

    def _decode(self, data: bytes) -> Picture:
        return decode_picture(data, "query.image_base64", self._pictures, upright=True)


def scene_filter(filters: Filters, not_scene_id: str | None = None) -> tuple[SceneFilter, list[str]]:
    """The filter, and what a client should know of it. A range that is empty becomes a filter that nothing passes."""
    notes = [
        f"{low_name} {low} is above {high_name} {high}: nothing passes"
        for low_name, low, high_name, high in (
            ("min_risk", filters.min_risk, "max_risk", filters.max_risk),
            ("min_hardness", filters.min_hardness, "max_hardness", filters.max_hardness),
            ("from_ns", filters.from_ns, "to_ns", filters.to_ns),
        )
        if low is not None and high is not None and low > high
    ]
    empty = filters.from_ns is not None and filters.from_ns == filters.to_ns
    if notes or empty:
        return SceneFilter(scene_ids=("",)), notes or ["from_ns equals to_ns: nothing passes"]
    return (
        SceneFilter(
            tags=tuple(filters.tags),
            any_tags=tuple(filters.any_tags),
            without_tags=tuple(filters.without_tags),
            min_risk=filters.min_risk,
            max_risk=filters.max_risk,
            min_hardness=filters.min_hardness,
            max_hardness=filters.max_hardness,
            max_ttc_s=filters.max_ttc_s,
            from_ns=filters.from_ns,
            to_ns=filters.to_ns,
            sources=tuple(filters.sources),
            log_ids=tuple(filters.logs),
            cameras=tuple(filters.cameras),
            objects=tuple(filters.objects),
            not_scene_ids=() if not_scene_id is None else (not_scene_id,),
        ),
        [],
    )


def parts_of(weights: Weights) -> Parts:
    """Weights by name."""
    return {name: float(value) for name, value in weights.model_dump().items()}
