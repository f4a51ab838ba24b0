"""The plan of a run: which scenes there are, and which of them are not in the store. Reads metadata, needs no Ray."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, field, replace
from typing import Any

from system.errors import LASTING_OUTAGE, OUTAGE_CODES, ConfigError
from system.logs.reader import BadLog
from system.logs.registry import Found, Skipped, discover, list_logs
from system.logs.windows import list_windows
from system.pipelines.config import MineConfig
from system.records import LogRef, WindowRef
from system.store.ids import IdSet, Outages

# Listing is waiting for a disk or an object store, so that more threads than CPUs help.
_LISTING_THREADS = 16
# A read task takes this much: several seconds of decoding for windows of video, many stills.
_CHUNK_WEIGHT = 64
_WINDOW_WEIGHT = 8


@dataclass(frozen=True)
class Chunk:
    """Windows that one read task takes, neighbours of the same log together so that a log is read once.

    last_tries: scenes that are not left for another run if the storage keeps back something of them.
    """

    windows: tuple[WindowRef, ...]
    last_tries: frozenset[str] = frozenset()

    def to_json(self) -> str:
        """How a chunk travels to its task: plain data, each log once."""
        logs = {window.log: None for window in self.windows}
        number = {log: k for k, log in enumerate(logs)}
        windows = [[w.scene_id, number[w.log], w.t_start_ns, w.t_end_ns] for w in self.windows]
        last = sorted(self.last_tries)
        return json.dumps({"logs": [astuple(log) for log in logs], "windows": windows, "last_tries": last})

    @classmethod
    def from_json(cls, text: str) -> Chunk:
        values = json.loads(text)
        logs = [LogRef(*log) for log in values["logs"]]
        windows = tuple(WindowRef(i, logs[log], start, end) for i, log, start, end in values["windows"])
        return cls(windows, frozenset(values["last_tries"]))


@dataclass(frozen=True)
class Listing:
    """What lies below some paths. logs: each log once, read from while it is planned."""

    recognised: list[Found]
    skipped: list[Skipped]
    logs: Iterable[LogRef | BadLog]


@dataclass
class MiningPlan:
    """Counted before anything is mined, so that the reconciliation at the end compares two independent counts.

    scene_ids: every scene of the logs, settled or not. found: every scene and every log that could not be listed.
    already, quarantined_before: what earlier runs settled.
    bad_logs, unread_logs: logs that could not be listed; the storage did not answer for the second.
    deferred: left out by `limit`.
    """

    scene_ids: IdSet = field(default_factory=IdSet)
    found: int = 0
    already: int = 0
    quarantined_before: int = 0
    deferred: int = 0
    todo: int = 0
    chunks: list[Chunk] = field(default_factory=list)
    bad_logs: list[BadLog] = field(default_factory=list)
    unread_logs: list[BadLog] = field(default_factory=list)
    recognised: list[Found] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    repeated_logs: list[str] = field(default_factory=list)
    logs_by_source: Counter[str] = field(default_factory=Counter)

    @property
    def unlisted(self) -> list[BadLog]:
        return self.bad_logs + self.unread_logs

    def figures(self) -> dict[str, Any]:
        """The counts of a dry run. found = already + quarantined + todo + unread."""
        return {
            "found": self.found,
            "already": self.already,
            "quarantined": self.quarantined_before + len(self.bad_logs),
            "todo": self.todo,
            "unread": len(self.unread_logs),
            "deferred": self.deferred,
            "logs": dict(self.logs_by_source),
        }


def list_fleet(config: MineConfig) -> Listing:
    """Every log below `config.logs`.

    Raises:
        ConfigError, FormatError: a path that no reader knows, so that a typing error does not mine nothing in silence.
    """
    recognised: list[Found] = []
    skipped: list[Skipped] = []
    for uri in config.logs:
        below = discover(uri, config.log_format)
        recognised += below[0]
        skipped += below[1]
    if not recognised:
        raise ConfigError(f"no log was recognised below {', '.join(config.logs)}")
    return Listing(recognised, skipped, (log for logs in list_each(recognised) for log in logs))


def plan_mining(
    config: MineConfig,
    committed: IdSet,
    quarantined: IdSet,
    listing: Listing | None = None,
    outages: Outages | None = None,
) -> MiningPlan:
    """List every scene below `config.logs`, or of a listing that was made before, and drop those that are settled.

    Args:
        outages: what is tried for the last time.
    Raises:
        ConfigError, FormatError: as `list_fleet`.
    """
    if listing is None:
        listing = list_fleet(config)
    outages = outages or Outages()
    plan = MiningPlan(recognised=list(listing.recognised), skipped=list(listing.skipped))
    seen = plan.scene_ids
    pending: list[WindowRef] = []
    weight = 0
    for log in listing.logs:
        if isinstance(log, BadLog):
            plan.found += 1
            if log.code not in OUTAGE_CODES:
                plan.bad_logs.append(log)
            elif log.uri in outages.log_uris:
                plan.bad_logs.append(replace(log, code=LASTING_OUTAGE))
            else:
                plan.unread_logs.append(log)
            continue
        plan.logs_by_source[log.source] += 1
        is_repeated = False
        for window in list_windows(log, config.windows):
            if window.scene_id in seen:
                is_repeated = True
                continue
            seen.add(window.scene_id)
            plan.found += 1
            if window.scene_id in committed:
                plan.already += 1
            elif window.scene_id in quarantined and not config.retry_quarantined:
                plan.quarantined_before += 1
            elif config.limit is not None and plan.todo >= config.limit:
                plan.found -= 1
                plan.deferred += 1
            else:
                plan.todo += 1
                pending.append(window)
                weight += 1 if log.t_end_ns == log.t_start_ns else _WINDOW_WEIGHT
                if weight >= _CHUNK_WEIGHT:
                    plan.chunks.append(_chunk(pending, outages))
                    pending, weight = [], 0
        if is_repeated:
            plan.repeated_logs.append(f"{log.source}/{log.log_id} at {log.uri}")
    if pending:
        plan.chunks.append(_chunk(pending, outages))
    return plan


def _chunk(windows: list[WindowRef], outages: Outages) -> Chunk:
    return Chunk(tuple(windows), frozenset(w.scene_id for w in windows if w.scene_id in outages.scene_ids))


def list_each(recognised: list[Found]) -> Iterator[list[LogRef | BadLog]]:
    """The logs of each root, in the order of the roots, which are listed side by side."""
    with ThreadPoolExecutor(_LISTING_THREADS, thread_name_prefix="list-logs") as threads:
        # Lists and not generators: a thread has to do the listing. One log reference is about 1 kB.
        yield from threads.map(lambda found: list(list_logs(found)), recognised)
