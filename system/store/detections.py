"""What a detector found in the scenes of a store: one row a scene and detector, and the filter that asks for them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from system.config import FrozenConfig
from system.errors import ConfigError, StoreError
from system.store.filters import SceneFilter, literal, literals
from system.store.ids import IdSet, ids_of
from system.store.location import StoreLocation

DETECTIONS = "detections"
# More ids than this make a query that takes seconds to read.
_MOST_SCENES = 200_000
# Before a detector's id, in the table's own configuration: the classes that it may find.
_CLASSES_OF = "nightminer.classes."
_FORM = re.compile(r"(?P<name>[^:]+)(?::(?P<score>[0-9.]+))?(?::(?P<count>[0-9]+))?")


def detections_schema() -> pa.Schema:
    """One row a scene and detector.

    num_pictures: looked at. The lists have an entry a box, best first in a picture: picture 0..num_pictures-1, its
    camera and time, class, score, and boxes with four numbers each, (x0, y0, x1, y1) in pixels of the picture.
    """
    return pa.schema(
        [
            pa.field("scene_id", pa.string(), nullable=False),
            pa.field("detector_id", pa.string(), nullable=False),
            pa.field("run_id", pa.string(), nullable=False),
            pa.field("num_pictures", pa.int32(), nullable=False),
            pa.field("picture", pa.list_(pa.int32())),
            pa.field("camera", pa.list_(pa.string())),
            pa.field("t_ns", pa.list_(pa.int64())),
            pa.field("label", pa.list_(pa.string())),
            pa.field("score", pa.list_(pa.float32())),
            pa.field("boxes_xyxy", pa.list_(pa.float32())),
        ]
    )


class Detected(FrozenConfig):
    """Scenes of which one picture shows at least `count` objects of a class with at least this score."""

    label: str = Field(min_length=1, max_length=200)
    min_score: float = Field(default=0.5, ge=0, le=1)
    count: int = Field(default=1, ge=1, le=1000)

    @classmethod
    def of_option(cls, text: str) -> Self:
        """From `CLASS`, `CLASS:SCORE` or `CLASS:SCORE:COUNT`.

        Raises:
            ConfigError: another form, or a value out of range.
        """
        match = _FORM.fullmatch(text)
        try:
            given = {} if match is None else {"min_score": match["score"], "count": match["count"]}
            values = {key: float(value) if key == "min_score" else int(value) for key, value in given.items() if value}
        except ValueError:
            match = None
        if match is None:
            raise ConfigError(f"--detected {text}: expected CLASS, CLASS:SCORE or CLASS:SCORE:COUNT, e.g. person:0.5:2")
        return cls.parse({"label": match["name"], **values}, f"--detected {text}")


@dataclass(frozen=True)
class DetectorSeen:
    """A detector that has looked at scenes of a store. run_id: of its newest run. classes: that it may find."""

    detector_id: str
    run_id: str
    scenes: int
    classes: tuple[str, ...]


def open_detections(location: StoreLocation) -> None:
    """Make the table where it is missing. Call with the lease held."""
    if not location.has_table(DETECTIONS):
        location.connect().create_table(DETECTIONS, schema=detections_schema())


def note_classes(location: StoreLocation, detector_id: str, classes: Sequence[str]) -> None:
    """Keep what a detector may find beside what it found. Call with the lease held.

    Raises:
        StoreError: the store cannot be written.
    """
    key, told = f"{_CLASSES_OF}{detector_id}", json.dumps(list(classes))
    try:
        dataset = location.dataset(DETECTIONS)
        if dataset.config().get(key) != told:
            dataset.update_config({key: told})
    except (OSError, RuntimeError, ValueError) as error:
        raise StoreError(f"{location.uri}: cannot note the classes of {detector_id}: {error}") from error


def newest_detections(location: StoreLocation) -> int | None:
    """Version of the table as it is now, which never changes; None where no detector has looked."""
    return int(location.dataset(DETECTIONS).version) if location.has_table(DETECTIONS) else None


def has_detections(location: StoreLocation, version: int) -> bool:
    """Whether a version of the table is still there.

    Raises:
        StoreError: the store cannot be read.
    """
    if newest_detections(location) is None:
        return False
    try:
        location.dataset(DETECTIONS, version)
    except StoreError:
        return False
    return True


def detectors_of(location: StoreLocation, version: int | None = None) -> list[DetectorSeen]:
    """The detectors that have looked at a store, the newest first; as of a version of the table, or as of now."""
    if not location.has_table(DETECTIONS):
        return []
    dataset = location.dataset(DETECTIONS, version)
    rows = dataset.to_table(columns=["detector_id", "run_id"]).group_by("detector_id")
    config, found = dataset.config(), []
    for row in rows.aggregate([("run_id", "max"), ("run_id", "count")]).to_pylist():
        identity = row["detector_id"]
        told = config.get(f"{_CLASSES_OF}{identity}")
        classes = tuple(json.loads(told)) if told else _classes_found(dataset, identity)
        found.append(DetectorSeen(identity, row["run_id_max"], row["run_id_count"], classes))
    return sorted(found, key=lambda seen: (seen.run_id, seen.detector_id), reverse=True)


def newest_classes(location: StoreLocation) -> tuple[str, ...]:
    """Classes that the newest detector finds which has looked at a store; none where none has."""
    if not location.has_table(DETECTIONS):
        return ()
    return _newest_classes(location, location.dataset(DETECTIONS).version)


@lru_cache(maxsize=8)
def _newest_classes(location: StoreLocation, version: int) -> tuple[str, ...]:
    """Of a version of the table, which is read in full."""
    known = detectors_of(location, version)
    return known[0].classes if known else ()


def _classes_found(dataset: lance.LanceDataset, detector_id: str) -> tuple[str, ...]:
    """Of a detector whose classes nobody noted."""
    scanner = dataset.scanner(columns=["label"], filter=f"detector_id = {literal(detector_id)}")
    found: set[str] = set()
    for batch in scanner.to_batches():
        found.update(pc.unique(pc.list_flatten(batch["label"])).to_pylist())
    return tuple(sorted(found))


def choose_detector(location: StoreLocation, detector: str | None = None, version: int | None = None) -> DetectorSeen:
    """The detector whose findings are meant; its name or the beginning of it, or the newest.

    Messages do not name the store, so that a service may show them.

    Args:
        version: as of `detectors_of`.
    Raises:
        ConfigError: no detector has looked, or the name fits none or several: names the choices.
    """
    known = detectors_of(location, version)
    if not known:
        raise ConfigError("no detector has looked at this store; jobs/predict_infrared.py --store does")
    fitting = [seen for seen in known if detector is None or seen.detector_id.startswith(detector)]
    exact = [seen for seen in fitting if seen.detector_id == detector]
    if detector is not None and not exact and len(fitting) != 1:
        choices = ", ".join(f"{seen.detector_id} ({seen.scenes} scenes, {', '.join(seen.classes)})" for seen in known)
        told = "fits several" if fitting else "is unknown"
        raise ConfigError(f"detector {detector!r} {told}; this store knows, the newest first: {choices}")
    return (exact or fitting)[0]


def known_objects(seen: DetectorSeen, wanted: Sequence[Detected]) -> tuple[Detected, ...]:
    """What is wanted with classes as the detector spells them; small and capital letters are one.

    Raises:
        ConfigError: a class that it does not know: names those it does.
    """
    spelt = {name.casefold(): name for name in seen.classes}
    for each in wanted:
        if each.label.casefold() not in spelt:
            raise ConfigError(
                f"unknown class {each.label!r}; detector {seen.detector_id} finds "
                f"{', '.join(seen.classes) or 'nothing'}"
            )
    return tuple(each.model_copy(update={"label": spelt[each.label.casefold()]}) for each in wanted)


def detected_ids(location: StoreLocation, detector_id: str) -> IdSet:
    """Scenes that a detector has looked at already."""
    if not location.has_table(DETECTIONS):
        return IdSet()
    return ids_of(location, DETECTIONS, f"detector_id = {literal(detector_id)}")


def among_detected(
    location: StoreLocation,
    where: SceneFilter,
    wanted: Sequence[Detected],
    detector: str | None = None,
    version: int | None = None,
) -> SceneFilter | None:
    """The filter, narrowed to scenes in which one detector found all that is wanted; None where there are none.

    Args:
        detector: as of `choose_detector`. version: of the table, the newest if not given: while detectors look, it is
            what a next page must name to be of the same scenes.
    Raises:
        ConfigError: as `choose_detector` and `known_objects`, a detector without anything wanted, or too many scenes
            pass to be asked for by their ids.
    """
    if not wanted:
        if detector is not None:
            raise ConfigError(f"detector {detector!r}: expected beside it what the detector should have found")
        return where
    if version is None:
        version = newest_detections(location)
    seen = choose_detector(location, detector, version)
    wanted = known_objects(seen, wanted)
    passing: set[str] = set()
    columns = ["scene_id", "picture", "label", "score"]
    asked = [f"detector_id = {literal(seen.detector_id)}"]
    shown = " AND ".join(asked + [f"array_has(label, {literal(each.label)})" for each in wanted])
    for batch in location.dataset(DETECTIONS, version).scanner(columns=columns, filter=shown).to_batches():
        is_passing = np.logical_and.reduce([_shows(batch, each) for each in wanted])
        passing.update(batch["scene_id"].filter(pa.array(is_passing)).to_pylist())
    if where.scene_ids:
        passing &= set(where.scene_ids)
    if len(passing) > _MOST_SCENES:
        raise ConfigError(
            f"--detected: {len(passing)} scenes pass, expected at most {_MOST_SCENES}; ask for a higher score or more "
            "objects, or for a time or log beside it"
        )
    return where.model_copy(update={"scene_ids": tuple(sorted(passing))}) if passing else None


def _shows(rows: pa.RecordBatch, wanted: Detected) -> NDArray[np.bool_]:
    """Which scenes of a batch pass, bool [rows]. All boxes of the batch at once: a store may hold many millions."""
    boxes = pc.list_flatten(rows["label"])
    is_one = pc.and_(pc.equal(boxes, wanted.label), pc.greater_equal(pc.list_flatten(rows["score"]), wanted.min_score))
    scene = pc.list_parent_indices(rows["label"]).filter(is_one).to_numpy().astype(np.int64)
    picture = pc.list_flatten(rows["picture"]).filter(is_one).to_numpy().astype(np.int64)
    most = int(picture.max(initial=0)) + 1
    shown, counts = np.unique(scene * most + picture, return_counts=True)
    is_passing = np.zeros(len(rows), np.bool_)
    is_passing[shown[counts >= wanted.count] // most] = True
    return is_passing


def counts_of(
    location: StoreLocation, scene_ids: Sequence[str], detector_id: str, min_score: float = 0.5
) -> dict[str, dict[str, int]]:
    """For each scene, the most objects of each class that a detector found in one picture with at least this score."""
    if not scene_ids or not location.has_table(DETECTIONS):
        return {}
    ids = literals(scene_ids)
    rows = location.dataset(DETECTIONS).to_table(
        columns=["scene_id", "picture", "label", "score"],
        filter=f"detector_id = {literal(detector_id)} AND scene_id IN ({ids})",
    )
    found: dict[str, dict[str, int]] = {}
    for row in rows.to_pylist():
        most = found.setdefault(row["scene_id"], {})
        for label in sorted(set(row["label"])):
            seen = [p for p, name, s in zip(row["picture"], row["label"], row["score"], strict=True)
                    if name == label and s >= min_score]  # fmt: skip
            if seen:
                most[label] = max(most.get(label, 0), int(np.bincount(seen).max()))
    return found
