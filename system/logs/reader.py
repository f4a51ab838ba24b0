"""The protocol of a log reader."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from system.errors import DataError
from system.records import DrivingLog, LogRef


@dataclass(frozen=True)
class BadLog:
    """A log, or all below a path, that could not be listed; code and message as of `DataError`."""

    uri: str
    reader: str
    code: str
    message: str


def list_one(uri: str, reader: str, make: Callable[[], LogRef]) -> LogRef | BadLog:
    """One log, or why it cannot be listed: what nobody foresaw in a file costs its log, not the run."""
    try:
        return make()
    except DataError as error:
        return BadLog(uri, reader, error.code, error.message)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        told = f"{uri}: cannot be listed: {type(error).__name__}: {str(error)[:200]}"
        return BadLog(uri, reader, "internal_error", told)


class LogReader(Protocol):
    """Reads one format. Stateless; only metadata is read, never a pixel.

    `name` is what `--format` calls it; `looks_for` says in a few words what it recognises a path by.
    """

    name: str
    looks_for: str

    def recognise(self, uri: str) -> str | None:
        """Why this reader can read the path ("v1.0-mini/scene.json is there"), or None. Never raises DataError."""
        ...

    def list_logs(self, uri: str) -> Iterator[LogRef | BadLog]:
        """Every log below the path, from cheap metadata; a log that cannot be listed as a BadLog, the others follow.

        Raises:
            DataError: the path as a whole cannot be listed.
        """
        ...

    def read_log(self, ref: LogRef) -> DrivingLog:
        """All metadata of one log.

        Raises:
            DataError: which file, what was expected, what was found.
        """
        ...
