"""Look for a log that was forgotten: in all rows that are left, and in every byte of every file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from system.store.byte_scan import KEY_BYTES, scan
from system.store.forget_plan import WORK_NAME, ForgetWork, where_log, where_rows
from system.store.forget_records import without_log
from system.store.lease import FOLDER as LEASE_FOLDER
from system.store.location import StoreLocation
from system.store.pictures import all_pictures
from system.store.runs import read_runs
from system.store.schema import PICTURES, RUNS
from system.store.tables import table_names


def patterns_of(location: StoreLocation, work: ForgetWork) -> list[bytes]:
    """Bytes that only this log has: scenes' ids, pieces of pictures, its own id where no text that stays holds it."""
    is_told_apart = len(work.log_id) >= KEY_BYTES and not work.is_shared
    is_told_apart = is_told_apart and not any(work.log_id in text for text in _kept_texts(location, work))
    return [
        *(scene_id.encode() for scene_id in work.scene_ids),
        *(bytes.fromhex(piece) for piece in work.pieces),
        *([work.log_id.encode()] if is_told_apart else []),
    ]


def _kept_texts(location: StoreLocation, work: ForgetWork) -> Iterator[str]:
    """Texts of the rows that stay, as they will be, and the names of columns: other logs, days, folders, tags."""
    for run in read_runs(location):
        yield json.dumps(without_log(run.report, work.names), ensure_ascii=False)
    for name in table_names(location):
        dataset = location.dataset(name)
        yield from dataset.schema.names
        # Reports of runs are told above, and pictures by rows of scenes.
        columns = [field.name for field in dataset.schema if _is_text(field.type) and name not in (RUNS, PICTURES)]
        where = " AND ".join(f"({gone}) IS NOT TRUE" for gone in where_log(dataset, work)) or None
        for batch in dataset.scanner(columns=columns, filter=where).to_batches() if columns else ():
            for column in batch.columns:
                texts = column.flatten() if pa.types.is_list(column.type) else column
                yield from texts.filter(pc.match_substring(texts, work.log_id)).slice(0, 1).to_pylist()


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or (pa.types.is_list(kind) and pa.types.is_string(kind.value_type))


def bytes_left(location: StoreLocation, work: ForgetWork, patterns: Sequence[bytes]) -> tuple[int, str]:
    """How many bytes of the log are left, and where some of them are."""
    found = 0
    for name in table_names(location):
        dataset = location.dataset(name)
        for version in (dataset, *(dataset.checkout_version(tag) for tag in dataset.tags.list())):
            rows = sum(version.count_rows(filter=where) for where in where_rows(version, work))
            found += rows * len(work.log_id)
    hits = raw_hits(location, patterns)
    if hits and (pieces := {bytes.fromhex(piece) for piece in work.pieces} & set(hits)):
        # The same piece may be of a picture that stays.
        for jpeg in all_pictures(location, None):
            for piece in [piece for piece in pieces if piece in jpeg]:
                pieces.discard(piece)
                del hits[piece]
    where = ", ".join(sorted(set(hits.values()))[:3]) or "rows of its tables"
    return found + sum(map(len, hits)), where


def raw_hits(location: StoreLocation, patterns: Sequence[bytes]) -> dict[bytes, str]:
    """Patterns that lie in some file, and one such file of each.

    What is written down to be done does not count, nor who holds the store: a run, which may be called as a night is.
    """
    fs, root = location.filesystem()
    hits = scan(fs, root, patterns)
    passed = (f"/{WORK_NAME}", f"/{LEASE_FOLDER}/")
    return {
        pattern: path
        for path, found in hits.items()
        if not any(part in path[len(root) :] for part in passed)
        for pattern in found
    }
