"""Figures of a mining run for Prometheus, through Ray's own endpoint, which puts `ray_` before each name.

Whoever works calls the function of what it did: the driver and the workers, each for itself. Where no Ray runs, nothing
is counted and Ray is not imported. Queues, model actors and bytes between stages are Ray Data's own `ray_data_*`.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

# name: (kind, what it is, tags). Counters end in `_total` when Prometheus sees them.
METRICS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "nightminer_scenes": ("Counter", "Scenes that left a stage: read, forward, write, commit", ("stage",)),
    "nightminer_images": ("Counter", "Pictures of the scenes that left a stage", ("stage",)),
    "nightminer_stage_seconds": ("Counter", "Busy seconds of a stage, all workers together", ("stage",)),
    "nightminer_quarantined": ("Counter", "Faults by level (log, scene, frame) and code", ("level", "code")),
    "nightminer_commit_seconds": ("Histogram", "Time of one commit to the store", ()),
    "nightminer_backlog_scenes": ("Gauge", "Scenes that this run has still to mine", ("run_id",)),
    "nightminer_last_commit_timestamp_seconds": (
        "Gauge",
        "When the last commit ended, or the stream began; gone once it is over",
        ("run_id",),
    ),
    "nightminer_lease_beat_timestamp_seconds": (
        "Gauge",
        "When the lease was last renewed; gone once it is given back",
        ("run_id",),
    ),
}
_REPEAT_S = 1.0
# A local store commits in milliseconds, an object store in seconds; `NightminerCommitsSlow` asks for 10 s.
_COMMIT_BOUNDARIES_S = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]


def began(run_id: str, backlog: int, lease_renewed_s: float) -> None:
    """The stream of a run begins, with so many scenes to mine and a lease of that moment."""
    _set("nightminer_lease_beat_timestamp_seconds", lease_renewed_s, run_id)
    _set("nightminer_backlog_scenes", backlog, run_id)
    _set("nightminer_last_commit_timestamp_seconds", time.time(), run_id)


def worked(stage: str, scenes: int, images: int, seconds: float) -> None:
    """A stage is done with so many scenes; called where it runs."""
    _count("nightminer_scenes", scenes, {"stage": stage})
    _count("nightminer_images", images, {"stage": stage})
    _count("nightminer_stage_seconds", seconds, {"stage": stage})


def committed(run_id: str, scenes: int, images: int, seconds: float, backlog: int) -> None:
    """One commit of the driver took so many seconds and left so many scenes to mine."""
    worked("commit", scenes, images, seconds)
    if _ray_runs():
        _metric("nightminer_commit_seconds").observe(seconds)
    _set("nightminer_backlog_scenes", backlog, run_id)
    _set("nightminer_last_commit_timestamp_seconds", time.time(), run_id)


def quarantined(faults: Iterable[Mapping[str, Any]]) -> None:
    """New rows of the quarantine, each with its level and code."""
    for (level, code), count in Counter((fault["level"], fault["code"]) for fault in faults).items():
        _count("nightminer_quarantined", count, {"level": level, "code": code})


def ended(run_id: str) -> None:
    """The stream of a run is over; what is left of the backlog is another run's."""
    _gauges.forget("nightminer_backlog_scenes", run_id)
    _gauges.forget("nightminer_last_commit_timestamp_seconds", run_id)


def lease_renewed(run_id: str, is_held: bool) -> None:
    """The lease's heartbeat was written, or the lease given back."""
    if is_held:
        _set("nightminer_lease_beat_timestamp_seconds", time.time(), run_id)
    else:
        _gauges.forget("nightminer_lease_beat_timestamp_seconds", run_id)


class _Gauges:
    """Says each value again until it is forgotten: Ray drops a gauge that nobody has set for two of its intervals."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], float] = {}
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def set(self, name: str, value: float, run_id: str) -> None:
        with self._lock:
            self._values[name, run_id] = value
            _metric(name).set(value, {"run_id": run_id})
            if self._thread is None:
                self._thread = threading.Thread(target=self._repeat, name="mining-gauges", daemon=True)
                self._thread.start()

    def forget(self, name: str, run_id: str) -> None:
        with self._lock:
            self._values.pop((name, run_id), None)

    def _repeat(self) -> None:
        while True:
            time.sleep(_REPEAT_S)
            with self._lock:
                if not self._values or not _ray_runs():
                    self._values.clear()
                    self._thread = None
                    return
                for (name, run_id), value in self._values.items():
                    _metric(name).set(value, {"run_id": run_id})


_gauges = _Gauges()


def _ray_runs() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


@cache
def _metric(name: str) -> Any:
    from ray.util import metrics

    kind, description, tags = METRICS[name]
    if kind == "Histogram":
        return metrics.Histogram(name, description, boundaries=_COMMIT_BOUNDARIES_S, tag_keys=tags)
    return {"Counter": metrics.Counter, "Gauge": metrics.Gauge}[kind](name, description, tag_keys=tags)


def _count(name: str, value: float, tags: dict[str, str]) -> None:
    if value > 0 and _ray_runs():  # Ray refuses to add nothing
        _metric(name).inc(value, tags)


def _set(name: str, value: float, run_id: str) -> None:
    if _ray_runs():
        _gauges.set(name, value, run_id)
