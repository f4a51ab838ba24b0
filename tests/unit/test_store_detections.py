"""Detections of a store's scenes: exactly once whatever the order, and as a filter of a search. Without Ray."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from fsspec.implementations.local import LocalFileSystem

from system.errors import ConfigError
from system.infrared.detections import Detections
from system.pairs.pixels import InfraredMapping
from system.pipelines.detect_scenes import _Tally, _windows
from system.pipelines.infrared_reading import NO_INFRARED, Part, Shot, read_part
from system.pipelines.infrared_stream import PictureResult
from system.pipelines.select_scenes import SceneQuery, select_scenes
from system.records import LogRef
from system.store.commits import append_rows
from system.store.detections import (
    DETECTIONS,
    Detected,
    among_detected,
    counts_of,
    detected_ids,
    detections_schema,
    detectors_of,
    has_detections,
    newest_detections,
    note_classes,
    open_detections,
)
from system.store.filters import SceneFilter
from system.store.ids import quarantined_ids
from system.store.location import StoreLocation
from system.store.schema import SCENES
from system.store.search import SearchConfig, search_scenes
from system.store.tables import open_for_writing
from tests.unit.test_store import MODEL, scene_rows

DETECTOR = "d" * 16


@pytest.fixture
def location(tmp_path) -> StoreLocation:
    place = StoreLocation.parse(str(tmp_path / "store"))
    open_for_writing(place, MODEL)
    append_rows(place, SCENES, scene_rows(5))
    open_detections(place)
    return place


def tally(location: StoreLocation) -> _Tally:
    lease: Any = SimpleNamespace(check=lambda: None)
    done = detected_ids(location, DETECTOR)
    todo = [window for window in _windows(location) if window.scene_id not in done]
    return _Tally(location, DETECTOR, "r2", lease, ("person", "car"), 0.1, todo)


def seen(scene: str, k: int, of: int, scores: tuple[float, ...], label: int = 0) -> PictureResult:
    boxes = [[1 + n, 2, 5 + n, 9] for n in range(len(scores))]
    found = Detections.of(boxes, scores, [label] * len(scores), (20, 30))
    return PictureResult(Shot(f"{scene}-{k}.png", camera="IR", t_ns=k, scene_id=scene), of, found)


def test_scenes_are_committed_whole_in_any_order_and_once(location):
    ids = [window.scene_id for window in _windows(location)]
    first = tally(location)
    first.add(seen(ids[0], 1, 2, (0.9, 0.8)))
    first.add(seen(ids[1], 0, 1, (0.7,), label=1))
    assert first.add(seen(ids[0], 1, 2, (0.9, 0.8))) == (0, 0, 1)  # Ray did a task twice
    first.commit()
    assert len(detected_ids(location, DETECTOR)) == 1, "a scene that lacks a picture is not committed"
    first.add(seen(ids[0], 0, 2, (0.6, 0.05)))
    assert first.add(seen(ids[0], 0, 2, (0.6,))) == (0, 0, 0)
    empty = Shot("log", scene_id=ids[2])
    assert first.add(PictureResult(empty, 0, None, code=NO_INFRARED, message="none")) == (1, 0, 0)
    bad = Shot("broken.png", camera="IR", t_ns=0, scene_id=ids[3])
    assert first.add(PictureResult(bad, 1, None, code="truncated_image", message="broken.png: half")) == (0, 1, 0)
    away = Shot("s3://away.png", camera="IR", t_ns=0, scene_id=ids[4])
    assert first.add(PictureResult(away, 1, None, code="unreadable_file", message="503")) == (0, 0, 0)
    first.commit()
    assert (first.committed, first.quarantined, first.without_infrared, first.images) == (3, 1, 1, 3)
    assert first.unreachable == 1 and len(quarantined_ids(location, DETECTOR)) == 1, "it is looked at again"
    assert dict(first.objects) == {"person": 3, "car": 1}, "0.05 is below the least score"
    assert ids[3] in quarantined_ids(location, DETECTOR)
    rows = {row["scene_id"]: row for row in location.dataset(DETECTIONS).to_table().to_pylist()}
    assert set(rows) == set(ids[:3])
    assert rows[ids[0]]["picture"] == [0, 1, 1] and rows[ids[0]]["num_pictures"] == 2
    assert np.reshape(rows[ids[0]]["boxes_xyxy"], (-1, 4)).tolist() == [[1, 2, 5, 9], [1, 2, 5, 9], [2, 2, 6, 9]]

    again = tally(location)
    assert again.add(seen(ids[0], 0, 1, (0.9,))) == (0, 0, 0), "an earlier run has it"


def test_scenes_of_a_log_whose_folder_cannot_be_listed_just_now_are_looked_at_again(location, tmp_path, monkeypatch):
    windows = _windows(location)
    results = tally(location)

    def refused(*_: object, **__: object) -> None:
        raise OSError("503 Slow Down")

    part = Part(windows=(replace(windows[0], log=LogRef("pictures", str(tmp_path), "night", "fleet", 0, 1)),))
    with monkeypatch.context() as outage:
        outage.setattr(LocalFileSystem, "ls", refused)
        ((shot, of, fault),) = list(read_part(part, InfraredMapping()))
    assert isinstance(fault, tuple) and "503" in fault[1]
    assert results.add(PictureResult(shot, of, None, code=fault[0], message=fault[1])) == (0, 0, 0)
    results.commit()
    assert (results.unreachable, results.quarantined) == (1, 0)
    assert not len(quarantined_ids(location, DETECTOR)) and not len(detected_ids(location, DETECTOR))


def test_search_asks_for_what_one_picture_shows(location):
    ids = [window.scene_id for window in _windows(location)]
    with pytest.raises(ConfigError, match="predict_infrared"):
        among_detected(StoreLocation.parse(location.uri + "-none"), SceneFilter(), [Detected(label="person")])
    rows = [(ids[0], [0, 0, 1], ["person", "person", "car"]), (ids[1], [0, 1], ["person", "person"]), (ids[2], [], [])]
    table = [
        {"scene_id": scene, "detector_id": DETECTOR, "run_id": "r", "num_pictures": 2, "picture": pictures,
         "label": labels, "score": [0.6] * len(labels)}
        for scene, pictures, labels in rows
    ]  # fmt: skip
    append_rows(location, DETECTIONS, pa.Table.from_pylist(table, schema=detections_schema()))

    def passing(*forms: str, among: tuple[str, ...] = ()) -> set[str]:
        where = SceneFilter(scene_ids=among)
        narrowed = among_detected(location, where, [Detected.of_option(form) for form in forms])
        if narrowed is None:
            return set()
        return {row["scene_id"] for row in search_scenes(location, None, narrowed, SearchConfig())}

    assert passing("person") == {ids[0], ids[1]}
    assert passing("person:0.5:2") == {ids[0]}, "two in two pictures are not two in one"
    assert passing("person:0.7") == set()
    assert passing("person", "car") == {ids[0]}
    assert passing("person", among=(ids[1], ids[2])) == {ids[1]}
    assert passing("Person") == {ids[0], ids[1]}, "small and capital letters are one"
    with pytest.raises(ConfigError, match=r"unknown class .*finds car, person"):
        passing("it's' OR true")
    version = newest_detections(location) or 0
    later = [table[0] | {"scene_id": ids[3]}, table[0] | {"scene_id": ids[4], "detector_id": "e", "run_id": "s"}]
    append_rows(location, DETECTIONS, pa.Table.from_pylist(later, schema=detections_schema()))
    assert passing("person") == {ids[4]}
    pinned = among_detected(location, SceneFilter(), [Detected(label="person")], version=version)
    assert pinned is not None and set(pinned.scene_ids) == {ids[0], ids[1]}, "as it was"
    assert has_detections(location, version) and not has_detections(location, version + 9)
    assert counts_of(location, ids[:3], DETECTOR) == {
        ids[0]: {"person": 2, "car": 1},
        ids[1]: {"person": 1},
        ids[2]: {},
    }


def test_a_search_is_of_one_detector_and_names_the_others(location):
    ids = [window.scene_id for window in _windows(location)]
    rows = [
        ("d1-old", "20250101", ids[0], "person"),
        ("d1-new", "20260101", ids[1], "Person"),
        ("d2", "2024", ids[2], "car"),
    ]
    table = [
        {"scene_id": scene, "detector_id": detector, "run_id": run, "num_pictures": 1, "picture": [0],
         "label": [label], "score": [0.6]}
        for detector, run, scene, label in rows
    ]  # fmt: skip
    append_rows(location, DETECTIONS, pa.Table.from_pylist(table, schema=detections_schema()))
    note_classes(location, "d2", ("car", "bicycle"))

    def passing(form: str, detector: str | None = None) -> set[str]:
        narrowed = among_detected(location, SceneFilter(), [Detected.of_option(form)], detector)
        return set(narrowed.scene_ids) if narrowed else set()

    assert [seen.detector_id for seen in detectors_of(location)] == ["d1-new", "d1-old", "d2"]
    assert passing("person") == {ids[1]}, "the newest, however it spells its classes"
    assert passing("person", "d1-old") == {ids[0]} and passing("CAR", "d2") == {ids[2]}
    assert passing("bicycle", "d2") == set(), "a class that it knows and never found"
    for detector, told in (("d1", "fits several"), ("x", "is unknown")):
        with pytest.raises(
            ConfigError, match=rf"{told}.*d1-new \(1 scenes, Person\), d1-old.*d2 \(1 scenes, car, bicycle\)"
        ):
            passing("person", detector)

    asked = SceneQuery(where=SceneFilter(model_id="m1"), detected=(Detected(label="person"),))
    assert select_scenes(location.uri, asked) == [ids[1]], "what is exported"
    assert select_scenes(location.uri, asked.model_copy(update={"detector": "d1-old"})) == [ids[0]]
    with pytest.raises(ConfigError, match="expected beside it"):
        select_scenes(location.uri, asked.model_copy(update={"detected": (), "detector": "d2"}))
    assert counts_of(location, ids, "d1-old") == {ids[0]: {"person": 1}}
    version = location.dataset(DETECTIONS).version
    note_classes(location, "d2", ("car", "bicycle"))
    assert location.dataset(DETECTIONS).version == version, "what is known is not written again"


@pytest.mark.parametrize("form", ["", ":0.5", "person:x", "person:0.5:0", "person:2", "person:0.5:1:1", "a:0.5.5"])
def test_a_wrong_form_is_refused(form: str):
    with pytest.raises(ConfigError, match="--detected"):
        Detected.of_option(form)
