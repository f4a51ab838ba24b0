"""What dies, stops or fails on the way leaves less for the next start of a night, and nothing twice. Without Ray."""

from __future__ import annotations

import os
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pyarrow.parquet as pq
import pytest

from system.errors import DataError, StoreError
from system.logs.fingerprint import Fingerprint
from system.pipelines import mine
from system.pipelines.nightly import finding
from system.pipelines.nightly import night as night_module
from system.pipelines.nightly import report_night as report_module
from system.records import LogRef
from tests.nights import DAY, NEXT, QUICK, TODAY, Miner, Night, scenes, upload
from tests.unit.test_pixels_on_s3 import bucket  # noqa: F401 - a fixture


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
    for _ in range(2):  # a second run of the night writes the same again
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
