"""Take scenes out of a store: read each again from its log, and give it to a writer.

Scenes come log by log, in order of time, one at a time, so that memory holds one log's metadata and one scene's
pictures, and of all the others the ids. Nothing is seen at `out` before all of it is there:

OUT/export.json    provenance and counts: asked = written + faulty
OUT/faults.jsonl   scenes and pictures that could not be taken along: file, expected, found
OUT/...            what the format makes
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import Field

from system.config import FrozenConfig
from system.errors import ConfigError, DataError, ReconcileError, storage_errors
from system.export.formats import writer_named
from system.export.place import ExportPlace
from system.export.provenance import NOT_STATED, describe_export
from system.export.scene import NO_PICTURES, Added, ExportFault, SceneWriter
from system.export.scene_reader import SceneReader
from system.logs.decoding import PictureLimits
from system.store.location import StoreLocation
from system.store.scene_rows import SceneRows
from system.store.search import searched_model
from system.store.tables import read_models

FAULTS_NAME = "faults.jsonl"
_FAULTS_TOLD = 5


class ExportConfig(FrozenConfig):
    """How scenes are taken along.

    overwrite: replace an earlier export. keyframe_hz: at most so many pictures a second and camera; None: as mined.
    max_faulty_share: of scenes that may be left out before the export fails; pictureless ones do not count.
    licence: of the pictures, in the user's words. model_id: whose rows are taken; None: those that a search shows.
    version_tag: of the table, "run-<run id>" or "night-<date>". table_version: in its place, the number of a version,
    of which a saved set is; the newest where it was removed.
    """

    overwrite: bool = False
    keyframe_hz: float | None = Field(default=None, gt=0, le=1000)
    max_faulty_share: float = Field(default=0.05, ge=0, le=1)
    licence: str = NOT_STATED
    limits: PictureLimits = PictureLimits()
    model_id: str | None = None
    version_tag: str | None = None
    table_version: int | None = None


@dataclass
class ExportReport:
    """What came of an export. asked = written + faulty.

    pictureless: of the faulty ones, scenes that had no pictures when they were mined, where the format needs some.
    incomplete: of the written scenes, those that miss pictures. faults: by code. first_faults: a few, in full.
    """

    format: str
    out: str
    asked: int = 0
    written: int = 0
    faulty: int = 0
    pictureless: int = 0
    incomplete: int = 0
    pictures: int = 0
    missing_pictures: int = 0
    boxes: int = 0
    seconds: float = 0.0
    table_version: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    first_faults: list[dict[str, str]] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        return asdict(self) | {"faults": dict(self.faults)}


@dataclass(frozen=True)
class _Selection:
    """The scenes asked for, those of a log together and in order of time, and what is counted of them."""

    scene_ids: list[str]
    sources: Counter[str]
    runs: list[str]


def export_scenes(
    store: str | StoreLocation,
    scene_ids: Iterable[str],
    format_name: str,
    out: str,
    config: ExportConfig | None = None,
    query: Mapping[str, Any] | None = None,
    on_scene: Callable[[ExportReport], None] | None = None,
) -> ExportReport:
    """Write scenes to a folder or an object store.

    Args:
        scene_ids: in any order; one that comes twice is written once.
        format_name: a name of `formats.FORMATS`. out: a folder, or a URI such as s3://bucket/set.
        query: how the scenes were found, for the provenance. on_scene: called after each.
    Raises:
        ConfigError: unknown format, no scenes, ids that the store does not have, a place that is taken or cannot be
            written. DataError: too many scenes are faulty. StoreError: the store. Nothing is at `out` then.
        ReconcileError: asked != written + faulty, which is a bug.
    """
    config = config or ExportConfig()
    make_writer = writer_named(format_name)
    location = store if isinstance(store, StoreLocation) else StoreLocation.parse(store)
    model = _model(location, config.model_id, config.version_tag)
    scenes = SceneRows(location, model["model_id"], config.version_tag, config.table_version)
    selection = _select(location, scenes, list(dict.fromkeys(scene_ids)))
    started_s = time.monotonic()
    place = ExportPlace(out, config.overwrite)
    writer: SceneWriter | None = None
    try:
        report = ExportReport(format_name, out, asked=len(selection.scene_ids), table_version=scenes.version)
        provenance = describe_export(
            location, scenes.version, config.version_tag, model, query or {"scene_ids": len(selection.scene_ids)},
            dict(sorted(selection.sources.items())), selection.runs, config.licence, format_name,
        )  # fmt: skip
        reader = SceneReader(location, model["model_id"], model["tag_names"], config.keyframe_hz, config.limits)
        with (place.draft / FAULTS_NAME).open("w", encoding="utf-8") as faults:
            writer = make_writer(place.draft, provenance)
            for row in scenes.rows(selection.scene_ids):
                for fault in _take(row, reader, writer, report):
                    faults.write(json.dumps(fault.to_row()) + "\n")
                if on_scene is not None:
                    on_scene(report)
            writer.close()
        _judge(report, config)
        report.seconds = round(time.monotonic() - started_s, 2)
        place.publish({"nightminer_export": 1, **provenance, "report": report.figures()})
    except BaseException as error:
        if writer is not None:
            # A full disk refuses what is left in buffers, too; the first error is the one to tell.
            with contextlib.suppress(OSError):
                writer.abandon()
        # What is finished and only could not be brought to its place is kept for the user to bring there.
        if not isinstance(error, ConfigError):
            place.discard()
        if isinstance(error, OSError):
            raise ConfigError(f"--out {out}: cannot be written: {error.strerror or error}") from error
        raise
    return report


def _model(location: StoreLocation, model_id: str | None, version_tag: str | None) -> dict[str, Any]:
    if model_id is None:
        return searched_model(location, version_tag)
    models = {model["model_id"]: model for model in read_models(location)}
    if model_id not in models:
        raise ConfigError(f"{location.uri}: no model {model_id!r}; it holds rows of {', '.join(models) or 'none'}")
    return models[model_id]


def _select(location: StoreLocation, scenes: SceneRows, scene_ids: list[str]) -> _Selection:
    """Put the scenes in order; ids and places alone are read.

    Raises:
        ConfigError: none is asked for, or some are not in the store.
    """
    if not scene_ids:
        raise ConfigError("no scene to export: nothing passes the query; jobs/show_run.py says what there is")
    places: list[tuple[str, str, int, str]] = []
    sources: Counter[str] = Counter()
    runs: set[str] = set()
    for row in scenes.places(scene_ids):
        places.append((row["log_uri"], row["log_id"], row["t_start_ns"], row["scene_id"]))
        sources[row["source"]] += 1
        runs.add(row["run_id"])
    ordered = [place[3] for place in sorted(places)]
    if len(ordered) != len(scene_ids):
        there = set(ordered)
        missing = [scene_id for scene_id in scene_ids if scene_id not in there]
        named = ", ".join(map(repr, missing[:3])) + (", ..." if len(missing) > 3 else "")
        raise ConfigError(
            f"{location.uri}: {len(missing)} of {len(scene_ids)} scenes are not in this store as rows of model "
            f"{scenes.model_id} at version {scenes.version}: {named}. Take them out of the set, or name the --version "
            "or the --store that they were found in"
        )
    return _Selection(ordered, sources, sorted(runs))


def _take(
    row: Mapping[str, Any], reader: SceneReader, writer: SceneWriter, report: ExportReport
) -> Iterator[ExportFault]:
    """Read one scene, write it and count it; yields what could not be taken along."""
    missing: tuple[ExportFault, ...] = ()
    try:
        try:
            scene, missing = reader.read(row, writer)
        except storage_errors() as error:
            raise DataError("unreadable_file", f"{row['log_uri']}: {type(error).__name__}: {error}") from error
        added = writer.add(scene)
    except DataError as error:
        report.faulty += 1
        report.pictureless += error.code == NO_PICTURES
        faults = [ExportFault("scene", row["scene_id"], row["log_uri"], error.code, error.message), *missing]
    else:
        faults = [*missing, *added.faults]
        _count(report, added, len(faults))
    for fault in faults:
        report.faults[fault.code] += 1
        if len(report.first_faults) < _FAULTS_TOLD:
            report.first_faults.append(fault.to_row())
        yield fault


def _count(report: ExportReport, added: Added, missing: int) -> None:
    report.written += 1
    report.incomplete += bool(missing)
    report.missing_pictures += missing
    report.pictures += added.pictures
    report.boxes += added.boxes


def _judge(report: ExportReport, config: ExportConfig) -> None:
    if report.asked != report.written + report.faulty:
        counts = f"{report.asked} asked, {report.written} written, {report.faulty} faulty"
        raise ReconcileError(f"export to {report.out}: {counts}; please report it")
    unforeseen = report.faulty - report.pictureless
    if not report.written or unforeseen > config.max_faulty_share * report.asked:
        first = report.first_faults[0]
        raise DataError(
            "too_many_faulty",
            f"{report.faulty} of {report.asked} scenes cannot be exported as {report.format} (--max-faulty-share "
            f"{config.max_faulty_share:g}); nothing was written. By code: {dict(report.faults)}. The first: "
            f"{first['message']}",
        )
