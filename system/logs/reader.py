"""The protocol of a log reader."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from system.records import DrivingLog, LogRef


class LogReader(Protocol):
    """Reads one format. Stateless; only metadata is read, never a pixel.

    `name` is what `--format` calls it; `looks_for` says in a few words what it recognises a path by.
    """

    name: str
    looks_for: str

    def recognise(self, uri: str) -> str | None:
        """Why this reader can read the path ("v1.0-mini/scene.json is there"), or None. Never raises DataError."""
        ...

    def list_logs(self, uri: str) -> Iterator[LogRef]:
        """Every log below the path, from cheap metadata.

        Raises:
            DataError: the path as a whole cannot be listed. A single bad log is yielded all the same where its id is
                known, so that reading it fails by itself and the others are mined.
        """
        ...

    def read_log(self, ref: LogRef) -> DrivingLog:
        """All metadata of one log.

        Raises:
            DataError: which file, what was expected, what was found.
        """
        ...
