"""One JSON object with several long arrays, written as their rows come: memory holds no rows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class JsonArrays:
    """Rows go to a file for each array; `close` joins them to {head..., "name": [...], ...}."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self._path = path
        self._parts = {name: path.with_name(f".{path.name}.{name}") for name in names}
        self._files = {name: part.open("w", encoding="utf-8") for name, part in self._parts.items()}
        self.counts = dict.fromkeys(names, 0)

    def add(self, name: str, row: Mapping[str, Any]) -> None:
        """Raises ValueError: a number that JSON does not have."""
        file = self._files[name]
        file.write((",\n" if self.counts[name] else "") + json.dumps(row, allow_nan=False))
        self.counts[name] += 1

    def abandon(self) -> None:
        """Close what is open; nothing is joined."""
        for file in self._files.values():
            file.close()

    def close(self, head: Mapping[str, Any]) -> None:
        self.abandon()
        with self._path.open("w", encoding="utf-8") as whole:
            whole.write(json.dumps(head, allow_nan=False)[:-1])
            for number, (name, part) in enumerate(self._parts.items()):
                whole.write(f"{', ' if head or number else ''}{json.dumps(name)}: [\n")
                with part.open(encoding="utf-8") as rows:
                    shutil.copyfileobj(rows, whole, 1 << 20)
                whole.write("\n]")
                part.unlink()
            whole.write("}\n")


class JsonList:
    """A file that is one JSON array, as nuScenes' tables are; rows are written as they come."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")
        self.count = 0

    def add(self, row: Any) -> None:
        self._file.write(("[\n" if not self.count else ",\n") + json.dumps(row, allow_nan=False))
        self.count += 1

    def abandon(self) -> None:
        self._file.close()

    def close(self) -> None:
        self._file.write("[]\n" if not self.count else "\n]\n")
        self._file.close()
