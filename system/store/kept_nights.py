"""Which nights can be asked for again: the tags of older ones go, so that their versions can be removed."""

from __future__ import annotations

import re

from system.errors import StoreError
from system.store.location import StoreLocation
from system.store.runs import NIGHT_OF, read_runs
from system.store.schema import SCENES
from system.store.sets import list_sets

_NIGHT = re.compile(r"night-(\d{4}-\d{2}-\d{2})")


def untag_old_nights(location: StoreLocation, keep_nights: int) -> list[str]:
    """Remove the tags of all but the newest nights and of their runs; returns those removed.

    Tags of users, of runs that are of no night, and of versions that a saved set is of stay.

    Raises:
        StoreError: the store cannot be read or written.
    """
    known = location.tags(SCENES)
    days = {name: found[1] for name in known if (found := _NIGHT.fullmatch(name))}
    for run in read_runs(location):
        # Each run of a night leaves a version of its own, from before it was ranked.
        if (day := run.report.get(NIGHT_OF)) and f"run-{run.run_id}" in known:
            days[f"run-{run.run_id}"] = day
    kept = sorted(set(days.values()))[-keep_nights:]
    pinned = {saved.version for saved in list_sets(location)}
    gone = sorted(name for name, day in days.items() if day not in kept and known[name] not in pinned)
    tags = location.dataset(SCENES).tags
    try:
        for name in gone:
            tags.delete(name)
    except (OSError, RuntimeError, ValueError) as error:
        raise StoreError(f"{location.uri}: cannot remove the tags of old nights: {error}") from error
    return gone
