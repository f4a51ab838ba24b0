"""Which scenes a store holds already: sorted 16-byte ids, a fraction of what Python strings take."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from system.store.location import StoreLocation
from system.store.schema import QUARANTINE, SCENES


class IdSet:
    """A set of scene ids (32 hexadecimal digits). 16 bytes an id once settled."""

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self._settled: NDArray[np.bytes_] = np.unique(np.array([_key(i) for i in ids], dtype="S16"))
        self._recent: set[bytes] = set()

    def __contains__(self, scene_id: str) -> bool:
        key = _key(scene_id)
        if key in self._recent:
            return True
        k = int(np.searchsorted(self._settled, key))
        return k < len(self._settled) and self._settled[k] == key

    def __len__(self) -> int:
        return len(self._settled) + len(self._recent)

    def add(self, scene_id: str) -> None:
        if scene_id in self:
            return
        self._recent.add(_key(scene_id))
        if len(self._recent) >= 4096:
            self._settled = np.union1d(self._settled, np.array(sorted(self._recent), dtype="S16"))
            self._recent.clear()


def _key(scene_id: str) -> bytes:
    # numpy drops trailing zero bytes of "S16"; so does this, and ids of one length stay apart.
    return bytes.fromhex(scene_id).rstrip(b"\0")


def committed_ids(location: StoreLocation, model_id: str) -> IdSet:
    """Scenes in the store for this model; empty for a store that is not there yet."""
    if location.marker() is None:
        return IdSet()
    return IdSet(_column(location, SCENES, "scene_id", f"model_id = '{model_id}'"))


def quarantined_ids(location: StoreLocation, model_id: str) -> IdSet:
    """Scenes that an earlier run could not mine with this model."""
    if location.marker() is None:
        return IdSet()
    return IdSet(_column(location, QUARANTINE, "scene_id", f"model_id = '{model_id}' AND level = 'scene'"))


def quarantine_keys(location: StoreLocation) -> set[str]:
    """The quarantine_id of every row, so that a fault is written down once."""
    return set(_column(location, QUARANTINE, "quarantine_id", None))


def _column(location: StoreLocation, table: str, column: str, where: str | None) -> Iterable[str]:
    scanner = location.dataset(table).scanner(columns=[column], filter=where)
    for batch in scanner.to_batches():
        yield from batch.column(0).to_pylist()
