"""Find things in infrared pictures of any number: pictures, videos and logs in; Parquet, COCO and drawn pictures out.

OUT/detections.parquet   a row a picture: uri, width, height, boxes (corners in pixels), scores, classes; of logs and
                         videos also camera, time and scene id
OUT/coco.json            images, categories and detections (annotations with a score), as COCO tools read them; names
                         are below the folder `info.pictures` that holds them all
OUT/quarantine.jsonl     pictures that could not be read, and why
OUT/pictures/            the first of them with their boxes

OUT appears when all is in it. A run that is killed leaves .OUT.unfinished, which the next one with this OUT removes: it
starts anew, and never goes on in the middle of another's files.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from system.config import FrozenConfig
from system.drafts import discard_draft, new_draft, publish_draft, refuse_existing
from system.errors import DataError, StoppedError
from system.infrared.detections import Detections
from system.infrared.detector import SavedDetector, detector_id, read_detector
from system.infrared.judge import coco_results
from system.logs.reader import BadLog
from system.logs.video import SUFFIXES as VIDEO_SUFFIXES
from system.logs.video import VideoReader
from system.logs.windows import WindowConfig
from system.pairs import files
from system.pairs.coloured import tell_coloured
from system.pipelines.config import PoolConfig
from system.pipelines.infrared_reading import (
    NO_INFRARED,
    Part,
    Shot,
    picture_parts,
    read_shots,
    window_parts,
    windows_of,
)
from system.pipelines.infrared_stream import PictureResult, detect_settings, stream_detections
from system.pipelines.resources import connect_to_ray, size_cluster_pool
from system.report.console import ConsoleProgress
from system.report.detection_sheet import DetectionCell, draw_detections, jpeg

TABLE_NAME, COCO_NAME = "detections.parquet", "coco.json"
QUARANTINE_NAME, PICTURES_NAME = "quarantine.jsonl", "pictures"
_SCHEMA = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("detector_id", pa.string(), nullable=False),
        pa.field("camera", pa.string()),
        pa.field("t_ns", pa.int64()),
        pa.field("scene_id", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("boxes_xyxy", pa.list_(pa.list_(pa.float32(), 4))),
        pa.field("scores", pa.list_(pa.float32())),
        pa.field("classes", pa.list_(pa.string())),
    ]
)
_ROWS_AT_ONCE = 256
_DRAWN_SCORE = 0.3
_WINDOW_S, _LEAST_KEYFRAMES = 4.0, 3


class Looked(FrozenConfig):
    """What is looked at.

    images: pictures, folders of pictures and videos. logs: driving logs, of which the infrared cameras' pictures are
    taken, or with `all_cameras` those of all. log_format: as of mining. keyframe_hz: pictures a second and camera of
    logs and videos.
    """

    images: tuple[str, ...] = ()
    logs: tuple[str, ...] = ()
    log_format: str = "auto"
    keyframe_hz: float = Field(default=2.0, gt=0, le=1000)
    all_cameras: bool = False

    @model_validator(mode="after")
    def _is_something(self) -> Self:
        if not self.images and not self.logs:
            raise ValueError("expected --images, --logs or --store")
        return self


class PredictConfig(FrozenConfig):
    """min_score: of what is written. draw: so many pictures are drawn. max_bad_share: of pictures that may be
    unreadable before the run fails. batch_size: pictures of one pass."""

    min_score: float = Field(default=0.05, ge=0, le=1)
    draw: int = Field(default=24, ge=0, le=10_000)
    max_bad_share: float = Field(default=0.05, ge=0, le=1)
    batch_size: int = Field(default=4, ge=1, le=1024)


def predict_infrared(
    looked: Looked,
    model: str,
    out: Path,
    config: PredictConfig,
    pool: PoolConfig,
    progress: ConsoleProgress,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Detect and write. `out` appears whole; what a killed run left lies beside it, and the next one starts anew.

    Args:
        should_stop: asked after every picture; once true, what was done is thrown away.
    Returns:
        Keys of the job's last line: images, detections, per class, quarantined, coloured, windows_without_infrared,
        seconds, first_result_s (from the start of the stream until the first batch was detected; None without any),
        images_per_s, efficiency, out. efficiency: pictures a second after that batch / those of the detectors' own
        calls on them, None where there is but one; it is what reading, writing and waiting leave of the bare batched
        model.
    Raises:
        ConfigError: `out` exists. DataError: nothing to read, or too much that cannot be. ModelError: the detector.
        StoppedError: `should_stop` said so.
    """
    refuse_existing(out)
    saved, identity = read_detector(Path(model))[0], detector_id(model)
    progress.phase("listing")
    parts, bad_logs = _parts(looked)
    pictures, windows = (sum(len(getattr(part, name)) for part in parts) for name in ("pictures", "windows"))
    progress.phase(f"{pictures} pictures" + (f" and {windows} windows of logs" if windows else ""))
    progress.expect(pictures + windows)
    connect_to_ray()
    actors = size_cluster_pool(pool)
    draft = new_draft(out)
    started_s = time.monotonic()
    pace = _Pace(actors.actors)
    writer = _Writer(draft, saved, identity, config)
    is_stopped = False
    with writer:
        for log in bad_logs:
            writer.add_fault(log.uri, "list", log.code, log.message)
        results = stream_detections(parts, detect_settings(model, saved, config.batch_size), actors)
        for result in results:
            if is_stopped := should_stop():
                results.close()
                break
            pace.add(result)
            writer.add(result)
            progress.advanced(int(result.found is not None), int(result.found is None), 1)
    if is_stopped:
        discard_draft(draft)
        raise StoppedError(
            f"stopped after {writer.images} of {pictures + windows} pictures and windows; nothing is left of them at "
            f"{out}: the same command starts anew, and --store goes on instead"
        )
    seconds, efficiency = time.monotonic() - started_s, pace.efficiency()
    seen = writer.images + writer.bad
    if writer.bad > config.max_bad_share * seen:
        raise DataError(
            "too_many_bad",
            f"{writer.bad} of {seen} pictures could not be read, more than --max-bad-share "
            f"{config.max_bad_share:g}; {draft / QUARANTINE_NAME} names them",
        )
    if not seen:
        raise DataError(
            NO_INFRARED,
            f"{windows} windows of {', '.join(looked.logs or looked.images)}: no picture of an infrared camera; name "
            "the camera so (ir, lwir, thermal), or take --all-cameras where all of them are infrared",
        )
    publish_draft(draft, out)
    tell_coloured(writer.coloured, writer.images, progress.note)
    return {
        "images": writer.images,
        "detections": sum(writer.objects.values()),
        "classes": dict(writer.objects),
        "quarantined": writer.bad,
        "coloured": writer.coloured,
        "windows_without_infrared": writer.without_infrared,
        "seconds": round(seconds, 2),
        "first_result_s": pace.first_result_s(),
        "images_per_s": round(writer.images / max(seconds, 1e-9), 3),
        "efficiency": efficiency,
        "detector_id": identity,
        "out": str(out),
    }


class _Pace:
    """When detectors answered, and how long that took. Blocks of answers come long after the first call of theirs."""

    def __init__(self, actors: int) -> None:
        self._actors = actors
        self._started_s, self._model_s = time.time(), 0.0
        self._first_s, self._first_model_s = math.inf, 0.0

    def add(self, result: PictureResult) -> None:
        if result.found is None:
            return
        self._model_s += result.model_s
        if result.ended_s < self._first_s:
            self._first_s, self._first_model_s = result.ended_s, 0.0
        if result.ended_s == self._first_s:
            self._first_model_s += result.model_s

    def first_result_s(self) -> float | None:
        """From the start until the first batch was detected: what the model took to load is in it."""
        return None if math.isinf(self._first_s) else round(self._first_s - self._started_s, 2)

    def efficiency(self) -> float | None:
        """Until now."""
        after_s = self._model_s - self._first_model_s
        if after_s <= 0:
            return None
        return round(after_s / (self._actors * max(1e-9, time.time() - self._first_s)), 3)


def _parts(looked: Looked) -> tuple[list[Part], list[BadLog]]:
    """Raises DataError, ConfigError: nothing is there."""
    named = files.list_pictures(looked.images, files.PICTURE_SUFFIXES + VIDEO_SUFFIXES)
    videos = [uri for uri in named if uri.lower().endswith(VIDEO_SUFFIXES)]
    pictures = [uri for uri in named if not uri.lower().endswith(VIDEO_SUFFIXES)]
    parts, bad = picture_parts(pictures), []
    config = _windows_for(looked.keyframe_hz)
    for uris, log_format, is_all in (
        (videos, VideoReader.name, True),
        (looked.logs, looked.log_format, looked.all_cameras),
    ):
        if uris:
            windows, unlisted = windows_of(uris, log_format, config)
            parts += window_parts(windows, looked.keyframe_hz, is_all)
            bad += unlisted
    return parts, bad


def _windows_for(keyframe_hz: float) -> WindowConfig:
    """Of 4 s, or three keyframes: each window keeps its first picture, and a keyframe may come a quarter early.

    Raises:
        ConfigError: the rate is out of range.
    """
    return WindowConfig.of_options(max(_WINDOW_S, _LEAST_KEYFRAMES / keyframe_hz), None, keyframe_hz)


def detect_all(
    uris: Sequence[str], model: str, pool: PoolConfig, progress: ConsoleProgress, batch_size: int = 4
) -> dict[str, PictureResult]:
    """Results by picture, for judging; the pictures must fit a dictionary."""
    saved, _ = read_detector(Path(model))
    connect_to_ray()
    found = {}
    settings = detect_settings(model, saved, batch_size)
    for result in stream_detections(picture_parts(uris), settings, size_cluster_pool(pool)):
        found[result.uri] = result
        progress.advanced(int(result.found is not None), int(result.found is None), 1)
    return found


class _Writer:
    """Writes results as they come; memory does not grow with boxes but for COCO's own list of images."""

    def __init__(self, out: Path, saved: SavedDetector, identity: str, config: PredictConfig) -> None:
        self._out, self._classes, self._identity, self._config = out, saved.config.classes, identity, config
        self._mapping = saved.config.mapping
        self._rows: list[dict[str, Any]] = []
        self.images = self.bad = self.coloured = self.without_infrared = 0
        self.objects: Counter[str] = Counter(dict.fromkeys(self._classes, 0))

    def __enter__(self) -> _Writer:
        self._table = pq.ParquetWriter(self._out / TABLE_NAME, _SCHEMA)
        self._quarantine = (self._out / QUARANTINE_NAME).open("w", encoding="utf-8")
        self._coco = _CocoWriter(self._out / COCO_NAME, self._classes)
        (self._out / PICTURES_NAME).mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._table.close()
        self._quarantine.close()
        self._coco.close()

    def add(self, result: PictureResult) -> None:
        if result.code == NO_INFRARED:
            self.without_infrared += 1
            return
        if result.found is None:
            self.add_fault(result.uri, "read", result.code, result.message)
            return
        found = result.found.above(self._config.min_score)
        names = [self._classes[label] for label in found.labels]
        self.images += 1
        self.coloured += result.is_coloured
        self.objects.update(names)
        height, width = found.image_size
        self._rows.append(
            {
                "uri": result.uri,
                "detector_id": self._identity,
                "camera": result.shot.camera,
                "t_ns": result.shot.t_ns,
                "scene_id": result.shot.scene_id,
                "width": width,
                "height": height,
                "boxes_xyxy": found.boxes_xyxy.tolist(),
                "scores": found.scores.tolist(),
                "classes": names,
            }
        )
        self._coco.add(result.uri, width, height, coco_results(found, self.images, range(1, len(self._classes) + 1)))
        if len(self._rows) >= _ROWS_AT_ONCE:
            self._flush()
        if self.images <= self._config.draw:
            self._draw(result.shot, found)

    def add_fault(self, uri: str, stage: str, code: str, message: str) -> None:
        """A picture, or a log, that was not looked at."""
        self.bad += 1
        told = {"uri": uri, "stage": stage, "code": code, "message": message}
        self._quarantine.write(json.dumps(told) + "\n")

    def _draw(self, shot: Shot, found: Detections) -> None:
        """A picture that cannot be read again is not drawn; its boxes are written all the same."""
        pixels = read_shots([shot], self._mapping)[0]
        if isinstance(pixels, tuple):
            return
        drawn = draw_detections(DetectionCell(pixels.pixels_HW, found.above(_DRAWN_SCORE)), self._classes)
        place = f"-{shot.camera}-{shot.t_ns}" if shot.camera else ""
        name = f"{self.images:05d}-{files.stem(shot.uri)[:100]}{place}.jpg"
        (self._out / PICTURES_NAME / name).write_bytes(jpeg(drawn))

    def _flush(self) -> None:
        if self._rows:
            self._table.write_table(pa.Table.from_pylist(self._rows, schema=_SCHEMA))
            self._rows = []


class _CocoWriter:
    """One JSON object whose annotations are written as they come; images are written at the end."""

    def __init__(self, file: Path, classes: Sequence[str]) -> None:
        self._file, self._classes = file.open("w", encoding="utf-8"), classes
        self._images: list[dict[str, Any]] = []
        self._count = 0
        self._file.write('{"annotations": [')

    def add(self, uri: str, width: int, height: int, rows: Sequence[dict[str, Any]]) -> None:
        self._images.append({"id": len(self._images) + 1, "file_name": uri, "width": width, "height": height})
        for row in rows:
            area = row["bbox"][2] * row["bbox"][3]
            comma = ", " if self._count else ""
            self._count += 1
            self._file.write(comma + json.dumps(row | {"id": self._count, "area": area, "iscrowd": 0}))

    def close(self) -> None:
        categories = [{"id": k + 1, "name": name} for k, name in enumerate(self._classes)]
        folder = _common_folder([image["file_name"] for image in self._images])
        for image in self._images:
            image["file_name"] = image["file_name"].removeprefix(folder).lstrip("/") if folder else image["file_name"]
        rest = json.dumps({"info": {"pictures": folder}, "images": self._images, "categories": categories})
        self._file.write("], " + rest[1:] + "\n")
        self._file.close()


def _common_folder(uris: Sequence[str]) -> str:
    """The deepest folder that holds all of them; "" where they share none but a root or a scheme."""
    folders = sorted(uri.partition("#")[0].split("/")[:-1] for uri in uris)
    shared = []
    for first, last in zip(folders[0], folders[-1], strict=False) if folders else ():
        if first != last:
            break
        shared.append(first)
    return "/".join(shared) if any(shared[1:]) else ""
