"""Write down once what could not be mined."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from system.errors import OUTAGE_CODES
from system.logs.reader import BadLog
from system.pipelines import metrics
from system.report.log_lines import LOGGER
from system.store.commits import append_rows
from system.store.ids import quarantine_keys
from system.store.location import StoreLocation
from system.store.runs import run_day
from system.store.schema import QUARANTINE, quarantine_schema

# A fleet of broken logs must not drown the log of its night; jobs/show_run.py names every fault.
_MAX_LINES = 100


class QuarantineWriter:
    """Appends faults to the store's quarantine; one that an earlier, perhaps killed, run wrote down is not repeated.

    That the storage did not answer for a scene or log is written down once a day, so that the days can be counted.
    """

    def __init__(self, location: StoreLocation, model_id: str, run_id: str) -> None:
        self._location = location
        self._model_id = model_id
        self._run_id = run_id
        self._known = quarantine_keys(location)
        self._told: set[tuple[str, str]] = set()

    def add_bad_logs(self, logs: Iterable[BadLog]) -> None:
        self.add({"level": "log", "uri": b.uri, "stage": "list", "code": b.code, "message": b.message} for b in logs)

    def add(self, faults: Iterable[Mapping[str, Any]]) -> None:
        """Faults with level, uri, stage, code, message and, where known, scene_id, source and log_id.

        Raises:
            StoreError: the store cannot be written.
        """
        rows = []
        for fault in faults:
            key = _key(self._model_id, self._run_id, fault)
            if key not in self._known:
                self._known.add(key)
                rows.append({**fault, "quarantine_id": key, "model_id": self._model_id, "run_id": self._run_id})
        append_rows(self._location, QUARANTINE, pa.Table.from_pylist(rows, schema=quarantine_schema()))
        metrics.quarantined(rows)
        for row in rows:
            self._tell(row)

    def _tell(self, row: Mapping[str, Any]) -> None:
        """One line for the first fault of each code in a log. Whole logs that are bad are told where they are found."""
        log_id, code = row.get("log_id") or "", row["code"]
        if row["level"] == "log" or (log_id, code) in self._told or len(self._told) > _MAX_LINES:
            return
        self._told.add((log_id, code))
        if len(self._told) > _MAX_LINES:
            LOGGER.warning("more logs have faults: jobs/show_run.py --store %s names each", self._location.uri)
            return
        ids = {"log_id": log_id, "scene_id": row.get("scene_id"), "code": code}
        LOGGER.warning("log %s: quarantined (%s: %s)", log_id, code, row["message"], extra={"ids": ids})


def _key(model_id: str, run_id: str, fault: Mapping[str, Any]) -> str:
    is_outage = fault["level"] != "frame" and fault["code"] in OUTAGE_CODES
    what = f"outage on {run_day(run_id)}" if is_outage else fault["code"]
    parts = (model_id, fault["level"], fault.get("scene_id") or "", fault["uri"] or "", what)
    return hashlib.blake2b("\x1f".join(parts).encode(), digest_size=16).hexdigest()
