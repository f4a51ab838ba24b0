"""What each run did: written when it starts, rewritten when it ends."""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from system.errors import ConfigError, StoreError
from system.store.lease import current_holder
from system.store.location import StoreLocation
from system.store.schema import QUARANTINE, RUNS, SCENES, runs_schema

# In the report of every run of a night, also of one that was killed: its day.
NIGHT_OF = "night_of"


@dataclass(frozen=True)
class RunRecord:
    """One row of the table `runs`. `status` is "running", "finished", "stopped", "failed" or "killed"."""

    run_id: str
    model_id: str
    status: str
    started_ns: int
    ended_ns: int | None
    table_version: int | None
    report: dict[str, Any]


def new_run_id() -> str:
    """Sorts by time; the tail keeps two runs of one second apart."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()) + "-" + uuid.uuid4().hex[:6]


def run_day(run_id: str) -> str:
    """The day (UTC) on which a run began: YYYYMMDD."""
    return run_id[:8]


def write_run(location: StoreLocation, run: RunRecord) -> None:
    """Add the run, or replace what was written of it before.

    Raises:
        StoreError: the store cannot be written.
    """
    row = {
        "run_id": run.run_id,
        "model_id": run.model_id,
        "status": run.status,
        "started_ns": run.started_ns,
        "ended_ns": run.ended_ns,
        "table_version": run.table_version,
        "report": json.dumps(run.report, default=str),
    }
    try:
        rows = pa.Table.from_pylist([row], schema=runs_schema())
        table = location.dataset(RUNS)
        table.merge_insert("run_id").when_matched_update_all().when_not_matched_insert_all().execute(rows)
    except (OSError, RuntimeError, ValueError) as error:
        raise StoreError(f"{location.uri}: cannot write the record of run {run.run_id}: {error}") from error


def read_runs(location: StoreLocation) -> list[RunRecord]:
    """All runs, newest first; one that says it is running while it does not hold the store was killed."""
    rows = location.dataset(RUNS).to_table().to_pylist()
    runs = [RunRecord(**{**row, "report": json.loads(row["report"])}) for row in rows]
    if any(run.status == "running" for run in runs):
        holder = current_holder(location)
        alive = None if holder is None else holder.run_id
        runs = [_killed(location, run) if run.status == "running" and run.run_id != alive else run for run in runs]
    return sorted(runs, key=lambda run: run.run_id, reverse=True)


def _killed(location: StoreLocation, run: RunRecord) -> RunRecord:
    """A run that did not live to write its figures; what it committed is counted in the table."""
    committed = location.dataset(SCENES).count_rows(filter=f"run_id = '{run.run_id}'")
    figures = {**run.report.get("figures", {}), "committed": committed}
    return replace(run, status="killed", report={**run.report, "figures": figures})


def read_run(location: StoreLocation, run_id: str) -> RunRecord:
    """One run; "latest" is the newest.

    Raises:
        ConfigError: there is no such run.
    """
    runs = read_runs(location)
    chosen = runs[:1] if run_id == "latest" else [run for run in runs if run.run_id == run_id]
    if not chosen:
        known = ", ".join(run.run_id for run in runs[:5]) or "none"
        raise ConfigError(f"{location.uri}: no run {run_id!r}; the newest are: {known}")
    return chosen[0]


def run_shown(runs: Sequence[RunRecord], tag: str | None = None) -> RunRecord | None:
    """The run whose model's rows a search shows, or None where there are no runs.

    The newest that finished, so that a new model is shown when its rows are all there; before it come runs of models
    that have committed something: a new model that died or found nothing would empty every search.

    Args:
        runs: all of the store, newest first.
        tag: of a version of the scenes, "run-<run id>" or "night-<date>"; the runs of that name come before others.
    """
    mined = {run.model_id for run in runs if run.report.get("figures", {}).get("committed")}
    of_tag = [run for run in runs if tag in (f"run-{run.run_id}", f"night-{run.report.get(NIGHT_OF)}")]
    chosen = [run for run in of_tag if run.model_id in mined] or runs
    return max(chosen, key=lambda run: (run.model_id in mined, run.status == "finished"), default=None)


def read_quarantine(
    location: StoreLocation, run_id: str | None = None, limit: int | None = None
) -> list[dict[str, Any]]:
    """Quarantine rows, of one run or of all."""
    where = None if run_id is None else "run_id = '{}'".format(run_id.replace("'", "''"))
    return location.dataset(QUARANTINE).to_table(filter=where, limit=limit).to_pylist()


def git_commit() -> str:
    """The commit of the code that runs; outside a checkout, what an image says of itself, or "unknown"."""
    of_image = os.environ.get("NIGHTMINER_COMMIT") or "unknown"
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return of_image
    return done.stdout.strip() or of_image
