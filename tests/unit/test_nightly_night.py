"""Whole nights without Ray: what they leave, what they look at, and what they refuse."""

from __future__ import annotations

import json
import os
import shutil
import time
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from system.errors import ConfigError
from system.pipelines.mining_progress import MiningProgress
from system.pipelines.nightly.night import plan_night
from system.pipelines.nightly.report_night import report_and_tell
from system.store.forget import forget_log
from system.store.forget_plan import plan_forgetting
from system.store.lease import Lease
from system.store.location import StoreLocation
from system.store.schema import SCENES
from tests.cluster.jobs import call_job
from tests.mcap_logs import write_ros2
from tests.nights import DAY, NEXT, QUICK, TODAY, Night, scenes, settings, upload
from tests.plain_logs import write_plain_log
from tests.unit.test_pixels_on_s3 import bucket  # noqa: F401 - a fixture
from tests.unit.test_ros_mcap import drive


def test_a_night_leaves_scenes_labels_a_tag_a_page_and_a_record(tmp_path, night: Night):
    upload(tmp_path, "a")
    result = night()
    assert (result.mined.committed, result.figures.scenes, result.figures.tags) == (2, 2, {"night": 2})
    assert StoreLocation.parse(f"{tmp_path}/store").dataset(SCENES).tags.list().keys() == {f"night-{DAY}"}
    assert len(pq.read_table(result.labels)) == 2 and f"Night {DAY}" in Path(result.report).read_text()
    assert json.loads(Path(result.report).with_suffix(".json").read_text())["committed"] == 2
    again = night()
    assert (again.mined.committed, again.mined.already, again.figures) == (0, 2, result.figures)
    assert len(pq.read_table(again.labels)) == 2 and len(again.arrived) == 1
    assert plan_night(settings(tmp_path), DAY, None, time.time_ns())["todo"] == 0


def test_a_recording_that_is_copied_into_another_days_folder_is_mined_once(tmp_path, night: Night):
    first, copied = (tmp_path / "logs" / str(day) / "rig7-drive.mcap" for day in (DAY, NEXT))
    for path in (first, copied):
        path.parent.mkdir(parents=True)
    write_ros2(first, drive())
    night(**QUICK)
    shutil.copy2(first, copied)
    result = night(NEXT, **QUICK)
    assert (result.mined.found, result.mined.committed, result.mined.already) == (1, 0, 1)
    first.unlink()
    assert night(TODAY, **QUICK).mined.already == 1 == len(scenes(tmp_path))


def test_a_changed_log_may_be_told_alone_and_is_told_again(tmp_path, night: Night):
    folder = upload(tmp_path, "a")
    night(reuploaded="tell")
    before = scenes(tmp_path)
    os.utime(folder / "ego.csv", (1, 1))
    for _ in range(2):
        result = night(reuploaded="tell")
        assert [alert.code for alert in result.alerts] == ["reuploaded"] and str(folder) in result.alerts[0].message
    assert scenes(tmp_path) == before


def test_a_log_from_tomorrow_and_places_without_logs_are_told(tmp_path, night: Night):
    folder = upload(tmp_path, "a")
    ego = (folder / "ego.csv").read_text().splitlines()
    t_ns = 4_000_000_000 * 10**9
    rows = [ego[0] + ",t_ns", *(f"{line},{t_ns + k * 500_000_000}" for k, line in enumerate(ego[1:]))]
    (folder / "ego.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "logs" / str(DAY) / "junk").mkdir()
    (tmp_path / "logs" / str(DAY) / "junk" / "notes.txt").write_text("hello")
    result = night()
    told = {alert.code: alert.message for alert in result.alerts}
    assert set(told) == {"clock", "skipped"}
    assert "recorded after now" in told["clock"] and "notes.txt" in told["skipped"]


def test_a_store_that_is_put_back_to_an_earlier_night_is_mined_again_from_there(tmp_path, night: Night):
    upload(tmp_path, "a")
    night()
    upload(tmp_path, "b", NEXT)
    night(NEXT)
    StoreLocation.parse(f"{tmp_path}/store").dataset("scenes").checkout_version(f"night-{DAY}").restore()
    assert {row["log_id"] for row in scenes(tmp_path)} == {"a"}
    result = night(TODAY, since=DAY)
    assert (result.mined.committed, result.mined.already, len(scenes(tmp_path))) == (2, 2, 4)


def test_since_looks_back_further_and_never_less_far(tmp_path, night: Night):
    upload(tmp_path, "a", DAY - timedelta(days=12))
    night(DAY - timedelta(days=12))
    upload(tmp_path, "missed", DAY - timedelta(days=8))
    result = night(since=DAY - timedelta(days=1))
    assert result.days[0] == DAY - timedelta(days=15) and {row["log_id"] for row in scenes(tmp_path)} == {"a", "missed"}
    assert [alert.message.partition("; ")[2] for alert in result.alerts] == ["their logs were looked at tonight"]
    assert night(since=DAY - timedelta(days=40)).days[0] == DAY - timedelta(days=40)


def test_a_missed_day_that_since_leaves_out_is_not_told_as_looked_at(tmp_path, night: Night):
    upload(tmp_path, "a", DAY - timedelta(days=3))
    night(DAY - timedelta(days=3))
    config = settings(tmp_path, since=str(DAY - timedelta(days=1)), late_days=0)
    with MiningProgress() as progress:
        result = report_and_tell(config, progress, lambda: False, DAY)
    told = f"of these days, the logs of {DAY - timedelta(days=1)} were looked at tonight"
    assert len(result.missed) == 2 and result.alerts[0].message.endswith(told)


def test_two_configurations_on_one_store_lose_no_log_and_overwrite_no_labels(tmp_path, night: Night):
    fleets = {name: [f"{tmp_path}/{name}/{{date}}"] for name in ("first", "second")}
    start = DAY - timedelta(days=12)
    for name in fleets:
        write_plain_log(tmp_path / name / str(start), f"{name}-0", cameras=())
    labels = night(start, logs=fleets["first"], **QUICK).labels
    with pytest.raises(ConfigError, match="List the logs of both in one configuration, or use a store of its own"):
        night(start, logs=fleets["second"], **QUICK)
    assert set(pq.read_table(labels)["log_id"].to_pylist()) == {"first-0"}
    night(start + timedelta(days=1), logs=fleets["second"], **QUICK)
    write_plain_log(tmp_path / "second" / str(DAY - timedelta(days=8)), "second-missed", cameras=())
    night(NEXT, logs=fleets["first"], late_days=0, **QUICK)
    result = night(TODAY, logs=fleets["second"], **QUICK)
    assert (result.days[0], len(result.missed)) == (start - timedelta(days=2), 12)
    assert {row["log_id"] for row in scenes(tmp_path)} == {"first-0", "second-0", "second-missed"}


def test_a_place_that_is_added_is_looked_at_from_the_first_and_the_others_as_before(tmp_path, night: Night):
    added = f"{tmp_path}/added/{{date}}"
    upload(tmp_path, "a", NEXT)
    write_plain_log(tmp_path / "added" / str(NEXT - timedelta(days=3)), "b", cameras=())
    night(NEXT, late_days=0, **QUICK)
    both = {
        "logs": [f"{tmp_path}/logs/{{date}}", added],
        "late_days": 0,
        "since": str(NEXT - timedelta(days=5)),
        **QUICK,
    }
    with MiningProgress() as progress:
        result = report_and_tell(settings(tmp_path, **both), progress, lambda: False, NEXT)
    assert result.days[0] == NEXT - timedelta(days=5) and result.mined.committed == 2
    assert set(pq.read_table(result.labels)["log_id"].to_pylist()) == {"a", "b"}


def test_a_night_without_logs_is_a_night(tmp_path, night: Night):
    (tmp_path / "logs").mkdir()
    result = night()
    assert (
        result.mined.found == 0
        and result.figures.scenes == 0
        and "No scene was mined" in Path(result.report).read_text()
    )
    assert not night(NEXT).missed


def test_a_webhook_that_fails_harms_no_night_and_what_is_missing_is_told_before_it(tmp_path, night: Night, monkeypatch):
    upload(tmp_path, "a")
    hook = {"url": "http://127.0.0.1:9/x", "secret_env": "HOOK_SECRET", "attempts": 1}
    monkeypatch.delenv("HOOK_SECRET", raising=False)
    with pytest.raises(ConfigError, match="HOOK_SECRET"):
        night(webhook=hook)
    with pytest.raises(ConfigError, match=r"/nowhere\.toml"):
        night(labels={"rules": "/nowhere.toml"})
    assert not (tmp_path / "store").exists()
    monkeypatch.setenv("HOOK_SECRET", "0123456789abcdef")
    result = night(webhook=hook)
    assert result.mined.committed == 2 and [alert.code for alert in result.alerts] == ["webhook"]
    # A night without alerts is not told where only alerts are.
    assert not night(webhook={**hook, "only_alerts": True}).alerts


def test_nothing_that_a_night_wrote_keeps_a_log_that_is_erased(tmp_path, night: Night):
    for name in ("drive-to-forget", "drive-to-keep"):
        upload(tmp_path, name)
    result = night()
    location = StoreLocation.parse(f"{tmp_path}/store")
    with Lease(location, "forget") as lease:
        report = forget_log(location, plan_forgetting(location, "drive-to-forget"), lease)
    assert report.bytes_found_after == 0 and report.rows["logs"] == 1
    assert report.rows[f"labels/night-{DAY}.parquet"] == 2
    assert {row["log_id"] for row in scenes(tmp_path)} == {"drive-to-keep"}
    labels = pq.read_table(result.labels)
    assert len(labels) == 2 and set(labels["log_id"].to_pylist()) == {"drive-to-keep"}


def test_a_night_runs_on_an_object_store_alone(bucket, tmp_path, night: Night):  # noqa: F811
    folder = upload(tmp_path, "a")
    bucket.put(str(folder), f"logs/drives/{DAY}/a", recursive=True)
    places = {"logs": ["s3://logs/drives/{date}"], "store": "s3://logs/store"}
    first = night(**places)
    assert (first.mined.committed, first.report) == (2, f"s3://logs/store/reports/night-{DAY}.html")
    assert bucket.exists(f"logs/store/labels/night-{DAY}.parquet")
    bucket.pipe_file(f"logs/drives/{DAY}/a/ego.csv", (folder / "ego.csv").read_bytes().replace(b"10.0", b"11.0"))
    again = night(**places)
    assert (again.mined.committed, len(again.arrivals("reuploaded")), again.figures.scenes) == (2, 1, 2)


def test_a_night_keeps_as_many_nights_as_it_is_told(tmp_path, night: Night):
    for day in (DAY, NEXT):
        upload(tmp_path, f"log-of-{day}", day=day)
        night(day, maintenance={"keep_nights": 1})
    location = StoreLocation.parse(f"{tmp_path}/store")
    assert location.dataset(SCENES).tags.list().keys() == {f"night-{NEXT}"}


def test_a_log_called_as_its_night_is_forgotten_and_nights_go_on(tmp_path, night):
    folder = write_plain_log(tmp_path / "logs", str(DAY), cameras=())  # lies in the place of the day itself
    upload(tmp_path, "b", day=NEXT)
    night(**QUICK)
    shutil.rmtree(folder)
    location = StoreLocation.parse(f"{tmp_path}/store")
    done = call_job("maintain_store", "--store", location.uri, "--forget", str(DAY), "--yes")
    assert done.code == 0 and done.figures["bytes_found_after"] == 0, done.stderr
    assert done.figures["patterns"] > 0 and not done.figures["is_id_sought"]
    assert night(NEXT, **QUICK).mined.committed > 0
    assert {row["log_id"] for row in scenes(tmp_path)} == {"b"}
