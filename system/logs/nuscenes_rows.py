"""Whole rows of nuScenes tables, every field as it is, for whoever writes a part of the tables elsewhere.

The reader (`system.logs.nuscenes`) decodes the fields that it needs; here rows stay bytes until they are asked for, so
that memory holds about the files themselves.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import msgspec

from system.errors import DataError
from system.logs import files

Row = dict[str, Any]


class NuScenesRows:
    """The tables of one folder; each is read when a row of it is first asked for."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._indexed: dict[tuple[str, str], dict[str, list[msgspec.Raw]]] = {}

    def has_table(self, table: str) -> bool:
        return files.is_file(self._path(table))

    def all(self, table: str) -> list[Row]:
        """Every row, of a small table.

        Raises:
            DataError: `damaged_json`, `missing_file`.
        """
        return self._decode(table, list[Row])

    def where(self, table: str, column: str, values: Iterable[str]) -> list[Row]:
        """Rows whose `column` is one of `values`, in the order of `values`; a value that no row has adds none.

        Raises:
            DataError: as `all`, and rows without that column.
        """
        index = self._index(table, column)
        return [msgspec.json.decode(row) for value in values for row in index.get(value, ())]

    def one(self, table: str, token: str) -> Row:
        """Raises DataError: `dangling_token`, or as `where`."""
        found = self.where(table, "token", [token])
        if not found:
            raise DataError("dangling_token", f"{self._path(table)}: token {token!r} names no row")
        return found[0]

    def _index(self, table: str, column: str) -> dict[str, list[msgspec.Raw]]:
        if (table, column) not in self._indexed:
            key = msgspec.defstruct("Key", [("value", str, msgspec.field(name=column))])
            rows = self._decode(table, list[msgspec.Raw])
            index: dict[str, list[msgspec.Raw]] = {}
            for found, row in zip(self._decode(table, list[key]), rows, strict=True):  # type: ignore[valid-type]
                index.setdefault(found.value, []).append(row)
            self._indexed[table, column] = index
        return self._indexed[table, column]

    def _decode(self, table: str, kind: Any) -> Any:
        try:
            return msgspec.json.decode(files.read_bytes(self._path(table)), type=kind)
        except msgspec.DecodeError as error:
            raise DataError("damaged_json", f"{self._path(table)}: expected a nuScenes table: {error}") from error

    def _path(self, table: str) -> str:
        return files.join(self.folder, f"{table}.json")


@lru_cache(maxsize=1)
def rows_of(folder: str) -> NuScenesRows:
    """The tables of a folder, remembered while scenes of the same folder follow each other."""
    return NuScenesRows(folder)
