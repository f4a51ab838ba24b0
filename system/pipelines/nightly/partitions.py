"""Days, and where the logs of a day lie."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from itertools import groupby

from system.errors import ConfigError

# More than this is a slip of the pen; each day is a request to an object store.
MOST_DAYS = 1100
_FIELD = re.compile(r"\{date(?::([^{}]*))?\}")
_ONE_DAY = timedelta(days=1)
# Four years have every length of month and year, and every way in which weeks fall into years.
_FOUR_YEARS = [date(2001, 1, 1) + k * _ONE_DAY for k in range(4 * 365 + 1)]


def is_dated(template: str) -> bool:
    return _FIELD.search(template) is not None


def check_template(template: str) -> None:
    """Raises ValueError, with what is wrong.

    Each day has one place, and a place holds one day, or days that follow each other.
    """
    if not template.strip():
        raise ValueError("expected a folder or URI, found an empty text")
    if set("{}") & set(_FIELD.sub("", template)):
        raise ValueError(f"{template}: expected no other field than {{date}} or, for instance, {{date:%Y/%m/%d}}")
    if not is_dated(template):
        return
    if partition(template, datetime(2001, 1, 1)) != partition(template, datetime(2001, 1, 1, 13, 31, 41, 59)):
        raise ValueError(
            f"{template}: names an hour, or a part of one; stop at the day, for instance {{date:%Y/%m/%d}}: folders "
            "below it are searched"
        )
    places = [place for place, _ in groupby(partition(template, day) for day in _FOUR_YEARS)]
    if len(places) == 1:
        raise ValueError(f"{template}: names the same place for every day; expected for instance {{date:%Y/%m/%d}}")
    if len(set(places)) < len(places):
        again = next(place for k, place in enumerate(places) if place in places[:k])
        raise ValueError(
            f"{template}: names one place, {again}, for days of several weeks, months or years; expected for instance "
            "{date:%Y/%m/%d}"
        )


def partition(template: str, day: date) -> str:
    """Where the logs of a day lie."""
    return _FIELD.sub(lambda field: day.strftime(field[1] or "%Y-%m-%d"), template)


def fixed_part(template: str) -> str:
    """The folder above the first part of a template that depends on the day; "" where that is a bucket or the root."""
    field = _FIELD.search(template)
    folder = template if field is None else template[: field.start()].rpartition("/")[0]
    return "" if folder.endswith(":/") else folder


def days_to_look_at(
    tonight: date, last_complete: date | None, since: date | None, late_days: int, left_from: date | None = None
) -> list[date]:
    """Every day whose logs may not have been mined, up to tonight's own, in order.

    Args:
        last_complete: the last night that left nothing over; None before the first.
        since: no day before this; on a first night, all from this on.
        left_from: the first day of which an earlier night has left something, however long ago that is.
    Raises:
        ConfigError: `since` is after tonight, or so long ago that it must be a mistake.
    """
    if since is not None and since > tonight:
        raise ConfigError(f"since = {since} is after the night {tonight}; expected a day that has been")
    if last_complete is None:
        first = since or tonight - late_days * _ONE_DAY
    else:
        first = max(min(last_complete, tonight) - late_days * _ONE_DAY, since or date.min)
    if left_from is not None:  # no night looks back further than it may, or none would after that
        first = min(first, max(left_from, tonight - (MOST_DAYS - 1) * _ONE_DAY))
    count = (tonight - first).days + 1
    if count > MOST_DAYS:
        raise ConfigError(
            f"{count} days lie between {first} and the night {tonight}; expected at most {MOST_DAYS}. Mine older logs "
            "with jobs/mine_fleet.py, and begin nights later"
        )
    return [first + k * _ONE_DAY for k in range(count)]


def missed_nights(tonight: date, earlier: Sequence[date]) -> list[date]:
    """Days between the newest night before tonight and tonight on which none ended."""
    before = [night for night in earlier if night < tonight]
    if not before:
        return []
    last = max(before)
    return [last + k * _ONE_DAY for k in range(1, (tonight - last).days)]
