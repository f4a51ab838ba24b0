"""The folder of a study: files that are whole or not there, and the settings that all its runs have in common.

Settings are written once and held against every later call.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from system.errors import ConfigError

SETTINGS_NAME = "settings.json"
# What an error leaves of a study.
FINISHED_STAY = "finished runs stay, and the same command goes on after them"
# As of `partial_of`.
_PARTIAL = re.compile(rf"\..+\.{re.escape(platform.node())}-(\d+)(\.npz)?")


def refuse_other_settings(out: Path, settings: Mapping[str, Any], may_differ: Collection[str] = ()) -> dict[str, Any]:
    """Returns: the settings that a folder holds; a new folder's are those that are given.

    Args:
        may_differ: keys that the caller looks at itself.
    Raises:
        ConfigError: `out` cannot be read, or holds a study with other settings.
    """
    file = out / SETTINGS_NAME
    asked: dict[str, Any] = json.loads(json.dumps(settings))
    before = read_settings(file) if file.is_file() else asked
    refuse_differing(out, sorted(key for key in asked if key not in may_differ and before.get(key) != asked[key]))
    return before


def read_settings(file: Path) -> dict[str, Any]:
    """Raises ConfigError: it cannot be read."""
    try:
        held = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{file}: expected JSON: {error}; restore it, or begin in another folder") from error
    if not isinstance(held, dict):
        raise ConfigError(f"{file}: expected a JSON object; restore it, or begin in another folder")
    return held


def refuse_differing(out: Path, differing: Collection[str]) -> None:
    """Raises ConfigError: something differs."""
    if differing:
        raise ConfigError(f"{out}: holds a study with other settings ({', '.join(differing)}); choose another --out")


def write_settings(out: Path, settings: Mapping[str, Any]) -> None:
    """Raises ConfigError: `out` cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / SETTINGS_NAME, settings)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written: {error.strerror}") from error


def write_json(file: Path, values: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    partial = partial_of(file)
    partial.write_text(json.dumps(values, indent=1) + "\n", "utf-8")
    partial.replace(file)


def partial_of(file: Path, suffix: str = "") -> Path:
    """Where this process writes what becomes `file` once it is whole; numpy wants its own suffix at the end."""
    return file.with_name(f".{file.name}.{platform.node()}-{os.getpid()}{suffix}")


def remove_partials(*folders: Path) -> None:
    """Remove what killed processes of this machine left half written; for a driver before its first task.

    Those of processes that live stay: they may be of another study here.
    """
    for folder in folders:
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            found = _PARTIAL.fullmatch(file.name)
            if found and file.is_file() and not _is_alive(int(found[1])):
                file.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
