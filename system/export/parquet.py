"""Parquet: scenes.parquet (a row a scene), pictures.parquet (a row a picture, its bytes too), tracks.parquet (a row a
box of a road user, or of the ego, whose track id is "ego"). Joined by scene_id; units as in `system.records`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from system.export.projection import ego_velocity
from system.export.scene import Added, SceneExport, scene_facts
from system.miner.sightings import kind_of
from system.records import TRACK_COLUMNS

_TEXT, _TEXTS, _NUMBER, _NUMBERS = pa.string(), pa.list_(pa.string()), pa.float32(), pa.list_(pa.float64())
SCENES_SCHEMA = pa.schema(
    {
        "scene_id": _TEXT, "source": _TEXT, "log_id": _TEXT, "t_start_ns": pa.int64(), "t_end_ns": pa.int64(),
        "description": _TEXT, "tags": _TEXTS, "truth_tags": _TEXTS, "risk": _NUMBER, "risk_source": _TEXT,
        "physics_risk": _NUMBER, "min_ttc_s": _NUMBER, "ambiguity": _NUMBER, "rarity": _NUMBER, "hardness": _NUMBER,
        "flags": _TEXTS, "tag_probabilities": pa.map_(_TEXT, _NUMBER), "embedding": pa.list_(_NUMBER),
        "log_uri": _TEXT, "reader": _TEXT, "model_id": _TEXT, "run_id": _TEXT,
    }
)  # fmt: skip
PICTURES_SCHEMA = pa.schema(
    {
        "scene_id": _TEXT, "camera": _TEXT, "t_ns": pa.int64(), "modality": _TEXT, "width": pa.int32(),
        "height": pa.int32(), "intrinsics": _NUMBERS, "ego_from_camera": _NUMBERS, "uri": _TEXT, "locator": _TEXT,
        # The form in which datasets of pictures are loaded by name (Hugging Face's `Image`).
        "image": pa.struct({"bytes": pa.large_binary(), "path": _TEXT}),
    }
)  # fmt: skip
TRACKS_SCHEMA = pa.schema(
    {"scene_id": _TEXT, "track_id": _TEXT, "category": _TEXT, "kind": _TEXT, "t_ns": pa.int64()}
    | dict.fromkeys(TRACK_COLUMNS, pa.float64())
)
_ROWS_AT_ONCE, _BYTES_AT_ONCE = 1024, 32 * 1024**2


class ParquetWriter:
    reads_pictures, needs_pictures = True, False

    def __init__(self, folder: Path, provenance: Mapping[str, Any]) -> None:
        told = {"nightminer": json.dumps(provenance)}
        self._scenes = _Rows(folder / "scenes.parquet", SCENES_SCHEMA, told)
        self._pictures = _Rows(folder / "pictures.parquet", PICTURES_SCHEMA, told)
        self._tracks = _Rows(folder / "tracks.parquet", TRACKS_SCHEMA, told)

    def add(self, scene: SceneExport) -> Added:
        row = scene_facts(scene.row) | {name: scene.row[name] for name in ("log_uri", "reader", "model_id", "run_id")}
        row["tag_probabilities"] = list(row["tag_probabilities"].items())
        self._scenes.add(row | {"embedding": scene.row["embedding"]})
        for picture in scene.pictures:
            frame, file = picture.frame, picture.file
            self._pictures.add(
                {
                    "scene_id": scene.scene_id,
                    "camera": frame.camera,
                    "t_ns": frame.t_ns,
                    "modality": frame.modality,
                    "width": file.width,
                    "height": file.height,
                    "intrinsics": frame.intrinsics,
                    "ego_from_camera": frame.ego_from_camera,
                    "uri": frame.uri,
                    "locator": frame.locator,
                    "image": {"bytes": file.data, "path": picture.stem + file.suffix},
                },
                len(file.data),
            )
        boxes = 0
        for track in scene.window.agents or ():
            boxes += len(track.t_ns)
            about = {"track_id": track.track_id, "category": track.category, "kind": kind_of(track.category)}
            for t_ns, state in zip(track.t_ns.tolist(), track.states.tolist(), strict=True):
                self._tracks.add(
                    {"scene_id": scene.scene_id, **about, "t_ns": t_ns, **dict(zip(TRACK_COLUMNS, state, strict=True))}
                )
        self._add_ego(scene)
        return Added(len(scene.pictures), boxes)

    def _add_ego(self, scene: SceneExport) -> None:
        """The ego's reference point (often the rear axle) with the size of its box."""
        ego = scene.window.ego
        if ego is None:
            return
        about = {"scene_id": scene.scene_id, "track_id": "ego", "category": "ego", "kind": "ego"}
        moments = zip(ego.t_ns.tolist(), ego.states.tolist(), ego_velocity(ego).tolist(), strict=True)
        for t_ns, state, velocity in moments:
            named = dict(zip(TRACK_COLUMNS, (*state[:4], *ego.size_m, *velocity), strict=True))
            self._tracks.add({**about, "t_ns": t_ns, **named})

    def close(self) -> None:
        for rows in (self._scenes, self._pictures, self._tracks):
            rows.close()

    def abandon(self) -> None:
        for rows in (self._scenes, self._pictures, self._tracks):
            rows.abandon()


class _Rows:
    """Rows of one file, written in groups that fit in memory."""

    def __init__(self, path: Path, schema: pa.Schema, told: Mapping[str, str]) -> None:
        self._schema = schema.with_metadata(dict(told))
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0

    def add(self, row: dict[str, Any], size: int = 0) -> None:
        self._rows.append(row)
        self._bytes += size
        if len(self._rows) >= _ROWS_AT_ONCE or self._bytes >= _BYTES_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._bytes = [], 0

    def close(self) -> None:
        if self._rows:
            self._flush()
        self._writer.close()

    def abandon(self) -> None:
        self._writer.close()
