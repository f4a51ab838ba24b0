"""What the record of a run keeps when a log is forgotten: everything but the texts that name logs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from system.store.forget_plan import mention

FORGOTTEN = "(forgotten)"
# Of a record. Days of nights, their places and the configuration may be written as a log is called, and are no log:
# the nights that follow read them.
_NAME_LOGS = ("recognised", "skipped", "repeated_logs", "error")


def without_log(report: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """The same record, in which nothing names a log; keys stay whatever they are called.

    Of the configured places, those that are the log itself go: `/logs/drive-7.mcap` where drive-7 is forgotten, and not
    `/logs/drive-7/others`.
    """
    told = {key: _without(part, names) if key in _NAME_LOGS else part for key, part in report.items()}
    config = report.get("config")
    if isinstance(config, dict) and isinstance(places := config.get("logs"), list):
        named = mention(names)
        kept = [FORGOTTEN if named.search(_last_part(place).encode()) else place for place in places]
        told["config"] = {**config, "logs": kept}
    return told


def _without(value: Any, names: tuple[str, ...]) -> Any:
    """The same JSON, with every text that holds one of the names replaced."""
    if isinstance(value, str):
        return FORGOTTEN if mention(names).search(value.encode()) else value
    if isinstance(value, list):
        return [_without(part, names) for part in value]
    return value


def _last_part(place: str) -> str:
    return place.rstrip("/").rpartition("/")[2]
