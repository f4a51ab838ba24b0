"""Which scenes a store holds already: sorted 128-bit numbers, a fraction of what Python strings take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from system.errors import OUTAGE_CODES, OUTAGE_DAYS, StoreError
from system.store.filters import literal, literals
from system.store.location import StoreLocation
from system.store.schema import QUARANTINE, SCENES

_DIGITS = 32
_HALF, _LOW = 64, (1 << 64) - 1
# New ids are settled when they are so many, or this share of those that are: settling costs a pass over all of them.
_RECENT, _RECENT_SHARE = 4096, 1 / 16
_NO_DIGIT = 255
_VALUE_OF = np.full(256, _NO_DIGIT, np.uint8)
_VALUE_OF[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)


class IdSet:
    """A set of scene ids (32 hexadecimal digits). 16 bytes an id once settled."""

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self._high, self._low = _sorted(*_halves(pa.array(list(ids), pa.string())))
        self._recent: set[int] = set()

    @classmethod
    def of_batches(cls, batches: Iterable[pa.Array]) -> IdSet:
        """Of columns of ids, which become no Python strings."""
        parts = [_halves(ids) for ids in batches if len(ids)]
        found = cls()
        if parts:
            high, low = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
            parts.clear()
            found._high, found._low = _sorted(high, low)
        return found

    def __contains__(self, scene_id: str) -> bool:
        key = int(scene_id, 16)
        if key in self._recent:
            return True
        high, low = key >> _HALF, key & _LOW
        k = int(np.searchsorted(self._high, np.uint64(high)))
        # Two ids that share a half are next to each other.
        while k < len(self._high) and self._high[k] == high:
            if self._low[k] == low:
                return True
            k += 1
        return False

    def __len__(self) -> int:
        return len(self._high) + len(self._recent)

    def add(self, scene_id: str) -> None:
        if scene_id in self:
            return
        self._recent.add(int(scene_id, 16))
        if len(self._recent) >= max(_RECENT, _RECENT_SHARE * len(self._high)):
            high = np.fromiter((key >> _HALF for key in self._recent), np.uint64, len(self._recent))
            low = np.fromiter((key & _LOW for key in self._recent), np.uint64, len(self._recent))
            self._recent.clear()
            self._high, self._low = _sorted(np.concatenate([self._high, high]), np.concatenate([self._low, low]))


def _halves(ids: pa.Array) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The two halves of each id as numbers.

    Raises:
        StoreError: something in the column is no id.
    """
    try:
        fixed = ids.cast(pa.binary()).cast(pa.binary(_DIGITS))
    except pa.ArrowInvalid as error:
        raise StoreError(f"a scene id is not {_DIGITS} hexadecimal digits: {error}") from error
    text = np.frombuffer(fixed.buffers()[1] or b"", np.uint8)[fixed.offset * _DIGITS :][: len(fixed) * _DIGITS]
    digits = _VALUE_OF[text]
    if fixed.null_count or (digits == _NO_DIGIT).any():
        raise StoreError(f"a scene id is not {_DIGITS} hexadecimal digits, or is missing, among {len(fixed)}")
    halves = ((digits[::2] << 4) | digits[1::2]).view(">u8").astype(np.uint64).reshape(-1, 2)
    return halves[:, 0], halves[:, 1]


def _sorted(high: NDArray[np.uint64], low: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """In order of the first half, each pair once."""
    order = np.argsort(high, kind="stable")
    high, low = high[order], low[order]
    if (high[1:] == high[:-1]).any():
        # Few share a half by chance; whoever repeats ids pays for it.
        order = np.lexsort((low, high))
        high, low = high[order], low[order]
        is_repeated = np.r_[False, (high[1:] == high[:-1]) & (low[1:] == low[:-1])]
        high, low = high[~is_repeated], low[~is_repeated]
    return high, low


def committed_ids(location: StoreLocation, model_id: str) -> IdSet:
    """Scenes in the store for this model; empty for a store that is not there yet."""
    if location.marker() is None:
        return IdSet()
    return ids_of(location, SCENES, f"model_id = '{model_id}'")


def quarantined_ids(location: StoreLocation, model_id: str) -> IdSet:
    """Scenes that an earlier run could not mine with this model, though the storage answered."""
    if location.marker() is None:
        return IdSet()
    return ids_of(
        location, QUARANTINE, f"model_id = '{model_id}' AND level = 'scene' AND code NOT IN ({literals(OUTAGE_CODES)})"
    )


@dataclass(frozen=True)
class Outages:
    """What the storage has kept back for so long that this is the last try.

    scene_ids: read once more, and then without what is still kept back.
    log_uris: in quarantine where they still cannot be listed.
    """

    scene_ids: IdSet = field(default_factory=IdSet)
    log_uris: frozenset[str] = frozenset()


def lasting_outages(location: StoreLocation, model_id: str, day: str) -> Outages:
    """Scenes and logs for which the storage did not answer on enough days before `day` (as of `run_day`)."""
    if location.marker() is None:
        return Outages()
    met = f"model_id = {literal(model_id)} AND code IN ({literals(OUTAGE_CODES)}) AND run_id < {literal(day)}"
    return Outages(
        IdSet.of_batches([_often(location, "scene_id", f"{met} AND level = 'scene'")]),
        frozenset(_often(location, "uri", f"{met} AND level = 'log'").to_pylist()),
    )


def _often(location: StoreLocation, column: str, where: str) -> pa.Array:
    """Values of the quarantine that stand in it for enough days; it has a row a day."""
    counted = pc.value_counts(pa.chunked_array(_column(location, QUARANTINE, column, where), pa.string()))
    return counted.field("values").filter(pc.greater_equal(counted.field("counts"), OUTAGE_DAYS - 1))


def quarantine_keys(location: StoreLocation) -> set[str]:
    """The quarantine_id of every row, so that a fault is written down once."""
    return {key for batch in _column(location, QUARANTINE, "quarantine_id", None) for key in batch.to_pylist()}


def ids_of(location: StoreLocation, table: str, where: str) -> IdSet:
    """The scene ids of a table's rows."""
    return IdSet.of_batches(_column(location, table, "scene_id", where))


def _column(location: StoreLocation, table: str, column: str, where: str | None) -> Iterator[pa.Array]:
    scanner = location.dataset(table).scanner(columns=[column], filter=where)
    for batch in scanner.to_batches():
        yield batch.column(0)
