"""Write a saved set in one of the formats that are offered. Free of Ray."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, Literal

import pyarrow as pa

from system.errors import ConfigError
from system.logs.nuscenes import sample_tokens
from system.store.export import COLUMNS, named_pictures, set_rows, write_coco, write_csv, write_fiftyone, write_parquet
from system.store.location import StoreLocation
from system.store.schema import SCENES
from system.store.sets import SavedSet

ExportFormat = Literal["parquet", "csv", "coco", "fiftyone", "nuscenes"]


@dataclass(frozen=True)
class Kind:
    """suffix: of the file, without a dot."""

    media_type: str
    suffix: str


FORMATS: dict[ExportFormat, Kind] = {
    "parquet": Kind("application/vnd.apache.parquet", "parquet"),
    "csv": Kind("text/csv", "csv"),
    "coco": Kind("application/zip", "zip"),
    "fiftyone": Kind("application/zip", "zip"),
    "nuscenes": Kind("application/json", "json"),
}


def export_set(
    location: StoreLocation,
    saved: SavedSet,
    kind: ExportFormat,
    file: IO[bytes],
    check: Callable[[], None] = lambda: None,
) -> None:
    """Write a set.

    Args:
        check: called once a scene where that takes its time; what it raises ends the writing.
    Raises:
        ConfigError: its scenes or their pictures are gone; or nuscenes was asked for and none of them is nuScenes'.
        DataError: nuScenes' tables are not where they were.
    """
    if kind == "nuscenes":
        rows = set_rows(location, saved, (*COLUMNS, "reader", "log_uri"))
        file.write(json.dumps(_nuscenes(rows, saved, check), indent=1).encode())
        return
    rows = set_rows(location, saved, (*COLUMNS, "picture_batch"))
    if kind == "parquet":
        schema = location.dataset(SCENES).schema
        write_parquet(rows, pa.schema([schema.field(name) for name in COLUMNS]), file)
    elif kind == "csv":
        write_csv(rows, COLUMNS, file)
    elif kind == "coco":
        write_coco(rows, named_pictures(location, rows, check), saved, file)
    else:
        write_fiftyone(named_pictures(location, rows, check), file)


def _nuscenes(rows: list[dict[str, Any]], saved: SavedSet, check: Callable[[], None]) -> dict[str, Any]:
    """Tokens of the samples (keyframes) within each scene window, and of nuScenes' scene that it is of."""
    scenes = []
    for row in rows:
        check()
        if row["reader"] == "nuscenes":
            scene_token, tokens = sample_tokens(row["log_uri"], row["log_id"], row["t_start_ns"], row["t_end_ns"])
            scenes.append(
                {
                    "scene_id": row["scene_id"],
                    "scene_name": row["log_id"],
                    "scene_token": scene_token,
                    "sample_tokens": tokens,
                    "tags": row["tags"] or [],
                    "risk": row["risk"],
                    "hardness": row["hardness"],
                }
            )
    if not scenes:
        raise ConfigError("none of the scenes of this set comes from nuScenes' tables, so there are no tokens")
    return {
        "set_id": saved.set_id,
        "name": saved.name,
        "not_nuscenes": len(rows) - len(scenes),
        "sample_tokens": [token for scene in scenes for token in scene["sample_tokens"]],
        "scenes": scenes,
    }
