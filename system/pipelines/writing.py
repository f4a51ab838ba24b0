"""The write stage: rows become uncommitted fragments; only their metadata goes on to the driver."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from system.errors import StoreError
from system.pipelines import metrics
from system.pipelines.rows import WRITTEN_SCHEMA
from system.store.commits import write_uncommitted
from system.store.location import StoreLocation
from system.store.schema import PICTURES, SCENES, pictures_schema, scenes_schema


@dataclass(frozen=True)
class WriteSettings:
    """Where rows go and what they are marked with."""

    location: StoreLocation
    model_id: str
    run_id: str
    embedding_dim: int


def write_scenes(rows: pa.Table, settings: WriteSettings) -> pa.Table:
    """Write a batch of mined scenes.

    Args:
        rows: `mined_schema`.
    Returns:
        One row of WRITTEN_SCHEMA; `store_problem` says so where the disk is full, or the store is read-only or not
        reachable.
    """
    started_s = time.perf_counter()
    batch = uuid.uuid4().hex
    is_bad = rows["is_bad"].to_pylist()
    good = rows.filter(pa.array([not bad for bad in is_bad], pa.bool_()))
    pictures = _pictures_table(good, batch)
    scenes = _scenes_table(good, batch, settings)
    picture_fragments, scene_fragments, problem = [], [], None
    try:
        # Pictures first: a scene that is committed must find its own.
        picture_fragments = write_uncommitted(settings.location, PICTURES, pictures) if len(pictures) else []
        scene_fragments = write_uncommitted(settings.location, SCENES, scenes) if len(scenes) else []
    except StoreError as error:
        problem = str(error)
    images, write_s = sum(good["num_pictures"].to_pylist()), time.perf_counter() - started_s
    metrics.worked("write", 0 if problem else len(good), 0 if problem else images, write_s)
    written = {
        "scene_fragments": scene_fragments,
        "picture_fragments": picture_fragments,
        "scene_ids": good["scene_id"].to_pylist(),
        "faults": _faults(rows),
        "images": images,
        "read_s": sum(rows["read_s"].to_pylist()),
        "forward_s": sum(rows["forward_s"].to_pylist()),
        "forward_began_s": min(rows["forward_began_s"].to_pylist()),
        "write_s": write_s,
        "store_problem": problem,
    }
    return pa.Table.from_pylist([written], schema=WRITTEN_SCHEMA)


def _scenes_table(good: pa.Table, batch: str, settings: WriteSettings) -> pa.Table:
    schema = scenes_schema(settings.embedding_dim)
    constants = {"model_id": settings.model_id, "run_id": settings.run_id, "picture_batch": batch}
    columns = []
    for field in schema:
        if field.name in constants:
            columns.append(pa.array([constants[field.name]] * len(good), field.type))
        elif field.name in good.column_names:
            columns.append(good[field.name].combine_chunks().cast(field.type))
        else:
            columns.append(pa.nulls(len(good), field.type))  # the ranking fills these
    return pa.Table.from_arrays(columns, schema=schema)


def _pictures_table(good: pa.Table, batch: str) -> pa.Table:
    rows = [
        {**picture, "scene_id": scene_id, "picture_batch": batch}
        for scene_id, pictures in zip(good["scene_id"].to_pylist(), good["pictures"].to_pylist(), strict=True)
        for picture in pictures or ()
    ]
    return pa.Table.from_pylist(rows, schema=pictures_schema())


def _faults(rows: pa.Table) -> list[dict[str, Any]]:
    identity = rows.select(["scene_id", "source", "log_id", "faults"]).to_pylist()
    return [
        {"scene_id": row["scene_id"], "source": row["source"], "log_id": row["log_id"], **fault}
        for row in identity
        for fault in row["faults"] or ()
    ]
