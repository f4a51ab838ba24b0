"""A reduced nuScenes root: <version>/*.json with the rows of some samples, and their files; `nuscenes-devkit` loads it.

Tokens and fields stay those of the source; chains (prev, next, first, last) and counts are made anew over what is kept,
across gaps where windows of one scene do not follow each other. Key frames only. Channels that the source has no files
of (a root without its point clouds) keep their rows, because ego poses hang on them. nightminer_scenes.json says what
was exported and why; a log without a map gets an empty one, without which the devkit does not load.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from system.errors import DataError, StoreError
from system.export.json_arrays import JsonList
from system.export.nuscenes_tokens import tokens_of
from system.export.scene import Added, ExportFault, SceneExport, scene_facts
from system.logs import files
from system.logs.decoding import PictureLimits
from system.logs.nuscenes_rows import NuScenesRows, Row, rows_of
from system.logs.picture_files import read_picture_files
from system.records import Frame

_WHOLE = ("sensor", "category", "attribute", "visibility")
_BY_SCENE = ("scene", "sample", "sample_data", "ego_pose", "calibrated_sensor", "sample_annotation", "instance", "log")
_PICTURES = ("jpg", "jpeg", "png")
_NO_MAP: Row = {"token": "nightminer-no-map", "category": "none", "filename": "maps/none.png"}


class NuScenesRootWriter:
    # Pictures are found by the tables' own rows, which know those of every key frame.
    reads_pictures = needs_pictures = False

    def __init__(self, folder: Path, provenance: Mapping[str, Any]) -> None:
        self._folder = folder
        self._versions: dict[str, _Version] = {}
        self._part: _ScenePart | None = None

    def add(self, scene: SceneExport) -> Added:
        tokens = tokens_of(scene)
        log = scene.window.ref.log
        if self._part is None or (self._part.rows.folder, self._part.name) != (log.uri, log.log_id):
            self._flush()
            self._part = _ScenePart(rows_of(log.uri), log.log_id)
        part = self._part
        new = [token for token in tokens if token not in part.samples]
        copied, missing = self._copy_files(scene, part.rows, new)
        part.samples.update(dict.fromkeys(new))
        part.missing.update(missing)
        self._version(part.rows).scenes.add({"sample_tokens": tokens} | scene_facts(scene.row))
        return Added(copied, len(part.rows.where("sample_annotation", "sample_token", new)), tuple(missing.values()))

    def abandon(self) -> None:
        for version in self._versions.values():
            version.abandon()

    def close(self) -> None:
        self._flush()
        for version in self._versions.values():
            version.close()

    def _version(self, rows: NuScenesRows) -> _Version:
        name = files.name(rows.folder)
        if name not in self._versions:
            self._versions[name] = _Version(self._folder, name)
        return self._versions[name]

    def _flush(self) -> None:
        """Write the rows of the nuScenes scene in hand.

        Raises:
            StoreError: its tables do not fit together. Half of its rows may be written by then: no fault of one scene.
        """
        part, self._part = self._part, None
        if part is None or not part.samples:
            return
        try:
            self._version(part.rows).add(part)
        except DataError as error:
            raise StoreError(f"{part.rows.folder}: {part.name} cannot be taken along: {error}") from error

    def _copy_files(
        self, scene: SceneExport, rows: NuScenesRows, tokens: list[str]
    ) -> tuple[int, dict[str, ExportFault]]:
        """Copy the files of some samples.

        Returns:
            How many pictures, and the faults by the token of the sample_data row.
        Raises:
            DataError: there are pictures, and none can be read.
        """
        root = files.parent(rows.folder)
        data = [row for row in rows.where("sample_data", "sample_token", tokens) if row["is_key_frame"]]
        there = [row for row in data if _has_folder(files.parent(files.join(root, row["filename"])))]
        pictures = [row for row in there if row["fileformat"] in _PICTURES]
        faults: dict[str, ExportFault] = {}
        fault = partial(ExportFault, "picture", scene.scene_id)
        frames = [
            Frame(
                "", row["timestamp"] * 1000, files.join(root, row["filename"]), "file", "", row["width"], row["height"]
            )
            for row in pictures
        ]
        found = read_picture_files(frames, PictureLimits())
        for row, frame, file in zip(pictures, frames, found, strict=True):
            if isinstance(file, DataError):
                faults[row["token"]] = fault(frame.uri, file.code, file.message)
            else:
                self._write(row["filename"], file.data)
        if pictures and len(faults) == len(pictures):
            first = next(iter(faults.values()))
            raise DataError(first.code, f"none of {len(pictures)} pictures of scene {scene.scene_id}: {first.message}")
        copied = len(pictures) - len(faults)
        for row in there:
            if row["fileformat"] not in _PICTURES:
                uri = files.join(root, row["filename"])
                try:
                    self._write(row["filename"], files.read_bytes(uri))
                except DataError as error:
                    faults[row["token"]] = fault(uri, error.code, error.message)
        return copied, faults

    def _write(self, name: str, data: bytes) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


class _ScenePart:
    """The samples of one nuScenes scene that are kept, in order of time, and the data rows whose files are missing."""

    def __init__(self, rows: NuScenesRows, name: str) -> None:
        self.rows, self.name = rows, name
        self.samples: dict[str, None] = {}
        self.missing: dict[str, ExportFault] = {}


class _Version:
    """The tables of one version folder, written as scenes are finished."""

    def __init__(self, root: Path, name: str) -> None:
        self._root, self._folder = root, root / name
        self._folder.mkdir(parents=True)
        (root / "maps").mkdir(exist_ok=True)
        self._tables = {table: JsonList(self._folder / f"{table}.json") for table in (*_WHOLE, *_BY_SCENE)}
        self._maps: dict[str, Row] = {}
        self.scenes = JsonList(self._folder / "nightminer_scenes.json")
        self._written: dict[str, set[str]] = {table: set() for table in (*_WHOLE, "log", "calibrated_sensor")}

    def add(self, part: _ScenePart) -> None:
        rows = part.rows
        for table in _WHOLE:
            self._add_new(table, rows.all(table) if rows.has_table(table) else [])
        samples = sorted(rows.where("sample", "token", part.samples), key=lambda row: row["timestamp"])
        tokens = [row["token"] for row in samples]
        scene = rows.one("scene", samples[0]["scene_token"])
        scene |= {"nbr_samples": len(tokens), "first_sample_token": tokens[0], "last_sample_token": tokens[-1]}
        self._tables["scene"].add(scene)
        self._add_all("sample", _chained(samples))
        self._add_data(rows, tokens, part.missing)
        self._add_annotations(rows, tokens)
        if scene["log_token"] not in self._written["log"]:
            self._add_new("log", [rows.one("log", scene["log_token"])])
            self._add_map(rows, scene["log_token"])

    def _add_data(self, rows: NuScenesRows, tokens: list[str], missing: Mapping[str, object]) -> None:
        found = rows.where("sample_data", "sample_token", tokens)
        data = [row for row in found if row["is_key_frame"] and row["token"] not in missing]
        # Each of them by name: what the tables only promise would keep the devkit from loading.
        mounts = dict.fromkeys(row["calibrated_sensor_token"] for row in data)
        calibrations = [rows.one("calibrated_sensor", token) for token in mounts]
        self._add_new("calibrated_sensor", calibrations)
        sensor_of = {row["token"]: row["sensor_token"] for row in calibrations}
        by_sensor: dict[str, list[Row]] = {}
        for row in data:
            by_sensor.setdefault(sensor_of[row["calibrated_sensor_token"]], []).append(row)
        for chain in by_sensor.values():
            self._add_all("sample_data", _chained(sorted(chain, key=lambda row: row["timestamp"])))
        poses = dict.fromkeys(row["ego_pose_token"] for row in data)
        self._add_all("ego_pose", [rows.one("ego_pose", token) for token in poses])

    def _add_annotations(self, rows: NuScenesRows, tokens: list[str]) -> None:
        if not rows.has_table("sample_annotation"):
            return
        by_instance: dict[str, list[Row]] = {}
        for row in rows.where("sample_annotation", "sample_token", tokens):
            by_instance.setdefault(row["instance_token"], []).append(row)
        for instance in rows.where("instance", "token", by_instance):
            chain = by_instance[instance["token"]]
            self._add_all("sample_annotation", _chained(chain))
            first, last = chain[0]["token"], chain[-1]["token"]
            instance |= {"nbr_annotations": len(chain), "first_annotation_token": first, "last_annotation_token": last}
            self._tables["instance"].add(instance)

    def _add_map(self, rows: NuScenesRows, log_token: str) -> None:
        """The log's map, or the empty one."""
        known = [row for row in (rows.all("map") if rows.has_table("map") else []) if log_token in row["log_tokens"]]
        row: Row = known[0] if known else dict(_NO_MAP)
        if known:
            source = files.join(files.parent(rows.folder), row["filename"])
            if files.is_file(source):
                (self._root / row["filename"]).parent.mkdir(parents=True, exist_ok=True)
                (self._root / row["filename"]).write_bytes(files.read_bytes(source))
            else:
                row = dict(_NO_MAP)
        if row["token"] == _NO_MAP["token"]:
            buffer = io.BytesIO()
            Image.fromarray(np.zeros((8, 8), np.uint8)).save(buffer, "PNG")
            (self._root / row["filename"]).write_bytes(buffer.getvalue())
        kept = self._maps.setdefault(row["token"], row | {"log_tokens": []})
        kept["log_tokens"].append(log_token)

    def _add_new(self, table: str, rows: list[Row]) -> None:
        for row in rows:
            if row["token"] not in self._written[table]:
                self._written[table].add(row["token"])
                self._tables[table].add(row)

    def _add_all(self, table: str, rows: list[Row]) -> None:
        for row in rows:
            self._tables[table].add(row)

    def abandon(self) -> None:
        for table in (*self._tables.values(), self.scenes):
            table.abandon()

    def close(self) -> None:
        maps = JsonList(self._folder / "map.json")
        for row in self._maps.values():
            maps.add(row)
        for table in (*self._tables.values(), maps, self.scenes):
            table.close()


def _chained(rows: list[Row]) -> list[Row]:
    """Rows that follow each other, their prev and next made anew."""
    tokens = ["", *(row["token"] for row in rows), ""]
    return [row | {"prev": tokens[k], "next": tokens[k + 2]} for k, row in enumerate(rows)]


def _has_folder(uri: str) -> bool:
    return files.is_folder(uri)
