"""Whether byte patterns lie anywhere below a folder or bucket: every file, whole, in whatever format it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from fsspec import AbstractFileSystem

# Patterns are looked for by their first bytes, at all places of a file at once.
KEY_BYTES = 8
_CHUNK_BYTES = 16 << 20
_TABLE_BITS = 16


class PatternFinder:
    """Finds any of many patterns of at least KEY_BYTES bytes, in one pass over the bytes."""

    def __init__(self, patterns: Sequence[bytes]) -> None:
        """Raises ValueError: a pattern that is too short to be told from chance."""
        if short := [pattern for pattern in patterns if len(pattern) < KEY_BYTES]:
            raise ValueError(f"patterns of less than {KEY_BYTES} bytes, e.g. {short[0]!r}")
        self._by_key: dict[int, list[bytes]] = {}
        for pattern in dict.fromkeys(patterns):
            self._by_key.setdefault(int.from_bytes(pattern[:KEY_BYTES], "little"), []).append(pattern)
        self._keys = np.array(sorted(self._by_key), np.uint64)
        self._may_be = np.zeros(1 << _TABLE_BITS, bool)
        self._may_be[self._keys & np.uint64((1 << _TABLE_BITS) - 1)] = True
        self.longest = max(map(len, patterns), default=0)

    def found_in(self, content: bytes) -> set[bytes]:
        """The patterns that occur in it."""
        found: set[bytes] = set()
        for offset in range(KEY_BYTES):
            count = (len(content) - offset) // KEY_BYTES
            if count <= 0:
                continue
            words = np.frombuffer(content, "<u8", count, offset)
            places = np.flatnonzero(self._may_be[words & np.uint64((1 << _TABLE_BITS) - 1)])
            places = places[np.isin(words[places], self._keys)]
            for place in places.tolist():
                start = offset + KEY_BYTES * place
                candidates = self._by_key[int(words[place])]
                found.update(pattern for pattern in candidates if content.startswith(pattern, start))
        return found


def scan(fs: AbstractFileSystem, root: str, patterns: Sequence[bytes]) -> dict[str, set[bytes]]:
    """Files below a root that hold any of the patterns, and which.

    Raises:
        OSError: a file cannot be read; one that is removed meanwhile is passed over.
    """
    if not patterns:
        return {}
    finder, hits = PatternFinder(patterns), {}
    for path in fs.find(root):
        found: set[bytes] = set()
        for chunk in _chunks(fs, path, finder.longest):
            found |= finder.found_in(chunk)
        if found:
            hits[str(path)] = found
    return hits


def _chunks(fs: AbstractFileSystem, path: str, overlap: int) -> Iterator[bytes]:
    """Parts of a file, each with the end of the one before, so that nothing falls between two."""
    try:
        with fs.open(path, "rb", block_size=_CHUNK_BYTES) as file:
            rest = b""
            while chunk := file.read(_CHUNK_BYTES):
                yield rest + chunk
                rest = (rest + chunk)[-overlap:]
    except FileNotFoundError:
        return
