"""Infrared pictures of any number through Ray Data: tasks read and shrink, a pool of actors detects.

They are named one by one, or are the pictures of an infrared camera in windows of driving logs, which tasks list. Only
names and boxes pass through the driver. A picture that cannot be read is a row that says why.
Legend: H x W pixels, M boxes.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from system.backbones.runtime import device_of
from system.infrared.detections import Detections
from system.infrared.detector import SavedDetector
from system.pairs.pixels import InfraredMapping
from system.pairs.resize import fit_picture
from system.pipelines.infrared_reading import Part, Shot, read_part
from system.pipelines.resources import PoolSize
from system.pipelines.stream import quiet_stream

_READ_CPUS = 0.5
_READ_SCHEMA = pa.schema(
    [
        pa.field("uri", pa.string()),
        pa.field("container", pa.string()),
        pa.field("locator", pa.string()),
        pa.field("camera", pa.string()),
        pa.field("t_ns", pa.int64()),
        pa.field("scene_id", pa.string()),
        pa.field("is_calibrated", pa.bool_()),
        pa.field("shots", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("is_coloured", pa.bool_()),
        pa.field("pixels", pa.large_binary()),
        pa.field("code", pa.string()),
        pa.field("message", pa.string()),
    ]
)
_SHOT_FIELDS = tuple(field.name for field in fields(Shot))
_BOXES = [
    pa.field("boxes_xyxy", pa.list_(pa.float32())),
    pa.field("scores", pa.list_(pa.float32())),
    pa.field("labels", pa.list_(pa.int32())),
]
_TIMES = [pa.field("model_s", pa.float64()), pa.field("ended_s", pa.float64())]


@dataclass(frozen=True)
class DetectSettings:
    """model: folder of a detector. batch_size: pictures of one pass."""

    model: str
    size: tuple[int, int]
    mapping: InfraredMapping
    batch_size: int = 4


def detect_settings(model: str, saved: SavedDetector, batch_size: int) -> DetectSettings:
    """Of a detector that was saved in a folder."""
    size = (saved.config.height, saved.config.width)
    return DetectSettings(str(Path(model).absolute()), size, saved.config.mapping, batch_size)


@dataclass(frozen=True, eq=False)
class PictureResult:
    """What is known of one picture after the stream.

    shots: pictures of its window. found: None where it could not be read, and why. model_s: its share of the detector's
    call. ended_s: when that ended, since 1970.
    """

    shot: Shot
    shots: int
    found: Detections | None
    is_coloured: bool = False
    code: str = ""
    message: str = ""
    model_s: float = 0.0
    ended_s: float = 0.0

    @property
    def uri(self) -> str:
        """The picture's name."""
        return self.shot.name


def stream_detections(
    parts: Sequence[Part], settings: DetectSettings, pool: PoolSize
) -> Generator[PictureResult, None, None]:
    """Detect in every picture; order is not kept. A window without an infrared picture is one result, `no_infrared`."""
    if not parts:
        return
    quiet_stream()
    source: Any = ray.data.from_items([{"part": part.to_json()} for part in parts], override_num_blocks=len(parts))
    read = source.map_batches(
        _read_part, fn_kwargs={"settings": settings}, batch_size=1, batch_format="numpy", num_cpus=_READ_CPUS
    )
    found = read.map_batches(
        DetectorActor,
        fn_constructor_kwargs={"settings": settings, "threads": pool.threads},
        batch_size=settings.batch_size,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ray.data.ActorPoolStrategy(size=pool.actors, max_tasks_in_flight_per_actor=2),
        num_cpus=pool.threads,
        num_gpus=pool.gpus_per_actor,
    )
    for block in found.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
        for row in block.to_pylist():
            yield _result(row)


def _result(row: dict[str, Any]) -> PictureResult:
    shot = Shot(**{name: row[name] for name in _SHOT_FIELDS})
    if row["code"] is not None:
        return PictureResult(shot, row["shots"], None, code=row["code"], message=row["message"])
    found = Detections.of(row["boxes_xyxy"], row["scores"], row["labels"], (row["height"], row["width"]))
    return PictureResult(shot, row["shots"], found, row["is_coloured"], model_s=row["model_s"], ended_s=row["ended_s"])


def _read_part(batch: dict[str, np.ndarray], settings: DetectSettings) -> pa.Table:
    rows = []
    for shot, shots, read in read_part(Part.from_json(str(batch["part"][0])), settings.mapping):
        row: dict[str, Any] = vars(shot) | {"shots": shots}
        if isinstance(read, tuple):
            row |= dict(zip(("code", "message"), read, strict=True))
        else:
            height, width = read.pixels_HW.shape
            pixels = fit_picture(read.pixels_HW, settings.size).tobytes()
            row |= {"height": height, "width": width, "is_coloured": read.is_coloured, "pixels": pixels}
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=_READ_SCHEMA)


class DetectorActor:
    """A detector on the threads, or the GPU, that it reserved."""

    def __init__(self, settings: DetectSettings, threads: int) -> None:
        import torch

        from system.infrared.detector import Detector

        torch.set_num_threads(threads)
        device = device_of(bool(ray.get_gpu_ids()))
        self._detector, self._size = Detector.load(settings.model).to(device), settings.size

    def __call__(self, rows: pa.Table) -> pa.Table:
        good = np.flatnonzero([code is None for code in rows["code"].to_pylist()])
        pixels = rows["pixels"]
        pictures = [np.frombuffer(pixels[int(n)].as_buffer(), np.uint8).reshape(self._size) for n in good]
        started_s = time.perf_counter()
        answers: dict[int, Detections] = dict(zip(good.tolist(), self._detector.detect(pictures), strict=True))
        model_s = (time.perf_counter() - started_s) / max(1, len(good))
        heights, widths = rows["height"].to_pylist(), rows["width"].to_pylist()
        resized = [answers[n].resized((heights[n], widths[n])) if n in answers else None for n in range(len(rows))]
        table = rows.drop_columns(["pixels"])
        columns = [
            [None if found is None else found.boxes_xyxy.ravel() for found in resized],
            [None if found is None else found.scores for found in resized],
            [None if found is None else found.labels for found in resized],
        ]
        for field, values in zip(_BOXES, columns, strict=True):
            table = table.append_column(field, pa.array(values, field.type))
        for field, value in zip(_TIMES, (model_s, time.time()), strict=True):
            table = table.append_column(field, pa.array([value] * len(rows), field.type))
        return table
