"""The nights that have been: kept in the records of their mining runs, under "night"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date

from system.pipelines.nightly.figures import NightFigures
from system.store.location import StoreLocation
from system.store.runs import NIGHT_OF, RunRecord, read_run, read_runs, write_run

KEY = "night"
# Beside NIGHT_OF in the record of every run of a night: the `logs` of its configuration, with {date} in them.
NIGHT_LOGS = "night_logs"
# Beside these: the first day that it looked at.
FIRST_DAY = "night_first_day"


@dataclass(frozen=True)
class NightRecord:
    """A run that was a whole night.

    first_day: that it looked at. left: scenes that it left for the next. logs: the places where it looked, with {date}.
    """

    day: date
    run_id: str
    model_id: str
    first_day: date
    left: int
    figures: NightFigures
    logs: tuple[str, ...]


def past_nights(runs: Sequence[RunRecord]) -> list[NightRecord]:
    """Runs that were nights and came to their end, newest first. A night that was killed has no record."""
    nights = [run for run in runs if KEY in run.report]
    return [
        NightRecord(
            day=date.fromisoformat(run.report[KEY]["day"]),
            run_id=run.run_id,
            model_id=run.model_id,
            first_day=date.fromisoformat(run.report[KEY]["first_day"]),
            left=int(run.report[KEY]["left"]),
            figures=NightFigures.from_json(run.report[KEY]["figures"]),
            logs=tuple(run.report.get(NIGHT_LOGS, ())),
        )
        for run in nights
    ]


def runs_of_night(
    runs: Sequence[RunRecord], model_id: str, day: date, logs: Sequence[str], to_label: bool = False
) -> list[str]:
    """Ids of all runs whose scenes are a night's to count, or to label, newest first.

    They are its own, whether or not they came to their end, and those of earlier days after which no night did.

    Args:
        runs: newest first.
        logs: templates of the night; runs of others are their own nights'.
        to_label: an earlier night that ended without its labels leaves them to this one.
    """
    chosen: list[str] = []
    ended: list[set[str]] = []
    for run in runs:
        night, places = run.report.get(NIGHT_OF), set(run.report.get(NIGHT_LOGS, ()))
        if night is None or run.model_id != model_id:
            continue
        is_earlier = night < day.isoformat()
        if is_earlier and KEY in run.report and (_is_labelled(run) or not to_label):
            ended.append(places)
        is_made_up_for = is_earlier and any(places <= others for others in ended)
        if night <= day.isoformat() and places <= set(logs) and not is_made_up_for:
            chosen.append(run.run_id)
    return chosen


def _is_labelled(run: RunRecord) -> bool:
    """Whether a night that ended left no labels to make; nights on record from before this was kept count so."""
    return bool(run.report[KEY].get("labelled", True))


def read_nights(location: StoreLocation) -> tuple[list[RunRecord], list[NightRecord]]:
    """(all runs, the nights among them), newest first; none of a store that is not there yet."""
    if location.marker() is None:
        return [], []
    runs = read_runs(location)
    return runs, past_nights(runs)


def left_from(runs: Sequence[RunRecord], tonight: date) -> date | None:
    """The first day of which nights have left something that no later night has made up for, or None.

    One that died may have dropped scenes of any log that it looked at, to mine them again.

    Args:
        runs: newest first. tonight: what an earlier run of this night has made up for, the next one does again.
    """
    pending: str | None = None
    for run in reversed(runs):
        night = run.report.get(KEY)
        first = run.report.get(FIRST_DAY) if night is None else night["first_day"]
        if first is None:
            continue
        if night is None or night["left"] or not _is_labelled(run):
            pending = min(pending or first, first)
        elif pending is not None and first <= pending and run.report.get(NIGHT_OF) != tonight.isoformat():
            pending = None
    return None if pending is None else date.fromisoformat(pending)


def write_night(
    location: StoreLocation,
    run_id: str,
    days: Sequence[date],
    left: int,
    figures: NightFigures,
    labelled: bool = True,
) -> None:
    """Make a run a night; call it last, with the lease held.

    Args:
        days: that it looked at; the last is its own.
        labelled: False where its labels are left to the next night.

    Raises:
        StoreError: the store cannot be written.
    """
    run = read_run(location, run_id)
    night = {
        "day": days[-1].isoformat(),
        "first_day": days[0].isoformat(),
        "left": left,
        "labelled": labelled,
        "figures": figures.as_json(),
    }
    write_run(location, replace(run, report={**run.report, KEY: night}))


def one_a_day(nights: Sequence[NightRecord], model_id: str, before: date, most: int) -> list[NightRecord]:
    """The newest record of each of the last days before a night, of one model, newest first."""
    by_day: dict[date, NightRecord] = {}
    for night in nights:
        if night.day < before and night.model_id == model_id:
            by_day.setdefault(night.day, night)
    return [by_day[day] for day in sorted(by_day, reverse=True)[:most]]
