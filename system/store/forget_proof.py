"""Look for a log that was forgotten: in all rows that are left, and in every byte of every file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from system.store.byte_scan import KEY_BYTES, scan
from system.store.forget_plan import WORK_NAME, ForgetWork, where_log, where_rows
from system.store.location import StoreLocation
from system.store.pictures import all_pictures
from system.store.tables import table_names


def patterns_of(location: StoreLocation, work: ForgetWork) -> list[bytes]:
    """Bytes that only this log has: scenes' ids, pieces of pictures, its own id where no name that stays holds it."""
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
            where = " AND ".join(f"({gone}) IS NOT TRUE" for gone in where_log(dataset, work))
            for batch in dataset.scanner(columns=columns, filter=where).to_batches():
                for column in batch.columns:
                    yield from filter(None, column.unique().to_pylist())


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
    """Patterns that lie in some file, and one such file of each; what is written down to be done does not count."""
    fs, root = location.filesystem()
    hits = scan(fs, root, patterns)
    return {pattern: path for path, found in hits.items() if not path.endswith(f"/{WORK_NAME}") for pattern in found}
