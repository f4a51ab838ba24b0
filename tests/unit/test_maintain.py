"""A store is kept small and fast while others read it and one writes to it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from system.pipelines import mine
from system.pipelines.config import MineConfig
from system.pipelines.mining_progress import MiningProgress
from system.store import maintain
from system.store.commits import append_rows, commit_appended, write_uncommitted
from system.store.filters import SceneFilter
from system.store.ids import committed_ids
from system.store.lease import Lease
from system.store.location import StoreLocation
from system.store.maintain import MaintainConfig, build_indices, maintain_store, tag_version, unindexed_share
from system.store.runs import NIGHT_OF, RunRecord, write_run
from system.store.schema import SCENES
from system.store.search import SearchConfig, search_scenes
from system.store.sets import save_set
from system.store.tables import open_for_writing
from tests.cluster.jobs import call_job
from tests.unit.test_store import DIM, MODEL, scene_rows

NOW = MaintainConfig(keep_days=0, orphan_days=0)


@pytest.fixture
def location(tmp_path, monkeypatch) -> StoreLocation:
    monkeypatch.setattr(maintain, "_COMPACT_FROM_FRAGMENTS", 8)
    place = StoreLocation.parse(str(tmp_path / "store"))
    open_for_writing(place, MODEL)
    for k in range(6):
        append_rows(place, SCENES, scene_rows(5, 5 * k))
    tag_version(place, "run-r1")
    build_indices(place)
    for k in range(6, 10):
        append_rows(place, SCENES, scene_rows(5, 5 * k))
    return place


Loop = tuple[threading.Thread, list[object], list[BaseException]]


def in_a_thread(work: Callable[[], object], until: threading.Event) -> Loop:
    found: list[object] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            while not until.wait(0.02):
                found.append(work())
        except BaseException as error:  # noqa: BLE001 - told to the test
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, found, errors


def test_fragments_versions_and_orphans_go_and_tags_stay(location):
    write_uncommitted(location, SCENES, scene_rows(5, 900))
    assert unindexed_share(location.dataset(SCENES)) == pytest.approx(0.4)
    files = len(list(Path(location.uri).rglob("*.lance")))
    report = maintain_store(location, NOW, "m")
    assert report.held_by is None and report.conflicts == []
    assert report.fragments_after < report.fragments_before and report.versions_after < report.versions_before
    assert report.bytes_after < report.bytes_before and report.unindexed_share == 0 and report.tags == 1
    assert len(list(Path(location.uri).rglob("*.lance"))) < files
    assert location.dataset(SCENES).count_rows() == 50
    assert location.dataset(SCENES).checkout_version("run-r1").count_rows() == 30
    again = maintain_store(location, NOW, "m")
    assert again.fragments_after == again.fragments_before and location.dataset(SCENES).count_rows() == 50


def test_versions_of_all_but_the_newest_nights_go_and_others_stay(location):
    days = ["2026-11-22", "2026-11-23", "2026-11-24", "2026-11-25"]
    for k, day in enumerate(days):
        for tag in (f"run-n{k}", f"night-{day}"):
            append_rows(location, SCENES, scene_rows(5, 100 * (k + 1) + 50 * tag.startswith("run")))
            version = tag_version(location, tag)
        if k == 1:
            values = {"name": "x", "created_by": "ana", "model_id": "m1", "version": version, "scene_ids": ("0" * 32,)}
            save_set(location, values)
        write_run(location, RunRecord(f"n{k}", "m1", "finished", 1, 2, None, {NIGHT_OF: day}))
    tag_version(location, "night-mine")  # somebody's own
    assert maintain_store(location, NOW, "m").tags_removed == []
    with Lease(location, "miner"):
        assert maintain_store(location, NOW.model_copy(update={"keep_nights": 2}), "m").tags_removed == []
    report = maintain_store(location, NOW.model_copy(update={"keep_nights": 2}), "m")
    assert report.tags_removed == ["night-2026-11-22", "run-n0", "run-n1"]
    kept = location.dataset(SCENES).tags.list()
    assert set(kept) == {
        "run-r1", "night-mine", "night-2026-11-23",  # a saved set is of its version
        "run-n2", "night-2026-11-24", "run-n3", "night-2026-11-25",
    }  # fmt: skip
    versions = {version["version"] for version in location.dataset(SCENES).versions()}
    assert versions == {tag["version"] for tag in kept.values()} | {location.dataset(SCENES).version}
    for wrong in ("0", "-1"):
        done = call_job("maintain_store", "--store", location.uri, "--keep-nights", wrong)
        assert done.code == 2 and "keep_nights" in done.stderr


def test_what_a_miner_is_about_to_commit_stays_while_it_holds_the_store(location):
    fragments = write_uncommitted(location, SCENES, scene_rows(5, 900))
    with Lease(location, "miner") as lease:
        report = maintain_store(location, NOW, "m")
        assert report.held_by is not None and "miner" in report.held_by
        lease.check()
        commit_appended(location, SCENES, fragments)
    assert location.dataset(SCENES).to_table(columns=["scene_id", "risk"]).num_rows == 55


def test_readers_and_a_writer_notice_nothing(location):
    done, number = threading.Event(), iter(range(1000, 100_000, 5))
    query = np.eye(DIM, dtype=np.float32)[0]

    def read() -> int:
        found = search_scenes(location, query, SceneFilter(tags=("night",)), SearchConfig(top=5))
        return len(found)

    with Lease(location, "miner"):
        reader, answers, reader_errors = in_a_thread(read, done)
        writer, written, writer_errors = in_a_thread(
            lambda: append_rows(location, SCENES, scene_rows(5, next(number))), done
        )
        try:
            for _ in range(4):
                report = maintain_store(location, MaintainConfig(keep_days=7), "m")
                assert "miner" in str(report.held_by)
        finally:
            done.set()
            reader.join()
            writer.join()
    assert not reader_errors and not writer_errors, (reader_errors, writer_errors)
    assert len(answers) > 5 and set(answers) == {5}
    assert location.dataset(SCENES).count_rows() == 50 + 5 * len(written) == len(committed_ids(location, "m1"))
    assert maintain_store(location, NOW, "m").unindexed_share == 0


@pytest.mark.parametrize(("options", "removed"), [({}, [MaintainConfig().keep_days]), ({"keep_days": None}, [])])
def test_a_run_keeps_versions_as_long_as_maintenance_does(tmp_path, monkeypatch, options, removed):
    told: list[float] = []
    monkeypatch.setattr(mine, "remove_orphans", lambda _, days: told.append(days))
    monkeypatch.setattr(mine, "write_report", lambda *_: "")
    monkeypatch.setattr(mine._Run, "mine", lambda run: setattr(run.result, "committed", 1))
    config = MineConfig(logs=(str(tmp_path),), store=str(tmp_path / "store"), rank=False)
    with MiningProgress() as progress:
        mine.mine_fleet(config, progress, **options)
    assert told == removed


def test_the_job_tells_what_it_did(location):
    done = call_job("maintain_store", "--store", location.uri, "--keep-days", "0", "--orphan-days", "0")
    assert done.code == 0, done.stderr
    assert done.figures["versions_after"] < done.figures["versions_before"] and done.figures["unindexed_share"] == 0
