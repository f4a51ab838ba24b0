"""Pictures with a table that says what each one shows: a folder with a frames.csv, or a CSV file of any name.

    path (from the table's folder, or from its parent where it starts with the folder's name), dataset, sequence,
    width, height, tags (separated by ";"), camera: all but the path may be missing

Each picture is a log of its own at time 0, so that its tags are its own.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from functools import lru_cache

from system.errors import DataError
from system.logs import files
from system.logs.names import modality_of, place_digest
from system.logs.reader import BadLog
from system.records import NO_AGENTS, NO_EGO, TIME_ASSUMED, DrivingLog, Frame, LogRef

TABLE = "frames.csv"
MAX_TABLE_BYTES = 256 * 1024**2


class PictureListReader:
    """Reads the pictures that a table lists. A log's uri is the table, its id the path of its picture and
    a digest of where the table lies, because names like 0001.jpg repeat from table to table."""

    name = "picture_list"
    looks_for = f"{TABLE} in the folder, or a CSV file with a column 'path'"

    def recognise(self, uri: str) -> str | None:
        if uri.lower().endswith(".csv") and files.is_file(uri):
            return "it is a table of pictures" if "path" in _first_line(uri) else None
        return f"{TABLE} is there" if files.is_file(files.join(uri, TABLE)) else None

    def list_logs(self, uri: str) -> Iterator[LogRef | BadLog]:
        table = uri if uri.lower().endswith(".csv") else files.join(uri, TABLE)
        folder = files.parent(table)
        for path, row in _rows(table, files.stamp(table)).items():
            try:
                _picture_uri(table, path)
                source = row.get("dataset") or files.name(folder)
                yield LogRef(self.name, table, f"{path}@{place_digest(folder)}", source, 0, 0)
            except DataError as error:
                yield BadLog(f"{table} {path}", self.name, error.code, error.message)

    def read_log(self, ref: LogRef) -> DrivingLog:
        path = ref.log_id.rpartition("@")[0]
        row = _rows(ref.uri, files.stamp(ref.uri)).get(path)
        if row is None:
            raise DataError("missing_log", f"{ref.uri}: expected a row of {path!r}, found none")
        frame = Frame(
            camera=row.get("camera") or "camera",
            t_ns=0,
            uri=_picture_uri(ref.uri, path),
            width=_pixels(row, "width", ref),
            height=_pixels(row, "height", ref),
            modality=modality_of(path),
        )
        tags = tuple(tag.strip() for tag in (row.get("tags") or "").split(";") if tag.strip())
        flags = (NO_AGENTS, NO_EGO, TIME_ASSUMED)
        return DrivingLog(
            ref=ref,
            frames=(frame,),
            ego=None,
            agents=None,
            flags=flags,
            truth_tags=tags,
            group=row.get("sequence") or "",
        )


def _first_line(table: str) -> list[str]:
    """The names of the columns."""
    head = files.read_bytes(table, 0, 4096).decode("utf-8-sig", "replace").splitlines()
    return next(csv.reader(head[:1]), [])


@lru_cache(maxsize=2)
def _rows(table: str, _: str) -> dict[str, dict[str, str]]:
    """Rows of the table by path, in its order; of a path that is listed twice, the first."""
    raw = files.read_bytes(table, 0, MAX_TABLE_BYTES + 1)
    if len(raw) > MAX_TABLE_BYTES:
        raise DataError("too_large", f"{table}: expected at most {MAX_TABLE_BYTES} bytes")
    rows: dict[str, dict[str, str]] = {}
    try:
        reader = csv.DictReader(io.StringIO(raw.decode("utf-8-sig"), newline=""))
        if "path" not in (reader.fieldnames or ()):
            raise DataError("missing_column", f"{table}: expected column 'path', found {reader.fieldnames}")
        for row in reader:
            if row["path"]:
                rows.setdefault(row["path"], row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError("damaged_table", f"{table}: expected a CSV table: {error}") from error
    return rows


def _picture_uri(table: str, path: str) -> str:
    """Where a listed picture lies; never outside the table's folder."""
    folder = files.parent(table)
    return files.join(folder, path.removeprefix(f"{files.name(folder)}/"))


def _pixels(row: dict[str, str], column: str, ref: LogRef) -> int | None:
    value = row.get(column)
    if not value:
        return None
    if not value.isdecimal():
        raise DataError("damaged_table", f"{ref.uri} {ref.log_id}: expected {column} in pixels, found {value!r}")
    return int(value)
