"""The driver's half of the two-phase commit of mined scenes: counted once, several batches in one transaction."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from system.errors import OUTAGE_CODES, StoreError
from system.pipelines import metrics
from system.pipelines.quarantine import QuarantineWriter
from system.pipelines.result import MiningResult
from system.store.commits import commit_appended
from system.store.ids import IdSet
from system.store.lease import Lease
from system.store.location import StoreLocation
from system.store.schema import PICTURES, SCENES

# A commit takes as long for one batch as for a hundred, and longer on an object store. Waiting for so many times as
# long as the last one took bounds its share of the driver's time; what waits is lost when the driver dies.
_PAUSE, _LONGEST_PAUSE_S = 4.0, 10.0


class Advanced(Protocol):
    """Told what was committed."""

    def __call__(self, committed: int, quarantined: int, images: int) -> None: ...


class SceneCommitter:
    """Takes written batches as they come, and makes them part of the store: faults, pictures, then the scenes of them.

    Batches that come within a pause after a commit wait for its end. `flush` before the end of all.
    """

    def __init__(
        self,
        location: StoreLocation,
        lease: Lease,
        quarantine: QuarantineWriter,
        committed: IdSet,
        result: MiningResult,
        advanced: Advanced,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """committed: scenes that the store holds; the new ones are added. result: counts are written into it."""
        self._location, self._lease, self._quarantine = location, lease, quarantine
        self._committed, self._result, self._advanced, self._clock = committed, result, advanced, clock
        self._bad = IdSet()
        self._held: list[Mapping[str, Any]] = []
        self._next_s = -float("inf")

    def add(self, batch: Mapping[str, Any]) -> None:
        """Take a row of WRITTEN_SCHEMA.

        Raises:
            StoreError: the store cannot be written, or a batch repeats scenes. LeaseError: another job writes.
        """
        if batch["store_problem"] is not None:
            raise StoreError(batch["store_problem"])
        ids = batch["scene_ids"]
        repeated = [scene_id for scene_id in ids if scene_id in self._committed]
        if repeated and len(repeated) == len(ids):
            return  # Ray ran a task twice; its second batch stays an orphan
        if repeated:
            raise StoreError(f"batch holds {len(repeated)} scenes that are committed already, e.g. {repeated[0]}")
        for scene_id in ids:
            self._committed.add(scene_id)
        self._held.append(batch)
        self.flush_if_due()

    def flush_if_due(self) -> None:
        """Commit what waits where the pause is over; call it while no batch comes, too. Raises as `flush`."""
        if self._clock() >= self._next_s:
            self.flush()

    def flush(self) -> None:
        """Commit what waits.

        Raises:
            StoreError, LeaseError: as `add`; what waited is not committed then, and not tried again.
        """
        batches, self._held = self._held, []
        if not batches:
            return
        began_s = self._clock()
        self._lease.check()
        self._quarantine.add(fault for batch in batches for fault in batch["faults"])
        for table, key in ((PICTURES, "picture_fragments"), (SCENES, "scene_fragments")):
            if fragments := [text for batch in batches for text in batch[key]]:
                commit_appended(self._location, table, fragments)
        took_s = self._clock() - began_s
        self._next_s = began_s + took_s + min(_PAUSE * took_s, _LONGEST_PAUSE_S)
        self._result.stages.commit += took_s
        self._count(batches, took_s)

    def _count(self, batches: list[Mapping[str, Any]], took_s: float) -> None:
        result, committed, bad = self._result, 0, 0
        for batch in batches:
            committed += len(batch["scene_ids"])
            for fault in batch["faults"]:
                if fault["level"] == "scene" and fault["scene_id"] not in self._bad:
                    self._bad.add(fault["scene_id"])
                    if fault["code"] in OUTAGE_CODES:
                        result.unread += 1
                    else:
                        bad += 1
            result.stages.read += batch["read_s"]
            result.stages.forward += batch["forward_s"]
            result.stages.write += batch["write_s"]
        images = sum(batch["images"] for batch in batches)
        result.committed += committed
        result.quarantined += bad
        result.remaining -= committed + bad
        result.images += images
        metrics.committed(result.run_id, committed, images, took_s, result.remaining)
        self._advanced(committed, bad, images)
