"""Folders that take their name when all is in them: nobody sees half a result, and none is overwritten."""

from __future__ import annotations

import shutil
from pathlib import Path

from system.errors import ConfigError


def refuse_existing(out: Path) -> None:
    """Raises ConfigError: there is something at `out` already, or it is no folder of this machine."""
    if ":/" in str(out):
        raise ConfigError(f"--out {out}: expected a folder; results of this job are not written to object stores")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out}: exists already and is never overwritten; choose another folder")


def unpublished(out: Path) -> Path:
    """A new, empty folder beside `out`, in which a result is put together before anybody sees it.

    Raises:
        ConfigError: it cannot be made.
    """
    folder = out.with_name(f".{out.name}.unpublished")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written: {error.strerror}") from error
    return folder


def publish(folder: Path, out: Path) -> None:
    """Make a finished folder visible at once, whole.

    Raises:
        ConfigError: it cannot take its name.
    """
    try:
        if out.is_dir():
            out.rmdir()
        folder.rename(out)
    except OSError as error:
        raise ConfigError(
            f"--out {out}: cannot be written: {error.strerror}; what was made lies in {folder}"
        ) from error
