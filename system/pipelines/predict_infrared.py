"""Find things in infrared pictures of any number: pictures in; Parquet, COCO and drawn pictures out.

OUT/detections.parquet   a row a picture: uri, width, height, boxes (corners in pixels), scores, classes
OUT/coco.json            images, categories and detections (annotations with a score), as COCO tools read them
OUT/quarantine.jsonl     pictures that could not be read, and why
OUT/pictures/            the first of them with their boxes
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from pydantic import Field

from system.config import FrozenConfig
from system.drafts import new_draft, publish_draft, refuse_existing
from system.errors import DataError, storage_errors
from system.infrared.detections import Detections
from system.infrared.detector import SavedDetector, detector_id, read_detector
from system.infrared.judge import coco_results
from system.pairs import files
from system.pairs.pixels import read_infrared
from system.pipelines.config import PoolConfig
from system.pipelines.infrared_stream import DetectSettings, PictureResult, stream_detections
from system.pipelines.resources import connect_to_ray, size_pool
from system.report.console import ConsoleProgress
from system.report.detection_sheet import DetectionCell, draw_detections, jpeg

TABLE_NAME, COCO_NAME = "detections.parquet", "coco.json"
QUARANTINE_NAME, PICTURES_NAME = "quarantine.jsonl", "pictures"
_SCHEMA = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("detector_id", pa.string(), nullable=False),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("boxes_xyxy", pa.list_(pa.list_(pa.float32(), 4))),
        pa.field("scores", pa.list_(pa.float32())),
        pa.field("classes", pa.list_(pa.string())),
    ]
)
_ROWS_AT_ONCE = 256
_DRAWN_SCORE = 0.3


class PredictConfig(FrozenConfig):
    """min_score: of what is written. draw: so many pictures are drawn. max_bad_share: of pictures that may be
    unreadable before the run fails. batch_size: pictures of one pass."""

    min_score: float = Field(default=0.05, ge=0, le=1)
    draw: int = Field(default=24, ge=0, le=10_000)
    max_bad_share: float = Field(default=0.05, ge=0, le=1)
    batch_size: int = Field(default=4, ge=1, le=1024)


def predict_infrared(
    uris: Sequence[str], model: str, out: Path, config: PredictConfig, pool: PoolConfig, progress: ConsoleProgress
) -> dict[str, Any]:
    """Detect and write.

    Returns:
        Keys of the job's last line: images, detections, per class, quarantined, coloured, seconds, first_result_s (from
        the start of the stream), images_per_s, out.
    Raises:
        ConfigError: `out` exists. DataError: nothing to read, or too much that cannot be. ModelError: the detector.
    """
    refuse_existing(out)
    saved, identity = read_detector(Path(model))[0], detector_id(model)
    pictures = files.list_pictures(uris)
    progress.phase(f"{len(pictures)} pictures")
    progress.expect(len(pictures))
    connect_to_ray()
    actors = _pool(pool)
    draft = new_draft(out)
    started_s = time.monotonic()
    first_s = None
    writer = _Writer(draft, saved, identity, config)
    with writer:
        for result in stream_detections(pictures, _settings(model, saved, config), actors):
            first_s = time.monotonic() - started_s if first_s is None else first_s
            writer.add(result)
            progress.advanced(int(result.found is not None), int(result.found is None), 1)
    seconds = time.monotonic() - started_s
    if writer.bad > config.max_bad_share * len(pictures):
        raise DataError(
            "too_many_bad",
            f"{writer.bad} of {len(pictures)} pictures could not be read, more than --max-bad-share "
            f"{config.max_bad_share:g}; {draft / QUARANTINE_NAME} names them",
        )
    publish_draft(draft, out)
    if writer.coloured:
        progress.note(
            f"{writer.coloured} pictures are coloured: expected infrared; RGB pictures or false colours give poor boxes"
        )
    return {
        "images": writer.images,
        "detections": sum(writer.objects.values()),
        "classes": dict(writer.objects),
        "quarantined": writer.bad,
        "coloured": writer.coloured,
        "seconds": round(seconds, 2),
        "first_result_s": round(first_s or seconds, 2),
        "images_per_s": round(writer.images / max(seconds, 1e-9), 3),
        "detector_id": identity,
        "out": str(out),
    }


def detect_all(
    uris: Sequence[str], model: str, pool: PoolConfig, progress: ConsoleProgress, batch_size: int = 4
) -> dict[str, PictureResult]:
    """Results by picture, for judging; the pictures must fit a dictionary."""
    saved, _ = read_detector(Path(model))
    connect_to_ray()
    config = PredictConfig(batch_size=batch_size)
    found = {}
    for result in stream_detections(uris, _settings(model, saved, config), _pool(pool)):
        found[result.uri] = result
        progress.advanced(int(result.found is not None), int(result.found is None), 1)
    return found


class _Writer:
    """Writes results as they come; memory does not grow with boxes but for COCO's own list of images."""

    def __init__(self, out: Path, saved: SavedDetector, identity: str, config: PredictConfig) -> None:
        self._out, self._classes, self._identity, self._config = out, saved.config.classes, identity, config
        self._mapping = saved.config.mapping
        self._rows: list[dict[str, Any]] = []
        self.images = self.bad = self.coloured = 0
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
        if result.found is None:
            self.bad += 1
            told = {"uri": result.uri, "stage": "read", "code": result.code, "message": result.message}
            self._quarantine.write(json.dumps(told) + "\n")
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
            self._draw(result.uri, found)

    def _draw(self, uri: str, found: Detections) -> None:
        """A picture that cannot be read again is not drawn; its boxes are written all the same."""
        try:
            pixels = read_infrared(uri, self._mapping).pixels_HW
        except DataError:
            return
        except storage_errors():
            return
        drawn = draw_detections(DetectionCell(pixels, found.above(_DRAWN_SCORE)), self._classes)
        name = f"{self.images:05d}-{files.stem(uri)[:100]}.jpg"
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
        rest = json.dumps({"images": self._images, "categories": categories})
        self._file.write("], " + rest[1:] + "\n")
        self._file.close()


def _settings(model: str, saved: SavedDetector, config: PredictConfig) -> DetectSettings:
    size = (saved.config.height, saved.config.width)
    return DetectSettings(str(Path(model).absolute()), size, saved.config.mapping, config.batch_size)


def _pool(config: PoolConfig) -> Any:
    resources = ray.cluster_resources()
    return size_pool(config, resources.get("CPU", 0), resources.get("GPU", 0))
