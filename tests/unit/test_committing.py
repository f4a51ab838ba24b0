"""The driver's half of a commit: batches that come fast share a transaction, and each scene counts once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from system.errors import LeaseError, StoreError
from system.pipelines.committing import SceneCommitter
from system.pipelines.quarantine import QuarantineWriter
from system.pipelines.result import MiningResult
from system.store.commits import write_uncommitted
from system.store.ids import committed_ids
from system.store.lease import Lease
from system.store.location import StoreLocation
from system.store.schema import QUARANTINE, SCENES
from system.store.tables import open_for_writing
from tests.unit.test_store import MODEL, scene_rows


@pytest.fixture
def location(tmp_path) -> StoreLocation:
    place = StoreLocation.parse(str(tmp_path / "store"))
    open_for_writing(place, MODEL)
    return place


def batch_of(location: StoreLocation, number: int, **values: Any) -> dict[str, Any]:
    """Four scenes that a worker has written, and one that it could not."""
    rows = scene_rows(4, 10 * number)
    faults = [
        {"level": "scene", "scene_id": f"{number:032x}", "source": "fleet", "log_id": "l", "uri": "u", "stage": "read",
         "code": "unreadable", "message": "m"}
    ] * 2  # fmt: skip
    return {
        "scene_fragments": write_uncommitted(location, SCENES, rows), "picture_fragments": [],
        "scene_ids": rows["scene_id"].to_pylist(), "faults": faults, "images": 3, "read_s": 0.0, "forward_s": 0.0,
        "forward_began_s": 0.0, "write_s": 0.0, "store_problem": None, **values,
    }  # fmt: skip


class Clock:
    """Each look takes a second, and `now` can be moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def committer(
    location: StoreLocation, lease: Lease, result: MiningResult, clock: Callable[[], float]
) -> tuple[SceneCommitter, list[tuple[int, int, int]]]:
    told: list[tuple[int, int, int]] = []
    quarantine = QuarantineWriter(location, "m1", "r1")
    held = committed_ids(location, "m1")
    return SceneCommitter(location, lease, quarantine, held, result, lambda *n: told.append(n), clock), told


def test_batches_within_a_pause_are_one_commit_and_nothing_is_lost(location):
    clock, result = Clock(), MiningResult("r1", "m1", found=25, remaining=25)
    with Lease(location, "r1") as lease:
        ours, told = committer(location, lease, result, clock)
        before = location.dataset(SCENES).version
        ours.add(batch_of(location, 0))
        assert location.dataset(SCENES).version == before + 1 and told == [(4, 1, 3)]
        for number in (1, 2):
            ours.add(batch_of(location, number))
        assert location.dataset(SCENES).version == before + 1 and result.committed == 4
        clock.now += 60
        ours.add(batch_of(location, 3))
        assert location.dataset(SCENES).version == before + 2 and told[1:] == [(12, 3, 9)]
        ours.add(batch_of(location, 4))
        ours.flush()
        ours.flush()
    assert location.dataset(SCENES).version == before + 3
    assert len(committed_ids(location, "m1")) == location.dataset(SCENES).count_rows() == 20
    assert location.dataset(QUARANTINE).count_rows() == 5, "a fault is written down once"
    assert (result.committed, result.quarantined, result.remaining, result.images) == (20, 5, 0, 15)


def test_what_waits_is_committed_once_its_pause_is_over_though_no_batch_comes(location):
    clock, result = Clock(), MiningResult("r1", "m1", found=10, remaining=10)
    with Lease(location, "r1") as lease:
        ours, _ = committer(location, lease, result, clock)
        for number in (0, 1):
            ours.add(batch_of(location, number))
        ours.flush_if_due()
        assert result.committed == 4
        clock.now += 60
        ours.flush_if_due()
        assert result.committed == 8
        ours.flush_if_due()
    assert location.dataset(SCENES).count_rows() == 8


def test_a_task_that_ran_twice_counts_once_even_before_its_commit(location):
    result = MiningResult("r1", "m1", found=10, remaining=10)
    with Lease(location, "r1") as lease:
        ours, _ = committer(location, lease, result, Clock())
        ours.add(batch_of(location, 0))
        ours.add(batch_of(location, 1))
        ours.add(batch_of(location, 1))
        mixed = batch_of(location, 1)
        mixed["scene_ids"] = [*mixed["scene_ids"], "f" * 32]
        with pytest.raises(StoreError, match="batch holds 4 scenes that are committed already"):
            ours.add(mixed)
        with pytest.raises(StoreError, match="disk is full"):
            ours.add(batch_of(location, 2, store_problem="disk is full"))
        ours.flush()
    assert location.dataset(SCENES).count_rows() == result.committed == 8


def test_what_a_lost_lease_held_back_is_never_tried_again(location):
    result = MiningResult("r1", "m1", found=10, remaining=10)
    with Lease(location, "r1") as lease:
        ours, _ = committer(location, lease, result, Clock())
        ours.add(batch_of(location, 0))
        ours.add(batch_of(location, 1))
        lease._lost = "taken over"
        with pytest.raises(LeaseError):
            ours.flush()
        lease._lost = None
        ours.flush()
    assert location.dataset(SCENES).count_rows() == result.committed == 4
