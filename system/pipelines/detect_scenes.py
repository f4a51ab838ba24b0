"""Look with a detector at the infrared cameras of the scenes of a store, each exactly once.

The unit is a scene: its boxes are committed together, in one row of the table `detections`, by the driver. What a
killed run had not committed is missing from the table, and the next run does just that.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from system.errors import OUTAGE_CODES, ConfigError, DataError
from system.infrared.detector import detector_id, read_detector
from system.pairs.coloured import tell_coloured
from system.pipelines.config import PoolConfig
from system.pipelines.infrared_reading import NO_INFRARED, window_parts
from system.pipelines.infrared_stream import PictureResult, detect_settings, stream_detections
from system.pipelines.predict_infrared import PredictConfig
from system.pipelines.quarantine import QuarantineWriter
from system.pipelines.resources import connect_to_ray, size_cluster_pool
from system.records import LogRef, WindowRef
from system.report.console import ConsoleProgress
from system.store.commits import append_rows
from system.store.detections import DETECTIONS, detected_ids, detections_schema, note_classes, open_detections
from system.store.ids import IdSet, quarantined_ids
from system.store.lease import Lease
from system.store.location import StoreLocation
from system.store.maintain import tidy_detections
from system.store.runs import new_run_id
from system.store.schema import SCENES

# A commit holds so many scenes, or those of so long: what a kill undoes.
_SCENES_AT_ONCE, _COMMIT_AFTER_S = 64, 20.0
_IDENTITY = ("scene_id", "source", "log_id", "log_uri", "reader", "t_start_ns", "t_end_ns")


def detect_scenes(
    store: str,
    model: str,
    config: PredictConfig,
    keyframe_hz: float,
    retry_quarantined: bool,
    pool: PoolConfig,
    progress: ConsoleProgress,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Fill the table `detections` with what it lacks for this detector.

    Args:
        config: its `max_bad_share` is of scenes none of whose infrared pictures can be read.
        keyframe_hz: pictures a second and camera.
        retry_quarantined: look again at scenes that an earlier run could not read.
        should_stop: asked after every picture; once true, whole scenes are committed and the run ends as stopped.
    Returns:
        found = committed + already + quarantined + unreachable + remaining. Scenes remain where the run was `stopped`;
        at unreachable ones the storage did not answer, and the next
        run looks at them again. Of the committed, `without_infrared` have no such camera. images, coloured, detections,
        classes, seconds, detector_id, run_id, stopped, problem.
    Raises:
        ConfigError: no store. LeaseError: another job writes to it. ModelError: the detector.
    """
    location = StoreLocation.parse(store)
    saved, identity, run_id = read_detector(Path(model))[0], detector_id(model), new_run_id()
    windows = _windows(location)
    started_s = time.monotonic()
    with Lease(location, run_id) as lease:
        open_detections(location)
        note_classes(location, identity, saved.config.classes)
        done = detected_ids(location, identity)
        bad = IdSet() if retry_quarantined else quarantined_ids(location, identity)
        todo = [w for w in windows if w.scene_id not in done and w.scene_id not in bad]
        already = sum(window.scene_id in done for window in windows)
        tally = _Tally(location, identity, run_id, lease, saved.config.classes, config.min_score, todo)
        stopped = False
        progress.phase(f"{len(todo)} of {len(windows)} scenes")
        progress.expect(len(todo))
        if todo:
            connect_to_ray()
            parts = window_parts(todo, keyframe_hz)
            settings = detect_settings(model, saved, config.batch_size)
            results = stream_detections(parts, settings, size_cluster_pool(pool))
            for result in results:
                progress.advanced(*tally.add(result))
                if tally.missing and should_stop():
                    stopped = True
                    results.close()
                    break
            tally.commit()
            tidy_detections(location)
        tell_coloured(tally.coloured, tally.images, progress.note)
        quarantined = len(windows) - already - len(todo) + tally.quarantined
    problem = None
    remaining = tally.missing if stopped else 0
    if stopped:
        progress.note(f"stopped: {remaining} scenes remain; the same command goes on with them")
    nowhere = len(windows) - tally.committed - already - quarantined - tally.unreachable - remaining
    if nowhere:
        problem = f"{nowhere} scenes of {location.uri} are nowhere"
    elif tally.unreachable:
        problem = f"{tally.unreachable} scenes: {tally.told_unreachable}; repeat the command when the storage answers"
    elif quarantined > config.max_bad_share * len(windows):
        problem = (
            f"{quarantined} of {len(windows)} scenes are in quarantine, more than --max-bad-share "
            f"{config.max_bad_share:g}; jobs/show_run.py --store {location.uri} --all-quarantine names each fault"
        )
    return {
        "found": len(windows),
        "committed": tally.committed,
        "already": already,
        "quarantined": quarantined,
        "unreachable": tally.unreachable,
        "remaining": remaining,
        "stopped": stopped,
        "without_infrared": tally.without_infrared,
        "coloured": tally.coloured,
        "images": tally.images,
        "detections": sum(tally.objects.values()),
        "classes": dict(tally.objects),
        "seconds": round(time.monotonic() - started_s, 2),
        "detector_id": identity,
        "run_id": run_id,
        "problem": problem,
    }


class _Tally:
    """Results of pictures in any order become rows of whole scenes."""

    def __init__(
        self,
        location: StoreLocation,
        identity: str,
        run_id: str,
        lease: Lease,
        classes: tuple[str, ...],
        min_score: float,
        todo: Iterable[WindowRef],
    ) -> None:
        self._location, self._identity, self._run_id, self._lease = location, identity, run_id, lease
        self._classes, self._min_score = classes, min_score
        self._quarantine = QuarantineWriter(location, identity, run_id)
        self._missing = {window.scene_id: window for window in todo}
        self._open: dict[str, list[PictureResult]] = {}
        self._rows: list[dict[str, Any]] = []
        self._faults: list[dict[str, Any]] = []
        self.committed = self.quarantined = self.without_infrared = self.images = self.coloured = self.unreachable = 0
        self.told_unreachable = ""
        self._committed_s = math.inf  # until the first picture: the start of Ray and of the model does not count
        self.objects: Counter[str] = Counter(dict.fromkeys(classes, 0))

    @property
    def missing(self) -> int:
        """Scenes of which some picture has not been looked at."""
        return len(self._missing)

    def add(self, result: PictureResult) -> tuple[int, int, int]:
        """Returns: scenes done, scenes lost, pictures looked at."""
        scene_id = str(result.shot.scene_id)
        self._committed_s = min(self._committed_s, time.monotonic())
        if scene_id not in self._missing:
            return 0, 0, 0  # Ray did a task twice
        held = self._open.setdefault(scene_id, [])
        if all(result.shot != other.shot for other in held):
            held.append(result)
        if len(held) < result.shots:
            return 0, 0, int(result.found is not None)
        window, results = self._missing.pop(scene_id), self._open.pop(scene_id)
        looked = [r for r in results if r.found is not None]
        if away := [r for r in results if r.code in OUTAGE_CODES]:
            # Neither done nor lost.
            self.unreachable += 1
            self.told_unreachable = self.told_unreachable or away[0].message
            return 0, 0, int(result.found is not None)
        is_empty = results[0].code == NO_INFRARED
        faults = [] if is_empty else [r for r in results if r.found is None]
        is_lost = bool(faults) and not looked
        for r in faults:
            level = "scene" if is_lost and r is faults[0] else "frame"
            told = {"level": level, "scene_id": scene_id, "source": window.log.source, "log_id": window.log.log_id}
            self._faults.append(told | {"uri": r.uri, "stage": "detect", "code": r.code, "message": r.message})
        if not is_lost:
            self._rows.append(self._row(scene_id, looked))
        self.quarantined += is_lost
        self.without_infrared += is_empty
        self.images += len(looked)
        self.coloured += sum(r.is_coloured for r in looked)
        held_s = time.monotonic() - self._committed_s
        if len(self._rows) + len(self._faults) >= _SCENES_AT_ONCE or held_s > _COMMIT_AFTER_S:
            self.commit()
        return int(not is_lost), int(is_lost), int(result.found is not None)

    def commit(self) -> None:
        """Faults first: a scene that is neither committed nor in quarantine is looked at again."""
        self._lease.check()
        self._quarantine.add(self._faults)
        append_rows(self._location, DETECTIONS, pa.Table.from_pylist(self._rows, schema=detections_schema()))
        self.committed += len(self._rows)
        self._rows, self._faults = [], []
        self._committed_s = time.monotonic()

    def _row(self, scene_id: str, looked: list[PictureResult]) -> dict[str, Any]:
        ordered = sorted(looked, key=lambda r: (r.shot.t_ns or 0, r.shot.camera or ""))
        row: dict[str, Any] = {"scene_id": scene_id, "detector_id": self._identity, "run_id": self._run_id}
        lists: dict[str, list[Any]] = {
            name: [] for name in ("picture", "camera", "t_ns", "label", "score", "boxes_xyxy")
        }
        for k, result in enumerate(ordered):
            assert result.found is not None
            found = result.found.above(self._min_score)
            names = [self._classes[label] for label in found.labels]
            self.objects.update(names)
            lists["picture"] += [k] * len(names)
            lists["camera"] += [result.shot.camera] * len(names)
            lists["t_ns"] += [result.shot.t_ns] * len(names)
            lists["label"] += names
            lists["score"] += found.scores.tolist()
            lists["boxes_xyxy"] += found.boxes_xyxy.ravel().tolist()
        return row | {"num_pictures": len(ordered)} | lists


def _windows(location: StoreLocation) -> list[WindowRef]:
    """Every scene of the store, whichever model mined it."""
    if location.marker() is None:
        raise ConfigError(f"--store {location.uri}: no Nightminer store is here; jobs/mine_fleet.py --store makes one")
    found: dict[str, WindowRef] = {}
    for batch in location.dataset(SCENES).scanner(columns=list(_IDENTITY)).to_batches():
        for row in batch.to_pylist():
            times = (row["t_start_ns"], row["t_end_ns"])
            log = LogRef(row["reader"], row["log_uri"], row["log_id"], row["source"], *times)
            found.setdefault(row["scene_id"], WindowRef(row["scene_id"], log, *times))
    if not found:
        raise DataError("no_scenes", f"{location.uri}: holds no scene yet")
    return list(found.values())
