"""What a night keeps in the store, and what it refuses to begin with."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import asdict, replace
from datetime import UTC, date, datetime
from unittest.mock import Mock

import pyarrow as pa
import pytest

from serve.search_store import SearchStore
from system.errors import ConfigError, LeaseError, StoreError
from system.export.run import ExportConfig, export_scenes
from system.pipelines.nightly.config import NightlyConfig
from system.pipelines.nightly.due import due
from system.pipelines.nightly.figures import NightFigures
from system.pipelines.nightly.records import (
    NIGHT_LOGS,
    one_a_day,
    past_nights,
    read_nights,
    runs_of_night,
    write_night,
)
from system.pipelines.search import search_store
from system.pipelines.select_scenes import SceneQuery, select_scenes
from system.store.commits import append_rows
from system.store.detections import DETECTIONS
from system.store.filters import SceneFilter
from system.store.lease import Holder, Lease, wait_for_dead_holder
from system.store.location import StoreLocation
from system.store.log_versions import (
    LogVersion,
    drop_mined,
    read_log_versions,
    versions_of_night,
    write_log_versions,
)
from system.store.maintain import tag_version
from system.store.runs import NIGHT_OF, RunRecord, write_run
from system.store.schema import QUARANTINE, SCENES, quarantine_schema
from system.store.search import SearchConfig, scenes_version
from system.store.sets import save_set
from system.store.tables import open_for_writing
from tests.cluster.jobs import Done, call_job
from tests.mined_store import MODEL, RUN_ID, mine_without_model
from tests.plain_logs import write_plain_log
from tests.unit.test_store import scene_rows

VERSION = LogVersion("m1", "fleet", "a", "/1/a", "2026-11-26", "2026-11-26", "new", 0, 9, 5, "files:x", 1)
NOW = datetime(2026, 11, 26, 1, 30, tzinfo=UTC)
NOW_NS = round(NOW.timestamp() * 1e9)


@pytest.fixture
def location(tmp_path) -> StoreLocation:
    place = StoreLocation.parse(str(tmp_path / "store"))
    open_for_writing(place, MODEL)
    return place


def config(location: StoreLocation, **more) -> NightlyConfig:
    return NightlyConfig.parse({"logs": ["/logs/{date}"], "store": location.uri, **more}, "test")


def add_run(
    location: StoreLocation, run_id: str, day: str, left: int | None = 0, started_ns: int = 1, first: str | None = None
) -> None:
    """A run of a night; without `left` it died before its end."""
    report = {NIGHT_OF: day, NIGHT_LOGS: ["/logs/{date}"], "figures": {"committed": 3}}
    write_run(location, RunRecord(run_id, "m1", "finished", started_ns, 2, None, report))
    if left is not None:
        days = [date.fromisoformat(first or day), date.fromisoformat(day)]
        write_night(location, run_id, days, left, NightFigures(scenes=3))


def test_contents_of_logs_are_remembered_by_model_and_place(location):
    assert read_log_versions(location, "m1", {"a"}) == []
    other = replace(VERSION, log_uri="/2/a", night="2026-11-25")
    write_log_versions(location, [VERSION, other, replace(VERSION, model_id="m2"), replace(VERSION, log_id="it's")])
    write_log_versions(location, [replace(VERSION, fingerprint="files:y")])
    found = {version.log_uri: version for version in read_log_versions(location, "m1", {"a"})}
    assert found == {"/1/a": replace(VERSION, fingerprint="files:y"), "/2/a": other}
    assert [v.log_id for v in read_log_versions(location, "m1", {"it's"})] == ["it's"]
    assert {v.log_id for v in versions_of_night(location, "m1", "2026-11-26")} == {"a", "it's"}


def test_a_changed_log_is_dropped_alone_and_yesterdays_version_keeps_it(tmp_path):
    for name in ("a", "b"):
        write_plain_log(tmp_path / "fleet", name, seconds=8)
    location = mine_without_model(tmp_path / "fleet", tmp_path / "store")
    fault = {"quarantine_id": "q", "level": "scene", "scene_id": "0" * 32, "model_id": "m1", "run_id": RUN_ID,
             "source": "fleet", "log_id": "a", "uri": "/x", "stage": "read", "code": "c", "message": "m"}  # fmt: skip
    faults = [fault, {**fault, "quarantine_id": "r", "log_id": "b"}]
    append_rows(location, QUARANTINE, pa.Table.from_pylist(faults, schema=quarantine_schema()))
    assert drop_mined(location, "m1", "fleet", "a", 0, 10**12) == 2
    assert drop_mined(location, "m1", "fleet", "a", 0, 10**12) == 0
    assert drop_mined(location, "another", "fleet", "b", 0, 10**12) == 0
    assert drop_mined(location, "m1", "fleet", "b", 10**12, 10**13) == 0  # another part of the drive
    assert set(location.dataset(SCENES).to_table()["log_id"].to_pylist()) == {"b"}
    # With what was wrong with the old content; the last call dropped that of "b".
    assert location.dataset(QUARANTINE).count_rows() == 0
    assert scenes_version(location, f"run-{RUN_ID}").count_rows() == 4


def test_detections_go_before_the_scenes_that_tell_of_them(location, monkeypatch):
    append_rows(location, SCENES, scene_rows(1))
    scene_id = location.dataset(SCENES).to_table()["scene_id"][0].as_py()
    location.connect().create_table(DETECTIONS, pa.table({"scene_id": [scene_id, "f" * 32]}))
    row = location.dataset(SCENES).to_table(columns=["source", "log_id"]).to_pylist()[0]
    dataset = StoreLocation.dataset

    def killed_at_scenes(place: StoreLocation, name: str):
        table = dataset(place, name)
        return Mock(wraps=table, delete=Mock(side_effect=KeyboardInterrupt)) if name == SCENES else table

    with monkeypatch.context() as patched:
        patched.setattr(StoreLocation, "dataset", killed_at_scenes)
        with pytest.raises(KeyboardInterrupt):
            drop_mined(location, "m1", row["source"], row["log_id"], 0, 10**18)
    assert location.dataset(DETECTIONS).to_table()["scene_id"].to_pylist() == ["f" * 32]
    assert drop_mined(location, "m1", row["source"], row["log_id"], 0, 10**18) == 1


def test_a_killed_run_belongs_to_its_night_and_makes_no_night(location):
    add_run(location, "20261126T0100", "2026-11-26", left=None)
    add_run(location, "20261126T0200", "2026-11-26")
    add_run(location, "20261124T0100", "2026-11-24", left=7)
    runs, nights = read_nights(location)
    assert [(night.run_id, night.left) for night in nights] == [("20261126T0200", 0), ("20261124T0100", 7)]
    places = ["/logs/{date}", "/more/{date}"]
    assert runs_of_night(runs, "m1", date(2026, 11, 26), places) == ["20261126T0200", "20261126T0100"]
    assert runs_of_night(runs, "m2", date(2026, 11, 26), places) == []
    assert past_nights(runs)[0].figures.scenes == 3


def test_runs_of_a_night_that_died_belong_to_the_next_that_ends_and_to_no_other(location):
    for run_id, day, left in (("1", "2026-11-22", 0), ("2", "2026-11-23", None), ("3", "2026-11-24", 0)):
        add_run(location, run_id, day, left)
    add_run(location, "4", "2026-11-26", left=None)
    runs, _ = read_nights(location)
    assert runs_of_night(runs, "m1", date(2026, 11, 24), ["/logs/{date}"]) == ["3", "2"]  # also when started again
    assert runs_of_night(runs, "m1", date(2026, 11, 27), ["/logs/{date}"]) == ["4"]
    assert runs_of_night(runs, "m1", date(2026, 11, 27), ["/others/{date}"]) == []


def test_a_night_is_asked_for_again_with_the_model_that_mined_it(location):
    add_run(location, "a", "2026-11-24")
    tag_version(location, "night-2026-11-24")
    open_for_writing(location, replace(MODEL, model_id="m2"))
    write_run(location, RunRecord("b", "m2", "finished", 1, 2, None, {"figures": {"committed": 1}}))
    server = SearchStore(location)
    assert server.view().model["model_id"] == "m2"
    assert server.view("night-2026-11-24").model["model_id"] == "m1"


def test_searches_and_exports_of_an_earlier_night_take_the_model_that_mined_it(tmp_path):
    write_plain_log(tmp_path / "fleet", "a", seconds=8)
    location = mine_without_model(tmp_path / "fleet", tmp_path / "store")
    add_run(location, "s1", "2026-11-24")
    tag_version(location, "night-2026-11-24")
    open_for_writing(location, replace(MODEL, model_id="m2"))
    append_rows(location, SCENES, scene_rows(1, model_id="m2"))
    write_run(location, RunRecord("s2", "m2", "finished", 1, 2, None, {"figures": {"committed": 1}}))
    everything = SearchConfig(top=100)
    assert [row["log_id"] for row in search_store(location.uri, SceneFilter(), everything)] == ["log0"]
    tag = "night-2026-11-24"
    found = {row["scene_id"] for row in search_store(location.uri, SceneFilter(), everything, version=tag)}
    like = next(iter(found))
    alike = search_store(location.uri, SceneFilter(), everything, scene=like, version=tag)
    ids = select_scenes(location.uri, SceneQuery(version=tag))
    assert len(found) == 2 and set(ids) == found and {row["scene_id"] for row in alike} == found - {like}
    config = ExportConfig(version_tag=tag)
    assert export_scenes(location, ids, "parquet", str(tmp_path / "out"), config).written == 2


def test_a_saved_set_is_exported_as_it_was_saved_after_another_model_and_another_upload(tmp_path):
    write_plain_log(tmp_path / "fleet", "a", seconds=8)
    location = mine_without_model(tmp_path / "fleet", tmp_path / "store")
    rows = location.dataset(SCENES).to_table(columns=["scene_id", "model_id"]).to_pylist()
    ids, version = tuple(row["scene_id"] for row in rows), int(location.dataset(SCENES).version)
    values = {"name": "x", "created_by": "ana", "model_id": rows[0]["model_id"], "scene_ids": ids, "search": None}
    saved = save_set(location, {**values, "version": version})
    open_for_writing(location, replace(MODEL, model_id="m2"))
    append_rows(location, SCENES, scene_rows(1, model_id="m2"))
    write_run(location, RunRecord("s2", "m2", "finished", 1, 2, None, {"figures": {"committed": 1}}))

    def export(set_id: str, *more: str) -> Done:
        asked = ("--store", location.uri, "--set", set_id, "--format", "parquet", "--out", str(tmp_path / "out"))
        return call_job("export_scenes", *asked, "--overwrite", *more)

    newest = export(save_set(location, {**values, "version": 10**6}).set_id)
    assert (newest.code, newest.figures["written"]) == (0, 2), "its version was removed: its model's rows as of now"
    drop_mined(location, "m1", "fleet", "a", 0, 10**12)
    done = export(saved.set_id)
    assert (done.code, done.figures["written"], done.figures["table_version"]) == (0, 2, version), done.stderr
    listed = tmp_path / "ids.txt"
    listed.write_text("\n".join(ids))
    refused = export(str(listed))
    assert refused.code == 2 and "2 of 2 scenes are not in this store as rows of model m2" in refused.stderr


@pytest.mark.parametrize(("status", "committed"), [("running", 0), ("failed", 0), ("finished", 0), ("failed", 5)])
def test_a_new_model_is_shown_once_a_run_of_it_has_mined_something_and_finished(location, status, committed):
    append_rows(location, SCENES, scene_rows(3))
    add_run(location, "a", "2026-11-24")
    tag_version(location, "night-2026-11-24")
    open_for_writing(location, replace(MODEL, model_id="m2"))
    report = {NIGHT_OF: "2026-11-24", "figures": {"committed": committed}}
    write_run(location, RunRecord("b", "m2", status, 1, None, None, report))
    for tag in (None, "night-2026-11-24"):
        assert len(search_store(location.uri, SceneFilter(), SearchConfig(), version=tag)) == 3
        assert SearchStore(location).view(tag).model["model_id"] == "m1"
    write_run(location, RunRecord("b", "m2", "finished", 1, 2, None, {"figures": {"committed": 5}}))
    assert SearchStore(location).view().model["model_id"] == "m2"


def test_nights_are_compared_by_day_the_newest_run_of_each(location):
    for run_id, day in (("a1", "2026-11-23"), ("a2", "2026-11-23"), ("b1", "2026-11-24"), ("c1", "2026-11-26")):
        add_run(location, run_id, day)
    _, nights = read_nights(location)
    assert [night.run_id for night in one_a_day(nights, "m1", date(2026, 11, 26), 7)] == ["b1", "a2"]
    assert len(one_a_day(nights, "m1", date(2026, 11, 26), 1)) == 1
    assert one_a_day(nights, "m2", date(2026, 11, 26), 7) == []


def test_the_next_night_begins_where_the_last_complete_one_was_and_a_second_run_where_the_first_did(location):
    first = due(config(location), None, None, NOW_NS)
    assert (first.day, first.days[0], first.missed, first.newest) == (date(2026, 11, 26), date(2026, 11, 23), [], None)
    add_run(location, "a", "2026-11-20")
    add_run(location, "b", "2026-11-24", left=9)  # its budget was used up
    todo = due(config(location, late_days=1), None, None, NOW_NS)
    assert todo.days[0] == date(2026, 11, 19) and todo.missed == [date(2026, 11, 25)]
    add_run(location, "c", "2026-11-26")
    again = due(config(location, late_days=1), None, None, NOW_NS)
    assert (again.days, again.missed, again.newest) == (todo.days, todo.missed, todo.newest)
    assert due(config(location), None, date(2026, 11, 1), NOW_NS).days[0] == date(2026, 11, 1)


def test_what_a_night_left_is_looked_at_until_a_night_has_made_up_for_it(location):
    def first_day() -> date:
        return due(config(location, late_days=0), None, None, NOW_NS).days[0]

    add_run(location, "a", "2026-11-20", left=1)  # the first night of all
    assert first_day() == date(2026, 11, 20)
    add_run(location, "b", "2026-11-21", left=5, first="2026-10-01")  # somebody looked back with --since
    add_run(location, "c", "2026-11-22", first="2026-11-20")  # this one did not look that far
    assert first_day() == date(2026, 10, 1)
    add_run(location, "d", "2026-11-24", first="2026-10-01")
    assert first_day() == date(2026, 11, 24)


def test_the_day_is_that_of_the_time_zone(location):
    late_ns = round(datetime(2026, 11, 26, 23, 30, tzinfo=UTC).timestamp() * 1e9)
    assert due(config(location), None, None, late_ns).day == date(2026, 11, 26)
    assert due(config(location, timezone="Europe/Berlin"), None, None, late_ns).day == date(2026, 11, 27)


def test_a_night_that_makes_no_sense_is_refused_with_what_to_do(location):
    add_run(location, "a", "2026-11-24")
    with pytest.raises(ConfigError, match="--night 2026-11-27 is after today, 2026-11-26"):
        due(config(location), date(2026, 11, 27), None, NOW_NS)
    with pytest.raises(ConfigError, match="--since 2026-11-20 looks back that far"):
        due(config(location), date(2026, 11, 20), None, NOW_NS)
    with pytest.raises(ConfigError, match="is before `since`"):
        due(config(location, since="2026-11-26"), date(2026, 11, 25), None, NOW_NS)
    with pytest.raises(ConfigError, match="is after the night"):
        due(config(location), None, date(2026, 12, 1), NOW_NS)


def test_a_run_from_the_future_is_a_clock_that_is_wrong(location):
    add_run(location, "a", "2026-11-26", started_ns=NOW_NS + 3 * 3600 * 10**9)
    with pytest.raises(StoreError, match=r"began 3\.0 hours after this machine's time; .* Set the clocks"):
        due(config(location), None, None, NOW_NS)
    assert due(config(location), None, None, NOW_NS + 3 * 3600 * 10**9).days


def test_a_live_writer_is_named_and_a_dead_one_elsewhere_is_waited_for(location):
    wait_for_dead_holder(location)
    with Lease(location, "run-1"), pytest.raises(LeaseError, match=r"run run-1 .* which is alive"):
        wait_for_dead_holder(location)
    wait_for_dead_holder(location)  # released
    elsewhere = replace(Holder.this_process("run-2"), host="another-machine")
    location.write_text("_lease/00000009.json", json.dumps(asdict(elsewhere)))
    started_s = time.monotonic()
    wait_for_dead_holder(location, time_to_live_s=0.5, poll_s=0.05)
    assert 0.2 < time.monotonic() - started_s < 5
    # One that beats meanwhile lives.
    location.write_text("_lease/00000010.json", json.dumps(asdict(replace(elsewhere, beat_ns=time.time_ns()))))
    beat = threading.Timer(
        0.2,
        lambda: location.write_text(
            "_lease/00000010.json", json.dumps(asdict(replace(elsewhere, beat_ns=time.time_ns())))
        ),
    )
    beat.start()
    with pytest.raises(LeaseError, match="on another-machine"):
        wait_for_dead_holder(location, time_to_live_s=30, poll_s=0.05)
    beat.join()
