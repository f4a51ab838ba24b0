"""A whole night without Ray: what dies, stops or fails on the way leaves less for the next start, and nothing twice."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from system.errors import ConfigError, DataError, StoreError
from system.logs.fingerprint import Fingerprint
from system.pipelines import mine
from system.pipelines.config import MineConfig
from system.pipelines.mine import describe_model
from system.pipelines.mining_progress import MiningProgress
from system.pipelines.nightly import finding
from system.pipelines.nightly import night as night_module
from system.pipelines.nightly import report_night as report_module
from system.pipelines.nightly.config import NightlyConfig
from system.pipelines.nightly.night import plan_night
from system.pipelines.nightly.outcome import NightResult
from system.pipelines.nightly.report_night import report_and_tell
from system.pipelines.plan import plan_mining
from system.pipelines.result import MiningResult
from system.records import LogRef
from system.store.commits import append_rows
from system.store.forget import forget_log
from system.store.forget_plan import plan_forgetting
from system.store.ids import committed_ids, quarantined_ids
from system.store.lease import Lease
from system.store.location import StoreLocation
from system.store.runs import RunRecord, write_run
from system.store.schema import SCENES, scenes_schema
from tests.cluster.jobs import call_job
from tests.mcap_logs import write_ros2
from tests.plain_logs import write_plain_log
from tests.unit.test_pixels_on_s3 import bucket  # noqa: F401 - a fixture
from tests.unit.test_ros_mcap import drive

TODAY = datetime.now(UTC).date()
DAY, NEXT = TODAY - timedelta(days=2), TODAY - timedelta(days=1)
# Maintenance takes most of the time of a night of so few scenes.
QUICK: dict[str, Any] = {"maintenance": {"enabled": False}}


class Miner:
    """Stands in for `mine_fleet`: rows without any model. fails_after: so many scenes are committed, then it dies."""

    def __init__(self) -> None:
        self.fails_after, self.is_stalled = None, False

    def __call__(self, config: MineConfig, progress, should_stop, listing, remarks, keep_days, run_id) -> MiningResult:
        assert keep_days is None, "a night maintains the store itself, as it is configured"
        location, model = StoreLocation.parse(config.store), describe_model(config)
        settled = committed_ids(location, model.model_id), quarantined_ids(location, model.model_id)
        plan = plan_mining(config, *settled, listing)
        result = MiningResult(run_id, model.model_id, plan.found, 0, plan.already)
        result.quarantined, result.deferred, result.unread = len(plan.bad_logs), plan.deferred, len(plan.unread_logs)
        result.remaining = plan.todo + result.unread
        record = RunRecord(result.run_id, model.model_id, "running", 1, None, None, dict(remarks))
        write_run(location, record)
        for window in (window for chunk in plan.chunks for window in chunk.windows):
            if self.fails_after == result.committed:
                raise StoreError("the disk is full")
            embedding = np.eye(1, model.embedding_dim, dtype=np.float32)[0]
            row = {"scene_id": window.scene_id, "model_id": model.model_id, "run_id": result.run_id,
                   "source": window.log.source, "log_id": window.log.log_id, "log_uri": window.log.uri,
                   "reader": "plain", "t_start_ns": window.t_start_ns, "t_end_ns": window.t_end_ns,
                   "tags": ["night"], "risk": 0.25, "embedding": embedding, "tag_probabilities": [0.5] * 20,
                   "picture_batch": "b"}  # fmt: skip
            append_rows(location, SCENES, pa.Table.from_pylist([row], schema=scenes_schema(model.embedding_dim)))
            result.committed += 1
            result.remaining -= 1
            if result.remaining and should_stop():
                result.stopped, result.stalled = True, self.is_stalled
                break
        report = {**remarks, "figures": result.as_json(), "config": config.model_dump(mode="json")}
        write_run(location, RunRecord(result.run_id, model.model_id, "finished", 1, 2, None, report))
        return result


@pytest.fixture
def miner(monkeypatch) -> Miner:
    stand_in = Miner()
    monkeypatch.setattr(night_module, "mine_fleet", stand_in)
    numbers = count(1)  # ids of one second have no order
    monkeypatch.setattr(night_module, "new_run_id", lambda: f"run{next(numbers):03d}")
    return stand_in


Night = Callable[..., NightResult]


@pytest.fixture
def night(tmp_path: Path, miner: Miner) -> Night:
    def run(day: date = DAY, stop: bool = False, since: date | None = None, **more: Any) -> NightResult:
        with MiningProgress() as progress:
            return report_and_tell(settings(tmp_path, **more), progress, lambda: stop, day, since)

    return run


def settings(root: Path, **more: Any) -> NightlyConfig:
    values = {"logs": [f"{root}/logs/{{date}}"], "store": f"{root}/store", "rank": False} | more
    return NightlyConfig.parse(values, "test")


def upload(root: Path, name: str, day: date = DAY, **options: Any) -> Path:
    return write_plain_log(root / "logs" / str(day), name, cameras=(), **options)


def scenes(root: Path) -> list[dict]:
    return StoreLocation.parse(f"{root}/store").dataset(SCENES).to_table().to_pylist()


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


def test_a_night_that_died_is_made_up_for_and_counts_what_it_had_mined(tmp_path, night: Night, miner: Miner):
    upload(tmp_path, "a", seconds=16)
    miner.fails_after = 3
    with pytest.raises(StoreError, match="disk is full"):
        night()
    miner.fails_after = None
    result = night()
    assert (result.mined.committed, result.mined.already) == (1, 3)
    assert result.figures.scenes == 4 and len(pq.read_table(result.labels)) == 4 and len(result.arrived) == 1
    assert len({row["scene_id"] for row in scenes(tmp_path)}) == len(scenes(tmp_path)) == 4


def test_the_next_night_labels_and_counts_what_a_night_that_died_had_mined(tmp_path, night: Night, miner: Miner):
    for name in ("a", "b"):
        upload(tmp_path, name)
    miner.fails_after = 3
    with pytest.raises(StoreError, match="disk is full"):
        night(**QUICK)
    miner.fails_after = None
    result = night(NEXT, **QUICK)
    assert (result.mined.committed, result.figures.scenes, result.made_up) == (1, 4, [str(DAY)])
    assert set(pq.read_table(result.labels)["log_id"].to_pylist()) == {"a", "b"} and len(result.arrived) == 2
    assert f"Scenes of {DAY} are among these" in Path(result.report).read_text()


def test_a_changed_log_whose_night_died_is_dropped_once_and_mined_once(tmp_path, night: Night, miner: Miner):
    folder = upload(tmp_path, "a", seconds=16)
    night()
    os.utime(folder / "ego.csv", (1, 1))
    miner.fails_after = 2
    with pytest.raises(StoreError):
        night()
    assert len(scenes(tmp_path)) == 2
    miner.fails_after = None
    result = night()
    assert (result.mined.committed, result.mined.already) == (2, 2)  # what was mined of the new content stays
    assert len(result.arrivals("reuploaded")) == 1 and not night().mined.committed


@pytest.mark.parametrize("dies_in", ["mine_fleet", "write_log_versions"])
def test_what_a_night_with_since_dropped_before_it_died_is_mined_by_the_next(tmp_path, night, monkeypatch, dies_in):
    old = TODAY - timedelta(days=60)
    folder = upload(tmp_path, "old", day=old, seconds=16)
    night(TODAY - timedelta(days=40), since=old, **QUICK)
    night(DAY, **QUICK)
    shutil.rmtree(folder)
    upload(tmp_path, "old", day=old, seconds=12)
    with monkeypatch.context() as patched:
        patched.setattr(night_module, dies_in, Mock(side_effect=StoreError("killed")))
        with pytest.raises(StoreError, match="killed"):
            night(NEXT, since=old, **QUICK)
    assert not scenes(tmp_path)
    result = night(NEXT, **QUICK)
    assert (result.days[0], result.mined.committed, len(pq.read_table(result.labels))) == (old, 3, 3)
    assert night(TODAY, **QUICK).days[0] > old


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


def test_a_signal_or_a_budget_ends_the_night_and_the_next_goes_on(tmp_path, night: Night):
    upload(tmp_path, "a", seconds=16)
    stopped = night(stop=True)
    assert (stopped.mined.committed, stopped.left, stopped.labels) == (1, 3, None)
    assert [alert.code for alert in stopped.alerts] == ["left_for_next_night"]
    hours = night(NEXT, budget={"hours": 1e-9})
    assert (hours.mined.committed, hours.left, hours.budget_spent) == (1, 2, "1e-09 hours")
    assert hours.labels is not None and hours.maintained, "batches came, so all but mining is done"
    rest = night(TODAY, late_days=0)
    assert (rest.mined.committed, rest.left, rest.days[0]) == (2, 0, DAY - timedelta(days=3))


def test_the_next_night_labels_what_one_mined_that_was_asked_to_stop_and_counts_its_own(tmp_path, night: Night):
    for name in ("a", "b"):
        upload(tmp_path, name, seconds=4)
    stopped = night(stop=True, **QUICK)
    assert (stopped.mined.committed, stopped.left, stopped.labels) == (1, 1, None)
    result = night(NEXT, **QUICK)
    assert set(pq.read_table(result.labels)["log_id"].to_pylist()) == {"a", "b"}
    assert (result.figures.scenes, stopped.figures.scenes, result.made_up) == (1, 1, [])
    upload(tmp_path, "c", TODAY, seconds=4)
    assert set(pq.read_table(night(TODAY, **QUICK).labels)["log_id"].to_pylist()) == {"c"}


def test_a_night_that_mined_all_and_labelled_nothing_has_its_old_days_looked_at_again(tmp_path, night: Night):
    old = DAY - timedelta(days=60)
    upload(tmp_path, "a", old, seconds=4)
    stopped = night(stop=True, since=old, **QUICK)
    assert (stopped.mined.committed, stopped.left, stopped.labels) == (1, 0, None)
    result = night(NEXT, **QUICK)
    assert result.days[0] == old and pq.read_table(result.labels)["log_id"].to_pylist() == ["a"]
    assert night(TODAY, labels={"enabled": False}, **QUICK).days[0] > old


def test_a_budget_that_is_used_up_while_no_node_comes_ends_the_night_with_its_report(tmp_path, night: Night, miner):
    upload(tmp_path, "a")
    miner.is_stalled = True
    result = night(budget={"hours": 1e-9}, rank=True)  # ranking would start Ray
    assert (result.mined.committed, result.left, result.labels) == (1, 1, None) and not result.maintained
    assert [alert.code for alert in result.alerts] == ["left_for_next_night"] and Path(result.report).exists()
    assert result.alerts[0].message.endswith("the budget of 1e-09 hours is used up")


def test_a_log_that_storage_keeps_back_is_looked_at_again_however_late(tmp_path, night: Night, monkeypatch):
    upload(tmp_path, "a")
    upload(tmp_path, "kept")
    fingerprint = finding.log_fingerprint

    def refuse(ref: LogRef, shares_files: bool) -> Fingerprint:
        if ref.log_id == "kept":
            raise DataError("unreachable", f"{ref.uri}: cannot be listed: no answer")
        return fingerprint(ref, shares_files)

    with monkeypatch.context() as outage:
        outage.setattr(finding, "log_fingerprint", refuse)
        first = night(late_days=0, **QUICK)
    assert (first.mined.committed, first.mined.quarantined, first.left, first.figures.quarantined) == (2, 0, 1, 0)
    second = night(TODAY, late_days=0, **QUICK)
    assert (second.days[0], second.mined.committed, second.left) == (DAY, 2, 0)


def test_a_log_that_can_never_be_read_holds_up_two_nights_and_no_more(tmp_path, night: Night, monkeypatch):
    upload(tmp_path, "kept")
    refused = DataError("unreachable", "cannot be listed: forbidden")
    monkeypatch.setattr(finding, "log_fingerprint", Mock(side_effect=refused))
    monkeypatch.setattr(night_module, "mine_fleet", mine.mine_fleet)  # starts no Ray where there is no scene
    left = []
    for day in (DAY, NEXT, TODAY):
        monkeypatch.setattr(mine, "new_run_id", lambda day=day: f"{day:%Y%m%d}T010000Z-night")
        result = night(day, late_days=0, **QUICK)
        left.append((result.left, result.mined.quarantined, result.days[0]))
    assert left == [(1, 0, DAY), (1, 0, DAY), (0, 1, DAY)]
    assert night(TODAY, late_days=0, **QUICK).left == 0


def test_each_failed_night_is_a_message_of_its_own(tmp_path, night: Night, miner: Miner, monkeypatch):
    upload(tmp_path, "a", seconds=16)
    monkeypatch.setenv("HOOK_SECRET", "0123456789abcdef")
    sent: list[tuple[dict[str, Any], str]] = []
    monkeypatch.setattr(report_module, "send", lambda _hook, _secret, body, delivery: sent.append((body, delivery)))
    miner.fails_after = 1
    for day in (DAY, None):
        with pytest.raises(StoreError):
            night(day, webhook={"url": "http://127.0.0.1:9/x", "secret_env": "HOOK_SECRET"})
    assert [(body["status"], body["night"]) for body, _ in sent] == [("failed", str(DAY)), ("failed", str(TODAY))]
    assert len({delivery for _, delivery in sent}) == 2 and all(d.startswith("failed-") for _, d in sent)


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
