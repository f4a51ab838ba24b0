"""What goes when a log is forgotten: its scenes, places and pictures, and how its rows are found in a table."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import lance
import pyarrow as pa

from system.config import FrozenConfig
from system.errors import ConfigError, StoreError
from system.store.filters import literal, literals
from system.store.location import StoreLocation
from system.store.log_versions import LOGS
from system.store.pictures import all_pictures
from system.store.schema import SCENES
from system.store.tables import table_names

WORK_NAME = "forgetting.json"
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
        fragments = [fragment for fragment in dataset.get_fragments() if data_files(fragment) not in looked_at]
        looked_at.update(map(data_files, fragments))
        yield from held_rows(dataset, fragments, f"log_id = {literal(log_id)}", columns).to_pylist()


def held_rows(
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


def data_files(fragment: lance.LanceFragment) -> tuple[str, ...]:
    """By which the same rows are known again in another version."""
    return tuple(file.path for file in fragment.data_files())


def _is_of_others(location: StoreLocation, uri: str, log_id: str, source: str | None) -> bool:
    """Whether other logs lie at a place too, as those of a nuScenes root do."""
    is_other = f"log_id <> {literal(log_id)}" + (f" OR source <> {literal(source)}" if source else "")
    where = f"log_uri = {literal(uri)} AND ({is_other})"
    return any(location.dataset(name).count_rows(where) for name in (SCENES, LOGS) if location.has_table(name))


def pieces_of(jpeg: bytes) -> Iterator[bytes]:
    """Parts of a picture by which it is known again wherever its bytes lie."""
    for k in range(_PIECES):
        end = len(jpeg) - 2 - k * (len(jpeg) // (4 * _PIECES))
        if end >= _PIECE_BYTES:
            yield jpeg[end - _PIECE_BYTES : end]


def where_rows(dataset: lance.LanceDataset, work: ForgetWork) -> list[str]:
    """Conditions that together name the log's rows of a table, in parts that a parser takes."""
    ids = work.scene_ids if "scene_id" in dataset.schema.names else ()
    return [*where_log(dataset, work), *where_in("scene_id", ids)]


def where_log(dataset: lance.LanceDataset, work: ForgetWork) -> Iterator[str]:
    """Those conditions that need no scene's id."""
    names = dataset.schema.names
    if "log_id" in names:
        by_source = f" AND source = {literal(work.source)}" if work.source and "source" in names else ""
        yield f"log_id = {literal(work.log_id)}{by_source}"
    if "quarantine_id" in names:
        yield from where_in("quarantine_id", _named_faults(dataset, work))


def where_in(column: str, values: Sequence[str]) -> Iterator[str]:
    """Conditions that together name the rows with one of these values."""
    for start in range(0, len(values), _IDS_AT_ONCE):
        yield f"{column} IN ({literals(values[start : start + _IDS_AT_ONCE])})"


def _named_faults(dataset: lance.LanceDataset, work: ForgetWork) -> list[str]:
    """Faults of logs that could not even be listed: they have no id of a log, and tell where it lies."""
    named = mention(work.names)
    columns = ["quarantine_id", "uri", "message"]
    rows = dataset.to_table(columns=columns, filter="log_id IS NULL").to_pylist()
    return [
        row["quarantine_id"]
        for row in rows
        if row["uri"] in work.log_uris or named.search(f"{row['uri']} {row['message']}".encode())
    ]


@lru_cache(maxsize=2)
def mention(names: tuple[str, ...]) -> re.Pattern[bytes]:
    """Finds a name as a word of its own, or as a file's name before its suffix: log 1 is meant by 1.mcap and not by 12,
    0.1, 1.5 or 1a.
    """
    found = "|".join(re.escape(name) for name in names)
    return re.compile(rf"(?<![\w.-])(?:{found})(?:\.[A-Za-z]\w{{1,6}}){{0,2}}(?![\w-]|\.\w)".encode())
