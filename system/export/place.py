"""Where an export goes: a local folder that appears whole, or an object store, whose last object is export.json."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem

from system.drafts import new_draft, publish_draft
from system.errors import ConfigError, DataError, storage_errors
from system.logs import files

SUMMARY_NAME = "export.json"


class ExportPlace:
    """A draft folder on this machine; `publish` brings it to its place, `discard` removes it."""

    def __init__(self, out: str, overwrite: bool) -> None:
        """Raises ConfigError: something is there and may not be replaced, or nothing can be written."""
        if not out.strip():
            raise ConfigError("--out is empty; expected a folder or an object-store URI")
        self.out, self._overwrite = out, overwrite
        self._remote: tuple[AbstractFileSystem, str] | None = None
        if "://" in out:
            self._remote = _filesystem(out)
            self._refuse(self._is_used(), self._read_summary())
            self.draft = Path(tempfile.mkdtemp(prefix="nightminer-export-"))
            return
        self._path = Path(files.absolute(out))
        try:
            is_used = self._path.exists() and (not self._path.is_dir() or any(self._path.iterdir()))
        except OSError as error:
            raise ConfigError(f"--out {out}: cannot be written: {error.strerror}") from error
        self._refuse(is_used, self._read_summary())
        self.draft = new_draft(self._path)

    def publish(self, summary: dict[str, Any]) -> None:
        """Write export.json and let everybody see the export.

        Raises:
            ConfigError: the place cannot be written.
        """
        (self.draft / SUMMARY_NAME).write_text(json.dumps(summary, indent=1) + "\n", "utf-8")
        if self._remote is None:
            publish_draft(self.draft, self._path, self._overwrite)
            return
        fs, root = self._remote
        try:
            if self._is_used():
                # First what says that the old export is whole.
                fs.rm_file(f"{root}/{SUMMARY_NAME}")
                fs.rm(root, recursive=True)
            paths = sorted(path for path in self.draft.rglob("*") if path.is_file())
            for path in sorted(paths, key=lambda path: path.name == SUMMARY_NAME and path.parent == self.draft):
                fs.put_file(str(path), f"{root}/{path.relative_to(self.draft).as_posix()}")
        except storage_errors() as error:
            told = f"--out {self.out}: cannot be written: {error}; all of it lies in {self.draft}"
            raise ConfigError(told) from error
        self.discard()

    def discard(self) -> None:
        """Remove the draft; what was exported before stays."""
        shutil.rmtree(self.draft, ignore_errors=True)

    def _refuse(self, is_used: bool, summary: str | None) -> None:
        if not is_used:
            return
        if not self._overwrite:
            raise ConfigError(f"--out {self.out}: holds something already; choose another, or --overwrite an export")
        # A mistyped --out must not cost a home folder.
        if summary is None or '"nightminer_export"' not in summary:
            raise ConfigError(
                f"--out {self.out}: --overwrite replaces exports alone, and this has no {SUMMARY_NAME} of one; remove "
                "it yourself, or choose another"
            )

    def _is_used(self) -> bool:
        assert self._remote is not None
        fs, root = self._remote
        try:
            fs.invalidate_cache()
            return bool(fs.exists(root) and fs.ls(root))
        except storage_errors() as error:
            raise ConfigError(f"--out {self.out}: cannot be reached: {error}") from error

    def _read_summary(self) -> str | None:
        try:
            if self._remote is not None:
                return self._remote[0].cat_file(f"{self._remote[1]}/{SUMMARY_NAME}").decode()
            return (self._path / SUMMARY_NAME).read_text("utf-8")
        except storage_errors():
            return None


def _filesystem(out: str) -> tuple[AbstractFileSystem, str]:
    try:
        fs, path = files.filesystem(out.rstrip("/"))
    except DataError as error:
        raise ConfigError(f"--out {out}: {error.message}") from error
    return fs, path
