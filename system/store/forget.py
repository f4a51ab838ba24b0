"""Erase a log from a store: rows of every table and version, indices, pictures, saved sets, reports; and prove it.

What is to go is written down first (`forgetting.json`), so that a call that was killed is gone on with, by the same
log or by the next. Versions that hold the log cannot be kept: their tags go, and with them the answers "as of" those
runs. A log that was uploaded again has scenes of other ids in older versions: these go as well, and with them every
picture that no scene of the versions that stay names, of whichever log it is. The proof reads all rows that are left,
and looks in every byte of every file for the log's scene ids, for pieces of its pictures and for its id, where nothing
that stays has a name that contains that. It says nothing of what lies outside of the store: exports, answers that
somebody kept, older versions of objects in a bucket that keeps them, backups.
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
from numpy.typing import NDArray

from system.config import FrozenConfig
from system.errors import ConfigError, ReconcileError, StoreError, storage_errors
from system.store.byte_scan import KEY_BYTES, scan
from system.store.commits import commit_appended
from system.store.detections import DETECTIONS
from system.store.filters import literal
from system.store.ids import IdSet
from system.store.lease import FOLDER as LEASE_FOLDER
from system.store.lease import Lease
from system.store.location import MARKER, StoreLocation
from system.store.log_versions import LOGS
from system.store.maintain import build_indices
from system.store.pictures import all_pictures
from system.store.runs import RunRecord, read_runs, write_run
from system.store.schema import PICTURES, SCENES
from system.store.sets import list_sets, remove_set, replace_set
from system.store.tables import table_names

WORK_NAME = "forgetting.json"
FORGOTTEN = "(forgotten)"
_IDS_AT_ONCE = 500
# Pieces of a JPEG's end, where no two pictures are alike; its beginning is the same tables in all.
_PIECE_BYTES, _PIECES = 48, 3


class ForgetWork(FrozenConfig):
    """What has to go, known before anything does.

    is_shared: another source has a log of this id, which stays. log_uris: of the log alone. pieces: of pictures,
    hexadecimal.
    """

    log_id: str
    source: str | None
    is_shared: bool
    log_uris: tuple[str, ...]
    scene_ids: tuple[str, ...]
    pieces: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """What a text means the log by."""
        return (f"{self.source}/{self.log_id}" if self.is_shared else self.log_id, *self.scene_ids)


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
        if (work.log_id, work.source) != (log_id, source):
            raise StoreError(
                f"{location.uri}: forgetting another log, or this one of another --source, was begun and not finished; "
                f"repeat that command first (its log_id and source stand in {WORK_NAME})"
            )
        return work
    of_id = [row for name in table_names(location) for row in _rows_of(location, name, log_id)]
    rows = [row for row in of_id if source in (None, row.get("source"))]
    if not rows:
        told = f" of {source}" if source else ""
        raise ConfigError(f"{location.uri}: knows no log {log_id!r}{told}; jobs/search_scenes.py prints logs' ids")
    known = sorted({row["source"] for row in of_id if row.get("source")})
    if source is None and len(known) > 1:
        raise ConfigError(f"{location.uri}: log {log_id!r} is of several sources: {', '.join(known)}; name a --source")
    ids = tuple(sorted({row["scene_id"] for row in rows if row.get("scene_id")}))
    uris = {row["log_uri"] for row in rows if row.get("log_uri")}
    pieces = {piece.hex() for jpeg in all_pictures(location, ids) for piece in pieces_of(jpeg)}
    return ForgetWork(
        log_id=log_id,
        source=source,
        is_shared=len(known) > 1,
        log_uris=tuple(sorted(uri for uri in uris if not _is_of_others(location, uri, log_id, source))),
        scene_ids=ids,
        pieces=tuple(sorted(pieces)),
    )


def _rows_of(location: StoreLocation, name: str, log_id: str) -> Iterator[dict[str, Any]]:
    """Source, scene id and place, where a table has such columns, of a log's rows in every version of it.

    Rows that a version has deleted and still holds in its files are among them.
    """
    newest, looked_at = location.dataset(name), set[tuple[str, ...]]()
    columns = [column for column in ("source", "scene_id", "log_uri") if column in newest.schema.names]
    if "log_id" not in newest.schema.names or not columns:
        return
    for version in newest.versions():
        dataset = location.dataset(name, version["version"])
        fragments = [fragment for fragment in dataset.get_fragments() if _files(fragment) not in looked_at]
        looked_at.update(map(_files, fragments))
        yield from _held(dataset, fragments, f"log_id = {literal(log_id)}", columns).to_pylist()


def _held(
    dataset: lance.LanceDataset, fragments: Sequence[lance.LanceFragment], where: str, columns: Sequence[str]
) -> pa.Table:
    """Rows that lie in the files of fragments, deleted or not."""
    return dataset.scanner(
        columns=list(columns),
        filter=where,
        fragments=fragments,
        with_row_id=True,
        include_deleted_rows=True,
        # Neither an index nor reading a column later knows deleted rows.
        use_scalar_index=False,
        late_materialization=False,
    ).to_table()


def _files(fragment: lance.LanceFragment) -> tuple[str, ...]:
    return tuple(file.path for file in fragment.data_files())


def _is_of_others(location: StoreLocation, uri: str, log_id: str, source: str | None) -> bool:
    """Whether other logs lie at a place too, as those of a nuScenes root do."""
    is_other = f"log_id <> {literal(log_id)}" + (f" OR source <> {literal(source)}" if source else "")
    where = f"log_uri = {literal(uri)} AND ({is_other})"
    return any(location.dataset(name).count_rows(where) for name in (SCENES, LOGS) if location.has_table(name))


def forget_log(location: StoreLocation, work: ForgetWork, lease: Lease, is_proven: bool = True) -> ForgetReport:
    """Erase what was planned. Call with the lease held; one that was killed, or whose proof failed, is repeated.

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
        if is_proven:
            _prove(location, work, patterns, report)
        location.remove(WORK_NAME)
    except Exception as error:
        if not isinstance(error, (*storage_errors(), RuntimeError, ValueError)):
            raise
        raise StoreError(
            f"{location.uri}: forgetting was interrupted: {error}; nothing is proven yet, repeat the command"
        ) from error
    return report


def pieces_of(jpeg: bytes) -> Iterator[bytes]:
    """Parts of a picture by which it is known again wherever its bytes lie."""
    for k in range(_PIECES):
        end = len(jpeg) - 2 - k * (len(jpeg) // (4 * _PIECES))
        if end >= _PIECE_BYTES:
            yield jpeg[end - _PIECE_BYTES : end]


def _patterns(location: StoreLocation, work: ForgetWork) -> list[bytes]:
    is_told_apart = len(work.log_id) >= KEY_BYTES and not work.is_shared
    is_told_apart = is_told_apart and not any(work.log_id in name for name in _kept_names(location, work))
    return [
        *(scene_id.encode() for scene_id in work.scene_ids),
        *(bytes.fromhex(piece) for piece in work.pieces),
        *([work.log_id.encode()] if is_told_apart else []),
    ]


def _kept_names(location: StoreLocation, work: ForgetWork) -> Iterator[str]:
    """Ids and places of the logs that stay, and what is told of their faults."""
    for name in table_names(location):
        dataset = location.dataset(name)
        columns = [column for column in ("log_id", "log_uri", "uri", "message") if column in dataset.schema.names]
        if "log_id" in columns:
            where = " AND ".join(f"({gone}) IS NOT TRUE" for gone in _where_log(dataset, work))
            for batch in dataset.scanner(columns=columns, filter=where).to_batches():
                for column in batch.columns:
                    yield from filter(None, column.unique().to_pylist())


def _where(dataset: lance.LanceDataset, work: ForgetWork) -> list[str]:
    """Conditions that together name the log's rows of a table, in parts that a parser takes."""
    ids = work.scene_ids if "scene_id" in dataset.schema.names else ()
    return [*_where_log(dataset, work), *_where_in("scene_id", ids)]


def _where_log(dataset: lance.LanceDataset, work: ForgetWork) -> Iterator[str]:
    names = dataset.schema.names
    if "log_id" in names:
        by_source = f" AND source = {literal(work.source)}" if work.source and "source" in names else ""
        yield f"log_id = {literal(work.log_id)}{by_source}"
    if "quarantine_id" in names:
        yield from _where_in("quarantine_id", _named_faults(dataset, work))


def _where_in(column: str, values: Sequence[str]) -> Iterator[str]:
    for start in range(0, len(values), _IDS_AT_ONCE):
        yield f"{column} IN ({', '.join(map(literal, values[start : start + _IDS_AT_ONCE]))})"


def _named_faults(dataset: lance.LanceDataset, work: ForgetWork) -> list[str]:
    """Faults of logs that could not even be listed: they have no id of a log, and tell where it lies."""
    mention = _mention(work.names)
    columns = ["quarantine_id", "uri", "message"]
    rows = dataset.to_table(columns=columns, filter="log_id IS NULL").to_pylist()
    return [
        row["quarantine_id"]
        for row in rows
        if row["uri"] in work.log_uris or mention.search(f"{row['uri']} {row['message']}".encode())
    ]


def _remove_tags(location: StoreLocation, work: ForgetWork, report: ForgetReport) -> None:
    """Of every version in whose files the log lies, even as rows that it has deleted."""
    for name in table_names(location):
        newest, holds = location.dataset(name), dict[tuple[str, ...], bool]()
        for tag in list(newest.tags.list()):
            version = newest.checkout_version(tag)
            wheres = list(_where_log(version, work)) or _where(version, work)
            for fragment in version.get_fragments():
                if (files := _files(fragment)) not in holds:
                    holds[files] = any(len(_held(version, [fragment], where, [])) for where in wheres)
            if any(holds[_files(fragment)] for fragment in version.get_fragments()):
                newest.tags.delete(tag)
                report.tags_removed.append(tag)


def _erase_rows(location: StoreLocation, name: str, work: ForgetWork, report: ForgetReport) -> None:
    """Delete, then write what is left of the fragments anew; indices that know the rows are dropped."""
    dataset = location.dataset(name)
    wheres = _where(dataset, work)
    if name in (PICTURES, DETECTIONS):
        wheres += _where_in("scene_id", _orphans(location, dataset))
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
        for where in _where_in("scene_id", sorted(left)):
            left -= set(version.to_table(columns=["scene_id"], filter=where)["scene_id"].to_pylist())
    return sorted(left)


def _change_records(location: StoreLocation, work: ForgetWork, report: ForgetReport) -> None:
    """Runs and sets that name the log."""
    for run in read_runs(location):
        told = _without(run.report, work.names)
        if told != run.report:
            write_run(location, RunRecord(**{**vars(run), "report": told}))
            report.runs_changed += 1
    gone = set(work.scene_ids)
    for saved in list_sets(location):
        kept = tuple(scene_id for scene_id in saved.scene_ids if scene_id not in gone)
        is_named = _mention(work.names).search(json.dumps(saved.search).encode()) is not None
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
    """Finds a name as a word of its own, or as a file's name before its suffix: log 1 is meant by 1.mcap and not by 12,
    0.1, 1.5 or 1a.
    """
    found = "|".join(re.escape(name) for name in names)
    return re.compile(rf"(?<![\w.-])(?:{found})(?:\.[A-Za-z]\w{{1,6}}){{0,2}}(?![\w-]|\.\w)".encode())


def _remove_reports(location: StoreLocation, work: ForgetWork, report: ForgetReport) -> None:
    """Pages and records beside the tables that show the log; they can be written again."""
    mention = _mention(work.names)
    fs, root = location.filesystem()
    for path in fs.find(root):
        below = str(path)[len(root) :].lstrip("/")
        if ".lance/" in below or below in (WORK_NAME, MARKER) or below.startswith((f"{LEASE_FOLDER}/", "sets/")):
            continue
        if below.endswith(".parquet"):
            # Its pages are packed, so that no name need be seen in its bytes.
            report.rows[below] = _rewrite_parquet(fs, str(path), work)
            continue
        if mention.search(fs.cat_file(path)):
            fs.rm_file(path)
            report.reports_removed.append(below)


def _rewrite_parquet(fs: AbstractFileSystem, path: str, work: ForgetWork) -> int:
    """Write a table again without the rows that hold a scene's id or the log's; returns how many they were.

    Where another source has a log of that id, the row's source counts too.
    """
    with fs.open(path, "rb") as file:
        table = pq.read_table(file)
    gone = np.zeros(len(table), bool)
    names = work.scene_ids if work.is_shared else (work.log_id, *work.scene_ids)
    for column in table.columns:
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            gone |= _is_one_of(column, names)
    if work.is_shared and {"log_id", "source"} <= set(table.column_names):
        gone |= _is_one_of(table["log_id"], [work.log_id]) & _is_one_of(table["source"], [str(work.source)])
    if gone.any():
        buffer = io.BytesIO()
        pq.write_table(table.filter(pa.array(~gone)), buffer)
        fs.pipe_file(path, buffer.getvalue())
    return int(gone.sum())


def _is_one_of(column: pa.ChunkedArray, values: Sequence[str]) -> NDArray[np.bool_]:
    known = pc.is_in(column, value_set=pa.array(values, column.type))
    return known.to_numpy(zero_copy_only=False).astype(bool)


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
        raise ReconcileError(
            f"{location.uri}: {report.bytes_found_after} bytes of the log are left, in {where}; see why they name it, "
            "then repeat the command"
        )


def _raw_hits(location: StoreLocation, patterns: Sequence[bytes]) -> dict[bytes, str]:
    """Patterns that lie in some file, and one such file of each; what is written down to be done does not count."""
    fs, root = location.filesystem()
    hits = scan(fs, root, patterns)
    return {pattern: path for path, found in hits.items() if not path.endswith(f"/{WORK_NAME}") for pattern in found}
