"""Erase a log from a store: rows of every table and version, indices, pictures, saved sets, reports; and prove it.

What is to go is written down first (`forgetting.json`), so that a call that was killed is gone on with, by the same
log or by the next. Versions that hold the log cannot be kept: their tags go, and with them the answers "as of" those
runs. A log that was uploaded again has scenes of other ids in older versions: these go as well, and with them every
picture that no scene of the versions that stay names, of whichever log it is. The proof reads all rows that are left,
and looks in every byte of every file for the log's scene ids, for pieces of its pictures and for its id, where no text
that stays contains that: a log may be called as a night, a folder or a tag is. It says nothing of what lies outside of
the store: exports, answers that somebody kept, older versions of objects in a bucket that keeps them, backups.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem
from numpy.typing import NDArray

from system.errors import ReconcileError, StoreError, storage_errors
from system.store.commits import commit_appended
from system.store.detections import DETECTIONS
from system.store.forget_plan import (
    WORK_NAME,
    ForgetWork,
    data_files,
    held_rows,
    mention,
    where_in,
    where_log,
    where_rows,
)
from system.store.forget_proof import bytes_left, patterns_of, raw_hits
from system.store.forget_records import without_log
from system.store.ids import IdSet
from system.store.lease import FOLDER as LEASE_FOLDER
from system.store.lease import Lease
from system.store.location import MARKER, StoreLocation
from system.store.maintain import build_indices
from system.store.runs import RunRecord, read_runs, write_run
from system.store.schema import PICTURES, SCENES
from system.store.sets import list_sets, remove_set, replace_set
from system.store.tables import table_names


@dataclass
class ForgetReport:
    """What went. rows: by table. bytes_found_after: of patterns that are left, which is to be 0.

    is_id_sought: whether its id by itself was among the patterns, which it is not where texts that stay hold it.
    raw_before: of the patterns, those that were found in the store's files before anything went, so that a proof that
    could find nothing is not taken for one.
    """

    log_id: str
    scenes: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    tags_removed: list[str] = field(default_factory=list)
    sets_changed: int = 0
    sets_removed: int = 0
    runs_changed: int = 0
    reports_removed: list[str] = field(default_factory=list)
    bytes_freed: int = 0
    patterns: int = 0
    is_id_sought: bool = False
    raw_before: int = 0
    bytes_found_after: int = 0

    def figures(self) -> dict[str, Any]:
        return asdict(self)


def forget_log(location: StoreLocation, work: ForgetWork, lease: Lease, is_proven: bool = True) -> ForgetReport:
    """Erase what was planned. Call with the lease held; one that was killed, or whose proof failed, is repeated.

    Args:
        is_proven: look for what is left, which reads the whole store.
    Raises:
        StoreError: the store cannot be written. ReconcileError: something is left.
    """
    report = ForgetReport(work.log_id, scenes=len(work.scene_ids))
    patterns = patterns_of(location, work)
    report.patterns, report.is_id_sought = len(patterns), work.log_id.encode() in patterns
    if is_proven:
        report.raw_before = len(raw_hits(location, patterns))
    location.write_text(WORK_NAME, work.model_dump_json())
    try:
        _remove_tags(location, work, report)
        _change_records(location, work, report)
        _remove_reports(location, work, report)
        for name in table_names(location):
            lease.check()
            _erase_rows(location, name, work, report)
        lease.check()
        build_indices(location)
        for name in table_names(location):
            # The version that says which rows were deleted names them, and the newest always stays.
            commit_appended(location, name, [])
            stats = location.dataset(name).cleanup_old_versions(
                older_than=timedelta(0), delete_unverified=True, error_if_tagged_old_versions=False
            )
            report.bytes_freed += int(stats.bytes_removed)
        if is_proven:
            report.bytes_found_after, where = bytes_left(location, work, patterns)
            if report.bytes_found_after:
                raise ReconcileError(
                    f"{location.uri}: {report.bytes_found_after} bytes of the log are left, in {where}; see why they "
                    "name it, then repeat the command"
                )
        location.remove(WORK_NAME)
    except Exception as error:
        if not isinstance(error, (*storage_errors(), RuntimeError, ValueError)):
            raise
        raise StoreError(
            f"{location.uri}: forgetting was interrupted: {error}; nothing is proven yet, repeat the command"
        ) from error
    return report


def _remove_tags(location: StoreLocation, work: ForgetWork, report: ForgetReport) -> None:
    """Of every version in whose files the log lies, even as rows that it has deleted."""
    for name in table_names(location):
        newest, holds = location.dataset(name), dict[tuple[str, ...], bool]()
        for tag in list(newest.tags.list()):
            version = newest.checkout_version(tag)
            wheres = list(where_log(version, work)) or where_rows(version, work)
            for fragment in version.get_fragments():
                if (files := data_files(fragment)) not in holds:
                    holds[files] = any(len(held_rows(version, [fragment], where, [])) for where in wheres)
            if any(holds[data_files(fragment)] for fragment in version.get_fragments()):
                newest.tags.delete(tag)
                report.tags_removed.append(tag)


def _erase_rows(location: StoreLocation, name: str, work: ForgetWork, report: ForgetReport) -> None:
    """Delete, then write what is left of the fragments anew; indices that know the rows are dropped."""
    dataset = location.dataset(name)
    wheres = where_rows(dataset, work)
    if name in (PICTURES, DETECTIONS):
        wheres += where_in("scene_id", _orphans(location, dataset))
    if not wheres:
        return
    report.rows[name] = sum(int(dataset.delete(where)["num_deleted_rows"]) for where in wheres)
    for index in dataset.describe_indices():
        dataset.drop_index(index.name)
    dataset.optimize.compact_files(materialize_deletions=True, materialize_deletions_threshold=0.0)


def _orphans(location: StoreLocation, dataset: lance.LanceDataset) -> list[str]:
    """Ids in a table that no scene has: of windows that were mined again otherwise, or that were never committed."""
    scenes = location.dataset(SCENES)
    named = IdSet.of_batches(batch.column(0) for batch in scenes.scanner(columns=["scene_id"]).to_batches())
    left = {
        scene_id
        for batch in dataset.scanner(columns=["scene_id"]).to_batches()
        for scene_id in batch.column(0).unique().to_pylist()
        if scene_id not in named
    }
    for tag in scenes.tags.list():
        version = scenes.checkout_version(tag)
        for where in where_in("scene_id", sorted(left)):
            left -= set(version.to_table(columns=["scene_id"], filter=where)["scene_id"].to_pylist())
    return sorted(left)


def _change_records(location: StoreLocation, work: ForgetWork, report: ForgetReport) -> None:
    """Runs and sets that name the log."""
    for run in read_runs(location):
        told = without_log(run.report, work.names)
        if told != run.report:
            write_run(location, RunRecord(**{**vars(run), "report": told}))
            report.runs_changed += 1
    gone = set(work.scene_ids)
    for saved in list_sets(location):
        kept = tuple(scene_id for scene_id in saved.scene_ids if scene_id not in gone)
        is_named = mention(work.names).search(json.dumps(saved.search).encode()) is not None
        if not kept:
            remove_set(location, saved.set_id)
            report.sets_removed += 1
        elif kept != saved.scene_ids or is_named:
            search = None if is_named else saved.search
            replace_set(location, saved.model_copy(update={"scene_ids": kept, "search": search}))
            report.sets_changed += 1


def _remove_reports(location: StoreLocation, work: ForgetWork, report: ForgetReport) -> None:
    """Pages and records beside the tables that show the log; they can be written again."""
    named = mention(work.names)
    fs, root = location.filesystem()
    for path in fs.find(root):
        below = str(path)[len(root) :].lstrip("/")
        if ".lance/" in below or below in (WORK_NAME, MARKER) or below.startswith((f"{LEASE_FOLDER}/", "sets/")):
            continue
        if below.endswith(".parquet"):
            # Its pages are packed, so that no name need be seen in its bytes.
            report.rows[below] = _rewrite_parquet(fs, str(path), work)
            continue
        if named.search(fs.cat_file(path)):
            fs.rm_file(path)
            report.reports_removed.append(below)


def _rewrite_parquet(fs: AbstractFileSystem, path: str, work: ForgetWork) -> int:
    """Write a table again without the log's rows, by its scenes' ids and by `log_id`; returns how many they were.

    Where another source has a log of that id, the row's source counts too.
    """
    with fs.open(path, "rb") as file:
        table = pq.read_table(file)
    gone = np.zeros(len(table), bool)
    for column in table.columns:
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            gone |= _is_one_of(column, work.scene_ids)
    if "log_id" in table.column_names and not work.is_shared:
        gone |= _is_one_of(table["log_id"], [work.log_id])
    elif {"log_id", "source"} <= set(table.column_names):
        gone |= _is_one_of(table["log_id"], [work.log_id]) & _is_one_of(table["source"], [str(work.source)])
    if gone.any():
        buffer = io.BytesIO()
        pq.write_table(table.filter(pa.array(~gone)), buffer)
        fs.pipe_file(path, buffer.getvalue())
    return int(gone.sum())


def _is_one_of(column: pa.ChunkedArray, values: Sequence[str]) -> NDArray[np.bool_]:
    known = pc.is_in(column, value_set=pa.array(values, column.type))
    return known.to_numpy(zero_copy_only=False).astype(bool)
