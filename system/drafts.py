"""Folders that appear whole or not at all: filled beside their place, then renamed."""

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


def new_draft(out: Path) -> Path:
    """A new, empty folder beside `out`, which takes its name when all is in it. What an earlier try left is removed.

    Raises:
        ConfigError: it cannot be made.
    """
    draft = out.with_name(f".{out.name}.unfinished")
    try:
        if draft.exists():
            shutil.rmtree(draft)
        draft.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written: {error.strerror}") from error
    return draft


def discard_draft(draft: Path) -> None:
    """Remove a folder that is not to be finished; what cannot be removed is removed by the next `new_draft`."""
    shutil.rmtree(draft, ignore_errors=True)


def publish_draft(draft: Path, out: Path, overwrite: bool = False) -> None:
    """Make a finished folder visible at once, whole; with `overwrite` in the place of an older one.

    Raises:
        ConfigError: it cannot be renamed; the finished folder stays where it is.
    """
    old = out.with_name(f".{out.name}.replaced")
    try:
        shutil.rmtree(old, ignore_errors=True)
        if out.is_dir() and not any(out.iterdir()):
            out.rmdir()
        elif overwrite and out.is_dir():
            out.rename(old)
        draft.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        if old.exists() and not out.exists():
            old.rename(out)
        raise ConfigError(f"--out {out}: cannot be written: {error.strerror}; all of it lies in {draft}") from error
