"""A store on an object store whose requests fail, hang and are answered into the void: nothing lost, nothing twice."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from system.errors import DataError, StoreError
from system.logs.registry import discover
from system.store.commits import append_rows, commit_updated
from system.store.filters import SceneFilter
from system.store.ids import committed_ids
from system.store.lease import Lease
from system.store.location import StoreLocation
from system.store.maintain import tag_version
from system.store.ranking import read_signals, write_ranks
from system.store.schema import RANKING_COLUMNS, SCENES
from system.store.search import SearchConfig, search_scenes
from system.store.sets import list_sets, save_set
from system.store.tables import open_for_writing
from tests.cluster.jobs import call_job
from tests.s3 import Faults, s3_bucket
from tests.unit.test_store import DIM, MODEL, scene_rows

BATCHES, OF_BATCH = 12, 4


@pytest.fixture(scope="module")
def faults() -> Faults:
    return Faults()


@pytest.fixture(scope="module")
def bucket(faults: Faults) -> Iterator[str]:
    with s3_bucket(faults=faults) as uri:
        yield uri


@pytest.fixture(autouse=True)
def quiet(faults: Faults) -> Iterator[None]:
    yield
    faults.unavailable = faults.slow = faults.cut = faults.lost = faults.expired = 0.0


@pytest.fixture(scope="module")
def store(bucket: str, faults: Faults) -> StoreLocation:
    """Filled, ranked and tagged while one request in four goes wrong."""
    location = StoreLocation.parse(f"{bucket}/store")
    faults.unavailable, faults.slow, faults.cut, faults.lost, faults.slow_s = 0.07, 0.03, 0.07, 0.08, 0.2
    with Lease(location, "r1") as lease:
        open_for_writing(location, MODEL)
        for k in range(BATCHES):
            lease.check()
            append_rows(location, SCENES, scene_rows(OF_BATCH, OF_BATCH * k))
        dataset = location.dataset(SCENES)
        signals = read_signals(dataset, "m1")
        names = [name for name in RANKING_COLUMNS if name != "ranked_among"]
        ranks = np.linspace(0, 1, len(signals.risk))
        fragments, fields = write_ranks(dataset, signals.row_address, lambda rows: dict.fromkeys(names, ranks[rows]))
        commit_updated(location, SCENES, fragments, fields, dataset.version)
        tag_version(location, "run-r1")
    for name in ("unavailable", "slow", "cut", "lost"):
        assert faults.seen[name] >= 2, f"{name} was not tried: {faults.seen}"
    return location


def test_every_scene_is_there_once_though_answers_were_lost(store):
    assert store.dataset(SCENES).count_rows() == BATCHES * OF_BATCH == len(committed_ids(store, "m1"))
    assert store.dataset(SCENES).count_rows(filter="ranked_among IS NULL") == 0
    assert store.dataset(SCENES).tags.list().keys() == {"run-r1"}


def test_readers_are_served_meanwhile(store, faults):
    faults.unavailable, faults.cut, faults.lost = 0.1, 0.05, 0.05
    query = np.eye(DIM, dtype=np.float32)[0]
    for _ in range(5):
        found = search_scenes(store, query, SceneFilter(tags=("night",)), SearchConfig(top=5))
        assert len(found) == 5 and all("night" in row["tags"] for row in found)
    values = {"name": "a", "created_by": "t", "model_id": "m1", "version": 1, "scene_ids": (found[0]["scene_id"],)}
    saved = save_set(store, values)
    assert [one.set_id for one in list_sets(store)] == [saved.set_id]


def test_credentials_that_ended_are_told(store, bucket, faults):
    faults.expired = 1.0
    with pytest.raises(StoreError, match="are the credentials there, still valid"):
        store.marker()
    with pytest.raises(StoreError):
        append_rows(store, SCENES, scene_rows(1, 10_000))
    with pytest.raises(DataError, match="token expired"):
        discover(f"{bucket}/logs")
    done = call_job("show_run", "--store", store.uri)
    assert done.code == 4 and "credentials" in done.stderr and "Traceback" not in done.stderr
    faults.expired = 0.0
    assert store.dataset(SCENES).count_rows() == BATCHES * OF_BATCH, "nothing of the refused rows is there"


def test_a_bucket_that_does_not_exist_is_named(bucket, tmp_path):
    done = call_job("mine_fleet", "--logs", str(tmp_path), "--store", "s3://nowhere/store")
    assert done.code in (2, 3, 4) and "Traceback" not in done.stderr
    with pytest.raises(StoreError, match="s3://nowhere/store: no Nightminer store is here"):
        StoreLocation.parse("s3://nowhere/store").dataset(SCENES)
    with pytest.raises(StoreError, match=r"s3://nowhere/store: .*bucket does not exist"):
        StoreLocation.parse("s3://nowhere/store").write_text("x", "y")
