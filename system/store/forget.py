"""Erase a log from a store: rows of every table and version, indices, pictures, saved sets, reports; and prove it.

What is to go is written down first (`forgetting.json`), so that a call that was killed is gone on with, by the same
log or by the next. Versions that hold the log cannot be kept: their tags go, and with them the answers "as of" those
runs. The proof reads all rows that are left, and looks in every byte of every file for the log's scene ids, for pieces
of its pictures and for its id where no other log's id contains that. It says nothing of what lies outside of the
store: exports, answers that somebody kept, older versions of objects in a bucket that keeps them, backups.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from functools import lru_cache
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem

from system.config import FrozenConfig
from system.errors import ConfigError, ReconcileError, StoreError, storage_errors
from system.store.byte_scan import KEY_BYTES, scan
from system.store.commits import commit_appended
from system.store.filters import literal
from system.store.lease import FOLDER as LEASE_FOLDER
from system.store.lease import Lease
from system.store.location import MARKER, StoreLocation
from system.store.maintain import build_indices
from system.store.pictures import all_pictures
from system.store.runs import RunRecord, read_runs, write_run
from system.store.schema import SCENES
from system.store.sets import list_sets, remove_set, replace_set
from system.store.tables import table_names

WORK_NAME = "forgetting.json"
FORGOTTEN = "(forgotten)"
_IDS_AT_ONCE = 500
# Pieces of a JPEG's end, where no two pictures are alike; its beginning is the same tables in all.
_PIECE_BYTES, _PIECES = 48, 3


class ForgetWork(FrozenConfig):
    """What has to go, known before anything does. pieces: of pictures, hexadecimal."""

    log_id: str
    source: str | None
    scene_ids: tuple[str, ...]
    pieces: tuple[str, ...]


@dataclass
class ForgetReport:
    """What went. rows: by table. bytes_found_after: of patterns that are left, which is to be 0.

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
    raw_before: int = 0
    bytes_found_after: int = 0

    def figures(self) -> dict[str, Any]:
        return asdict(self)


def plan_forgetting(location: StoreLocation, log_id: str, source: str | None = None) -> ForgetWork:
    """What would go; nothing does.

    Raises:
        ConfigError: the store knows no such log, or several sources have it and none is named.
        StoreError: another log's forgetting was not finished.
    """
    if (text := location.read_text(WORK_NAME)) is not None:
        work = ForgetWork.parse(json.loads(text), f"{location.uri}/{WORK_NAME}")
        if work.log_id != log_id:
            raise StoreError(
                f"{location.uri}: forgetting another log was begun and not finished; repeat that command first "
                f"(its id stands in {WORK_NAME})"
            )
        return work
    rows = [row for name in table_names(location) for row in _rows_of(location, name, log_id, source)]
    if not rows:
        told = f" of {source}" if source else ""
        raise ConfigError(f"{location.uri}: knows no log {log_id!r}{told}; jobs/search_scenes.py prints logs' ids")
    if source is None and len(known := sorted({s for s, _ in rows if s})) > 1:
        raise ConfigError(f"{location.uri}: log {log_id!r} is of several sources: {', '.join(known)}; name a --source")
    ids = tuple(sorted({i for _, i in rows if i}))
    pieces = {piece.hex() for jpeg in all_pictures(location, ids) for piece in pieces_of(jpeg)}
    return ForgetWork(log_id=log_id, source=source, scene_ids=ids, pieces=tuple(sorted(pieces)))


def _rows_of(
    location: StoreLocation, name: str, log_id: str, source: str | None
) -> Iterator[tuple[str | None, str | None]]:
    """(source, scene id) of a log's rows of a table, None where it has no such column."""
    dataset = location.dataset(name)
    columns = [column for column in ("source", "scene_id") if column in dataset.schema.names]
    if "log_id" not in dataset.schema.names or not columns:
        return
    where = f"log_id = {literal(log_id)}"
    if source is not None and "source" in columns:
        where += f" AND source = {literal(source)}"
    for row in dataset.to_table(columns=columns, filter=where).to_pylist():
        yield row.get("source"), row.get("scene_id")


def forget_log(location: StoreLocation, work: ForgetWork, lease: Lease, is_proven: bool = True) -> ForgetReport:
    """Erase what was planned. Call with the lease held; a call that was killed is repeated with the same log.

    Args:
        is_proven: look for what is left, which reads the whole store.
    Raises:
        StoreError: the store cannot be written. ReconcileError: something is left.
    """
    report = ForgetReport(work.log_id, scenes=len(work.scene_ids))
    patterns = _patterns(location, work)
    report.patterns = len(patterns)
    if is_proven:
        report.raw_before = len(_raw_hits(location, patterns))
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
        location.remove(WORK_NAME)
    except Exception as error:
        if not isinstance(error, (*storage_errors(), RuntimeError, ValueError)):
            raise
        raise StoreError(
            f"{location.uri}: forgetting was interrupted: {error}; nothing is proven yet, repeat the command"
        ) from error
    if is_proven:
        _prove(location, work, patterns, report)
    return report


def pieces_of(jpeg: bytes) -> Iterator[bytes]:
    """Parts of a picture by which it is known again wherever its bytes lie."""
    for k in range(_PIECES):
        end = len(jpeg) - 2 - k * (len(jpeg) // (4 * _PIECES))
        if end >= _PIECE_BYTES:
            yield jpeg[end - _PIECE_BYTES : end]


def _patterns(location: StoreLocation, work: ForgetWork) -> list[bytes]:
    others = _log_ids(location) - {work.log_id}
    is_told_apart = len(work.log_id) >= KEY_BYTES and not any(work.log_id in other for other in others)
    return [
        *(scene_id.encode() for scene_id in work.scene_ids),
        *(bytes.fromhex(piece) for piece in work.pieces),
        *([work.log_id.encode()] if is_told_apart else []),
    ]


def _log_ids(location: StoreLocation) -> set[str]:
    scanner = location.dataset(SCENES).scanner(columns=["log_id"])
    return {log_id for batch in scanner.to_batches() for log_id in batch.column(0).unique().to_pylist()}


def _where(dataset: lance.LanceDataset, work: ForgetWork) -> list[str]:
    """Conditions that together name the log's rows of a table, in parts that a parser takes."""
    names, found = dataset.schema.names, []
    if "log_id" in names:
        by_source = f" AND source = {literal(work.source)}" if work.source and "source" in names else ""
        found.append(f"log_id = {literal(work.log_id)}{by_source}")
    if "scene_id" in names:
        for start in range(0, len(work.scene_ids), _IDS_AT_ONCE):
            ids = ", ".join(map(literal, work.scene_ids[start : start + _IDS_AT_ONCE]))
            found.append(f"scene_id IN ({ids})")
    return found


def _remove_tags(location: StoreLocation, work: ForgetWork, report: ForgetReport) -> None:
    for name in table_names(location):
        dataset = location.dataset(name)
        for tag in list(dataset.tags.list()):
            version = dataset.checkout_version(tag)
            if any(version.count_rows(filter=where) for where in _where(version, work)):
                dataset.tags.delete(tag)
                report.tags_removed.append(tag)


def _erase_rows(location: StoreLocation, name: str, work: ForgetWork, report: ForgetReport) -> None:
    """Delete, then write what is left of the fragments anew; indices that know the rows are dropped."""
    dataset = location.dataset(name)
    wheres = _where(dataset, work)
    if not wheres:
        return
    report.rows[name] = sum(int(dataset.delete(where)["num_deleted_rows"]) for where in wheres)
    for index in dataset.describe_indices():
        dataset.drop_index(index.name)
    dataset.optimize.compact_files(materialize_deletions=True, materialize_deletions_threshold=0.0)


def _change_records(location: StoreLocation, work: ForgetWork, report: ForgetReport) -> None:
    """Runs and sets that name the log."""
    names = (work.log_id, *work.scene_ids)
    for run in read_runs(location):
        told = _without(run.report, names)
        if told != run.report:
            write_run(location, RunRecord(**{**vars(run), "report": told}))
            report.runs_changed += 1
    gone = set(work.scene_ids)
    for saved in list_sets(location):
        kept = tuple(scene_id for scene_id in saved.scene_ids if scene_id not in gone)
        is_named = _mention(names).search(json.dumps(saved.search).encode()) is not None
        if not kept:
            remove_set(location, saved.set_id)
            report.sets_removed += 1
        elif kept != saved.scene_ids or is_named:
            search = None if is_named else saved.search
            replace_set(location, saved.model_copy(update={"scene_ids": kept, "search": search}))
            report.sets_changed += 1


def _without(value: Any, names: tuple[str, ...]) -> Any:
    """The same JSON, with every text that holds one of the names replaced."""
    if isinstance(value, str):
        return FORGOTTEN if _mention(names).search(value.encode()) else value
    if isinstance(value, dict):
        return {_without(key, names): _without(part, names) for key, part in value.items()}
    if isinstance(value, list):
        return [_without(part, names) for part in value]
    return value


@lru_cache(maxsize=2)
def _mention(names: tuple[str, ...]) -> re.Pattern[bytes]:
    """Finds a name as a word of its own: log 1 is not meant by 12, 0.1 or 1a."""
    found = "|".join(re.escape(name) for name in names)
    return re.compile(rf"(?<![\w.-])(?:{found})(?![\w-]|\.\w)".encode())


def _remove_reports(location: StoreLocation, work: ForgetWork, report: ForgetReport) -> None:
    """Pages and records beside the tables that show the log; they can be written again."""
    mention = _mention((work.log_id, *work.scene_ids))
    fs, root = location.filesystem()
    for path in fs.find(root):
        below = str(path)[len(root) :].lstrip("/")
        if ".lance/" in below or below in (WORK_NAME, MARKER) or below.startswith((f"{LEASE_FOLDER}/", "sets/")):
            continue
        if below.endswith(".parquet"):
            # Its pages are packed, so that no name need be seen in its bytes.
            report.rows[below] = _rewrite_parquet(fs, str(path), (work.log_id, *work.scene_ids))
            continue
        if mention.search(fs.cat_file(path)):
            fs.rm_file(path)
            report.reports_removed.append(below)


def _rewrite_parquet(fs: AbstractFileSystem, path: str, names: Sequence[str]) -> int:
    """Write a table again without the rows that hold one of the names; returns how many they were."""
    with fs.open(path, "rb") as file:
        table = pq.read_table(file)
    gone = np.zeros(len(table), bool)
    for column in table.columns:
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            known = pc.is_in(column, value_set=pa.array(names, column.type))
            gone |= known.to_numpy(zero_copy_only=False).astype(bool)
    if gone.any():
        buffer = io.BytesIO()
        pq.write_table(table.filter(pa.array(~gone)), buffer)
        fs.pipe_file(path, buffer.getvalue())
    return int(gone.sum())


def _prove(location: StoreLocation, work: ForgetWork, patterns: Sequence[bytes], report: ForgetReport) -> None:
    for name in table_names(location):
        dataset = location.dataset(name)
        for version in (dataset, *(dataset.checkout_version(tag) for tag in dataset.tags.list())):
            left = sum(version.count_rows(filter=where) for where in _where(version, work))
            report.bytes_found_after += left * len(work.log_id)
    hits = _raw_hits(location, patterns)
    if hits and (pieces := {bytes.fromhex(piece) for piece in work.pieces} & set(hits)):
        # The same piece may be of a picture that stays.
        for jpeg in all_pictures(location, None):
            for piece in [piece for piece in pieces if piece in jpeg]:
                pieces.discard(piece)
                del hits[piece]
    report.bytes_found_after += sum(map(len, hits))
    if report.bytes_found_after:
        where = ", ".join(sorted(set(hits.values()))[:3]) or "rows of its tables"
        raise ReconcileError(f"{location.uri}: {report.bytes_found_after} bytes of the log are left, in {where}")


def _raw_hits(location: StoreLocation, patterns: Sequence[bytes]) -> dict[bytes, str]:
    """Patterns that lie in some file, and one such file of each."""
    fs, root = location.filesystem()
    return {pattern: path for path, found in scan(fs, root, patterns).items() for pattern in found}
