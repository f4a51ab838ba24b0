"""What lies where the night's logs are expected: the logs, their fingerprints, and what is not there."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date

from system.errors import DataError, FormatError
from system.logs import files
from system.logs.fingerprint import Fingerprint, log_fingerprint
from system.logs.reader import BadLog
from system.logs.registry import Found, Skipped, discover
from system.pipelines.nightly.partitions import fixed_part, is_dated, partition
from system.pipelines.plan import list_each
from system.records import LogRef

# Asking an object store is waiting.
_THREADS = 16


@dataclass(frozen=True)
class Arrival:
    """A log that lies there tonight. day: of its partition; None where logs lie in no partitions."""

    ref: LogRef
    day: date | None
    fingerprint: Fingerprint

    @property
    def name(self) -> str:
        return f"{self.ref.source}/{self.ref.log_id} at {self.ref.uri}"


@dataclass
class NightLogs:
    """All that lies below the places of a night, oldest day first.

    empty: partitions that are not there, or hold nothing. places: those that do.
    """

    arrivals: list[Arrival] = field(default_factory=list)
    bad: list[BadLog] = field(default_factory=list)
    recognised: list[Found] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)


def find_logs(templates: tuple[str, ...], days: list[date], log_format: str) -> NightLogs:
    """List every log of the days, and of places without days.

    Raises:
        DataError: a bucket or folder is not there or may not be listed. FormatError: no log is at a place without days.
    """
    night = NightLogs()
    day_of: dict[int, date | None] = {}
    for template in templates:
        files.filesystem(template)[0].invalidate_cache()  # what was listed before says nothing of tonight
        if is_dated(template):
            _check_above(template)
        # A partition may hold a month: it is listed once, and counts as its last day.
        places = {partition(template, day): day for day in days} if is_dated(template) else {template: None}
        for uri, day in places.items():
            before = len(night.recognised)
            _discover(uri, day, log_format, night)
            day_of.update(dict.fromkeys(range(before, len(night.recognised)), day))
    listed: list[tuple[LogRef, date | None]] = []
    for number, logs in enumerate(list_each(night.recognised)):
        for log in logs:
            if isinstance(log, BadLog):
                night.bad.append(log)
            else:
                listed.append((log, day_of[number]))
    logs_of = Counter(log.uri for log, _ in listed)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="fingerprint") as threads:
        arrivals = threads.map(lambda each: _arrival(each[0], each[1], logs_of[each[0].uri] > 1), listed)
        for arrival in arrivals:
            if isinstance(arrival, BadLog):
                night.bad.append(arrival)
            else:
                night.arrivals.append(arrival)
    return night


def _check_above(template: str) -> None:
    """A partition that is not there has not come yet; where the folder of all of them is missing, the name is wrong."""
    root = fixed_part(template)
    try:
        is_there = not root or files.is_folder(files.absolute(root))
    except DataError as error:
        raise _with_advice(error) from error
    if not is_there:
        told = f"{root}: expected the folder or bucket that holds the partitions of {template}, found nothing"
        raise DataError("missing_path", f"{told}; mend `logs`, or make it")


def _with_advice(error: DataError) -> DataError:
    return DataError(error.code, f"{error.message}. Look at the credentials, and whether they may list this place")


def _discover(uri: str, day: date | None, log_format: str, night: NightLogs) -> None:
    try:
        recognised, skipped = discover(uri, log_format)
    except DataError as error:
        if error.code == "unreachable":
            raise _with_advice(error) from error
        if day is None:
            raise
        if error.code in ("missing_path", "empty_folder"):
            night.empty.append(uri)
        elif isinstance(error, FormatError):
            # One day of rubbish does not cost the other days their night.
            night.bad.append(BadLog(files.absolute(uri), log_format, error.code, error.message))
        else:
            raise
        return
    night.places.append(uri)
    night.recognised += recognised
    night.skipped += skipped


def _arrival(ref: LogRef, day: date | None, shares_files: bool) -> Arrival | BadLog:
    try:
        return Arrival(ref, day, log_fingerprint(ref, shares_files))
    except DataError as error:
        return BadLog(ref.uri, ref.reader, error.code, error.message)
