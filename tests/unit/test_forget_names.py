"""A log is called as something else is that stays: a night, a key of a record, a tag, a folder of the configuration."""

from __future__ import annotations

import json
from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from system.pipelines.nightly.figures import NightFigures
from system.pipelines.nightly.records import NIGHT_LOGS, read_nights, write_night
from system.store.lease import Lease
from system.store.location import StoreLocation
from system.store.runs import NIGHT_OF, RunRecord, read_run, read_runs, write_run
from system.store.tables import open_for_writing
from tests.serving import MODEL, add_scenes, make_store
from tests.unit.test_forget import add_log, erase

DAY = "2026-11-25"
NIGHT = {
    NIGHT_OF: DAY,
    NIGHT_LOGS: ["/data/drives/{date}"],
    "figures": {"committed": 3},
    "config": {"logs": [f"/data/drives/{DAY}"], "tower": {"name": "construction"}},
    "recognised": [],
}


@pytest.fixture
def location(tmp_path) -> StoreLocation:
    store = make_store(tmp_path / "store")
    add_scenes(store, 12, first=100)  # those of log25 are copied by add_log
    write_run(store, RunRecord("r5", "m1", "finished", 3, 4, None, NIGHT))
    write_night(store, "r5", [date(2026, 11, 24), date(2026, 11, 25)], 0, NightFigures(scenes=3, tags={"night": 2}))
    return store


@pytest.mark.parametrize("log_id", ["night", "day", "left", "drives", "scenes", DAY, "construction"])
def test_records_of_nights_stay_as_they_are(location, log_id):
    add_log(location, log_id)
    before, nights = read_run(location, "r5").report, read_nights(location)[1]
    report = erase(location, log_id)
    assert report.rows["scenes"] == 4 and report.bytes_found_after == 0 and not report.is_id_sought
    if log_id == DAY:  # the place of the night is where the log lies
        before = before | {"config": before["config"] | {"logs": ["(forgotten)"]}}
    assert read_run(location, "r5").report == before
    assert read_nights(location)[1] == nights and [night.day for night in nights] == [date(2026, 11, 25)]


def test_labels_of_other_logs_stay_where_a_tag_is_called_so(location, tmp_path):
    add_log(location, "night")
    path = tmp_path / "store" / "labels.parquet"
    pq.write_table(pa.table({"log_id": ["log1", "night", "log2"], "tag": ["night", "rain", "day"]}), path)
    assert erase(location, "night").rows["labels.parquet"] == 1
    assert pq.read_table(path)["tag"].to_pylist() == ["night", "day"]


def test_remarks_that_name_the_log_go(location):
    add_log(location, "drive-0007")
    told = {
        "config": {"logs": ["/logs/drive-0007.mcap", "/logs/drive-0007/others", "/logs/all/"], "store": "/s"},
        "error": "/logs/drive-0007.mcap: ends early",
        "recognised": ["/logs/drive-0007.mcap: mcap (magic)", "/logs/b: plain (frames.csv)"],
        "skipped": [],
        "repeated_logs": ["fleet/drive-0007 at /logs"],
    }
    write_run(location, RunRecord("r6", "m1", "failed", 3, 4, None, told))
    report = erase(location, "drive-0007")
    assert report.runs_changed == 1 and report.bytes_found_after == 0
    assert not report.is_id_sought, "a folder of the configuration is called so"
    assert read_run(location, "r6").report == {
        "config": {"logs": ["(forgotten)", "/logs/drive-0007/others", "/logs/all/"], "store": "/s"},
        "error": "(forgotten)",
        "recognised": ["(forgotten)", "/logs/b: plain (frames.csv)"],
        "skipped": [],
        "repeated_logs": ["(forgotten)"],
    }


def test_an_id_that_nothing_else_is_called_by_is_sought_by_itself(location):
    add_log(location, "drive-0007")
    write_run(location, RunRecord("r6", "m1", "failed", 3, 4, None, {"error": "drive-0007: ends early"}))
    report = erase(location, "drive-0007")
    assert report.is_id_sought and report.bytes_found_after == 0
    assert "drive-0007" not in json.dumps([run.report for run in read_runs(location)])


def test_a_night_that_held_the_lease_and_died_is_no_trace_of_a_log(location):
    add_log(location, "2026-11-21")
    with Lease(location, "night-2026-11-21"):
        pass
    report = erase(location, "2026-11-21")
    assert report.is_id_sought and report.bytes_found_after == 0


def test_a_models_configuration_may_hold_the_id(location):
    open_for_writing(location, MODEL.__class__(**{**vars(MODEL), "model_id": "m9", "config": '{"x": "drive-0007"}'}))
    add_log(location, "drive-0007")
    report = erase(location, "drive-0007")
    assert not report.is_id_sought and report.bytes_found_after == 0
