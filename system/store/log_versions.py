"""Which content of a log was mined: the table `logs`, and the removal of rows whose log has got another content.

Whether a scene is mined the table `scenes` alone decides. This one remembers what no scene can tell: when a log was
first seen, and what it held then.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from system.errors import StoreError
from system.store.detections import DETECTIONS
from system.store.filters import literal, literals
from system.store.location import StoreLocation
from system.store.schema import QUARANTINE, SCENES

LOGS = "logs"
# Ids of one condition; longer ones take seconds to read.
_IDS_AT_ONCE = 2000


@dataclass(frozen=True)
class LogVersion:
    """A log as a model mined it, or is about to.

    Attributes:
        day: date of its partition (ISO), or "" where logs lie in no partitions.
        night: date of the night that first saw this content.
        arrival: "new", "late" (its day was before the last night), "reuploaded".
        fingerprint: as of `system.logs.fingerprint`.
        seen_ns: when this content was first seen.
    """

    model_id: str
    source: str
    log_id: str
    log_uri: str
    day: str
    night: str
    arrival: str
    t_start_ns: int
    t_end_ns: int
    size_bytes: int
    fingerprint: str
    seen_ns: int

    @property
    def log_key(self) -> str:
        """One row a model, log and place."""
        parts = (self.model_id, self.source, self.log_id, self.log_uri)
        return hashlib.blake2b("\x1f".join(parts).encode(), digest_size=16).hexdigest()

    def overlaps(self, t_start_ns: int, t_end_ns: int) -> bool:
        return self.t_start_ns <= t_end_ns and self.t_end_ns >= t_start_ns


def logs_schema() -> pa.Schema:
    """Columns of `LogVersion`, and its key."""
    texts = ("log_key", "model_id", "source", "log_id", "log_uri", "day", "night", "arrival", "fingerprint")
    numbers = ("t_start_ns", "t_end_ns", "size_bytes", "seen_ns")
    return pa.schema(
        [pa.field(name, pa.string(), nullable=False) for name in texts]
        + [pa.field(name, pa.int64(), nullable=False) for name in numbers]
    )


def read_log_versions(location: StoreLocation, model_id: str, log_ids: Collection[str]) -> list[LogVersion]:
    """What is known of some logs; the table is scanned and never held whole."""
    wanted = pa.array(sorted(set(log_ids)), pa.string())
    found = []
    for batch in _batches(location, f"model_id = {literal(model_id)}"):
        found += batch.filter(pc.is_in(batch["log_id"], value_set=wanted)).to_pylist()
    return [_version(row) for row in found]


def versions_of_night(location: StoreLocation, model_id: str, night: str) -> list[LogVersion]:
    """Logs that a night was the first to see."""
    where = f"model_id = {literal(model_id)} AND night = {literal(night)}"
    return [_version(row) for batch in _batches(location, where) for row in batch.to_pylist()]


def reuploads(location: StoreLocation, model_id: str) -> dict[tuple[str, str, str], int]:
    """When logs that came again with another content were first seen with it, by source, log_id and log_uri."""
    where = f"model_id = {literal(model_id)} AND arrival = 'reuploaded'"
    found = [_version(row) for batch in _batches(location, where) for row in batch.to_pylist()]
    return {(version.source, version.log_id, version.log_uri): version.seen_ns for version in found}


def write_log_versions(location: StoreLocation, versions: Sequence[LogVersion]) -> None:
    """Add logs, or replace what was known of them. Call with the lease held.

    Raises:
        StoreError: the store cannot be written.
    """
    if not versions:
        return
    try:
        if not location.has_table(LOGS):
            location.connect().create_table(LOGS, schema=logs_schema())
        rows = pa.Table.from_pylist([asdict(v) | {"log_key": v.log_key} for v in versions], schema=logs_schema())
        table = location.dataset(LOGS)
        table.merge_insert("log_key").when_matched_update_all().when_not_matched_insert_all().execute(rows)
    except (OSError, RuntimeError, ValueError) as error:
        raise StoreError(f"{location.uri}: cannot remember {len(versions)} logs: {error}") from error


def drop_mined(location: StoreLocation, model_id: str, source: str, log_id: str, t_start_ns: int, t_end_ns: int) -> int:
    """Remove what a model mined of a log between two moments (both inclusive), so that it is mined again.

    Pictures stay: earlier, tagged versions of the scenes name them, and new scenes name others; `forget_log` finds
    them. Call with the lease held.

    Returns:
        Scenes removed.
    Raises:
        StoreError: the store cannot be written.
    """
    of_log = f"source = {literal(source)} AND log_id = {literal(log_id)} AND model_id = {literal(model_id)}"
    where = f"{of_log} AND t_start_ns <= {int(t_end_ns)} AND t_end_ns >= {int(t_start_ns)}"
    try:
        ids = location.dataset(SCENES).to_table(columns=["scene_id"], filter=where)["scene_id"].to_pylist()
        # Before the scenes: only their rows tell a call after one that was killed whose detections are to go.
        if location.has_table(DETECTIONS):
            for first in range(0, len(ids), _IDS_AT_ONCE):
                some = literals(ids[first : first + _IDS_AT_ONCE])
                location.dataset(DETECTIONS).delete(f"scene_id IN ({some})")
        if ids:
            location.dataset(SCENES).delete(where)
        # A scene in quarantine has no row and no time; what was wrong with the old content says nothing of the new one.
        location.dataset(QUARANTINE).delete(of_log)
    except (OSError, RuntimeError, ValueError) as error:
        raise StoreError(f"{location.uri}: cannot remove scenes of log {source}/{log_id}: {error}") from error
    return len(ids)


def _batches(location: StoreLocation, where: str) -> Iterator[pa.RecordBatch]:
    if location.marker() is None or not location.has_table(LOGS):
        return
    yield from location.dataset(LOGS).scanner(filter=where).to_batches()


def _version(row: dict[str, Any]) -> LogVersion:
    return LogVersion(**{name: value for name, value in row.items() if name != "log_key"})
