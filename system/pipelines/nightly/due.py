"""Which night this is, and of which days the logs may not have been mined."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime

from system.errors import ConfigError, StoreError
from system.pipelines.nightly.config import NightlyConfig
from system.pipelines.nightly.partitions import days_to_look_at, missed_nights
from system.pipelines.nightly.records import NIGHT_LOGS, NightRecord, left_from, past_nights, read_nights
from system.store.location import StoreLocation
from system.store.runs import RunRecord

# Clocks of machines that ask for the time differ by far less.
_CLOCK_TOLERANCE_S = 600


@dataclass(frozen=True)
class Due:
    """What a night is to do, decided before anything is written.

    days: whose logs are looked at. missed: on which no night looked at one of the places. newest: the newest night
    before it that looked at one of them. runs, past: of the store, and the nights among them.
    """

    day: date
    days: list[date]
    missed: list[date]
    runs: list[RunRecord]
    past: list[NightRecord]
    newest: date | None


def tonight(config: NightlyConfig, now_ns: int) -> date:
    """The day that the night belongs to, in the configured time zone."""
    return datetime.fromtimestamp(now_ns / 1e9, config.zone).date()


def due(config: NightlyConfig, night: date | None, since: date | None, now_ns: int) -> Due:
    """Which days are to be looked at.

    Args:
        night: another day than today's; since: look back at least as far as this, whatever was mined.
    Raises:
        ConfigError: a night in the future, before one that has been, or on the day of one of other logs.
        StoreError: clocks disagree.
    """
    location = StoreLocation.parse(config.store)
    runs, past = read_nights(location)
    _check_clock(location, runs, now_ns)
    today = tonight(config, now_ns)
    day = night or today
    newest = max((record.day for record in past), default=None)
    if day > today:
        raise ConfigError(f"--night {day} is after today, {today} ({config.timezone}); expected a day that has begun")
    if newest is not None and day < newest:
        raise ConfigError(
            f"--night {day} is before {newest}, the last night of {location.uri}; its logs are mined by any night: "
            f"--since {day} looks back that far"
        )
    if config.since is not None and day < config.since:
        raise ConfigError(f"--night {day} is before `since` = {config.since} of the configuration")
    for record in past:
        if record.day == day and not set(record.logs) <= set(config.logs):
            raise ConfigError(
                f"{location.uri}: the night {day} of {', '.join(record.logs)} is there, and `logs` of this "
                "configuration lack some of these; it would overwrite that night's labels and report. List the logs "
                "of both in one configuration, or use a store of its own for each"
            )
    # A place counts the nights that looked there; one that has moved, all of them.
    runs_there = [[run for run in runs if template in run.report.get(NIGHT_LOGS, ())] for template in config.logs]
    places = [past_nights(there) for there in runs_there]
    days = max((_days(config, day, some) for some in (runs, *runs_there)), key=len)
    if since is not None:
        days = max(days, days_to_look_at(day, None, since, 0), key=len)
    missed = {gap for nights in (past, *places) for gap in missed_nights(day, [record.day for record in nights])}
    before = [record.day for nights in places for record in nights if record.day < day]
    return Due(day, days, sorted(missed), runs, past, max(before, default=None))


def _days(config: NightlyConfig, day: date, runs: list[RunRecord]) -> list[date]:
    """The days of which these nights may have left something; a second run of a night stands where the first stood."""
    complete = max((record.day for record in past_nights(runs) if record.day < day and not record.left), default=None)
    return days_to_look_at(day, complete, config.since, config.late_days, left_from(runs, day))


def _check_clock(location: StoreLocation, runs: list[RunRecord], now_ns: int) -> None:
    """Raises StoreError: a run began after now: one of two clocks is wrong, and nights cannot be told by their days."""
    newest = max(runs, key=lambda run: run.started_ns, default=None)
    ahead_s = 0.0 if newest is None else (newest.started_ns - now_ns) / 1e9
    if newest is not None and ahead_s > _CLOCK_TOLERANCE_S:
        raise StoreError(
            f"{location.uri}: run {newest.run_id} began {ahead_s / 3600:.1f} hours after this machine's time; one of "
            "two clocks is wrong. Set the clocks (NTP), then start the night again. Nothing was changed."
        )
