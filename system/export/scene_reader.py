"""Scenes of the store, read again from their logs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from system.errors import DataError
from system.export.scene import ExportFault, SceneExport, ScenePicture, SceneWriter, no_pictures
from system.logs.decoding import PictureLimits
from system.logs.picture_files import read_picture_files
from system.logs.registry import read_log
from system.logs.windows import WindowConfig, cut_window
from system.miner.explain import tag_chances
from system.records import DrivingLog, LogRef, WindowRef
from system.store.location import StoreLocation
from system.store.log_versions import reuploads
from system.store.runs import read_runs


class SceneReader:
    """Remembers the metadata of one log: scenes of a log follow each other."""

    def __init__(
        self,
        location: StoreLocation,
        model_id: str,
        tag_names: Sequence[str],
        keyframe_hz: float | None,
        limits: PictureLimits,
    ) -> None:
        self._tag_names, self._limits = tag_names, limits
        runs = read_runs(location)
        self._windows = {run.run_id: _windows_of(run.report, keyframe_hz) for run in runs}
        self._started_ns = {run.run_id: run.started_ns for run in runs}
        self._replaced_ns = reuploads(location, model_id)
        self._default = _windows_of({}, keyframe_hz)
        self._ref: LogRef | None = None
        self._log: DrivingLog | DataError | None = None

    def read(self, row: Mapping[str, Any], writer: SceneWriter) -> tuple[SceneExport, tuple[ExportFault, ...]]:
        """A scene with what the writer needs of it, and the pictures that are missing.

        Raises:
            DataError: the log cannot be read, it holds another content than the one that was mined, none of its
                pictures can be read, or it has none and the writer needs some.
        """
        self._check_content(row)
        ref = LogRef(row["reader"], row["log_uri"], row["log_id"], row["source"], 0, 0)
        at = WindowRef(row["scene_id"], ref, row["t_start_ns"], row["t_end_ns"])
        window = cut_window(self._log_of(ref), at, self._windows.get(row["run_id"], self._default))
        told = dict(row) | {"tag_probabilities": dict(tag_chances(row, self._tag_names))}
        if not writer.reads_pictures:
            return SceneExport(told, window, ()), ()
        found = read_picture_files(window.frames, self._limits)
        pairs = list(zip(window.frames, found, strict=True))
        pictures = tuple(ScenePicture(frame, file) for frame, file in pairs if not isinstance(file, DataError))
        bad = [(frame, file) for frame, file in pairs if isinstance(file, DataError)]
        if not pictures and bad:
            message = f"none of the {len(bad)} pictures of scene {row['scene_id']} can be read: {bad[0][1].message}"
            raise DataError(bad[0][1].code, message)
        if not pictures and (writer.needs_pictures or row["num_pictures"]):
            raise no_pictures(row["scene_id"], row["log_uri"], row["num_pictures"] or 0)
        faults = (ExportFault("picture", row["scene_id"], f.uri, e.code, e.message) for f, e in bad)
        return SceneExport(told, window, pictures), tuple(faults)

    def _check_content(self, row: Mapping[str, Any]) -> None:
        """A row of an earlier version must not be paired with the pictures and tracks of a later upload."""
        replaced_ns = self._replaced_ns.get((row["source"], row["log_id"], row["log_uri"]))
        if replaced_ns is not None and replaced_ns > self._started_ns.get(row["run_id"], 0):
            at = datetime.fromtimestamp(replaced_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M UTC")
            told = f"expected the content that run {row['run_id']} mined, found one that a night saw first at {at}"
            advice = "export the newest version, or leave this log out"
            raise DataError("log_replaced", f"{row['log_uri']}: scene {row['scene_id']}: {told}; {advice}")

    def _log_of(self, ref: LogRef) -> DrivingLog:
        if ref != self._ref:
            self._ref = ref
            try:
                self._log = read_log(ref)
            except DataError as error:
                # The other scenes of this log have the same fault, and are not kept waiting for it.
                self._log = error
        if isinstance(self._log, DataError):
            raise self._log
        assert self._log is not None
        return self._log


def _windows_of(report: Mapping[str, Any], keyframe_hz: float | None) -> WindowConfig:
    """How the run cut its pictures; times of windows are in the rows."""
    values = dict(report.get("config", {}).get("windows", {}))
    return WindowConfig.model_validate(values | ({} if keyframe_hz is None else {"keyframe_hz": keyframe_hz}))
