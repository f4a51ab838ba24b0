"""Saved sets of scenes: one small JSON file each, below the store's root."""

from __future__ import annotations

import re
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pydantic import ValidationError

from system.config import FrozenConfig
from system.errors import ConfigError, DamagedError, StoreError, storage_errors
from system.store.location import StoreLocation

FOLDER = "sets"
# Sets read at a time: an object store takes tens of milliseconds for each.
_READERS = 16
_ID = re.compile(r"[0-9a-f]{16}")


class SavedSet(FrozenConfig):
    """Scenes that somebody kept.

    created_by: name of the token. model_id, version: of the table's rows, as they were when it was saved.
    search: what found them, for the record.
    """

    set_id: str
    name: str
    note: str = ""
    created_ns: int
    created_by: str
    model_id: str
    version: int
    scene_ids: tuple[str, ...]
    search: dict[str, Any] | None = None


def is_set_id(text: str) -> bool:
    """16 hexadecimal digits."""
    return _ID.fullmatch(text) is not None


def save_set(location: StoreLocation, values: dict[str, Any]) -> SavedSet:
    """Write a new set; its id and time are made here.

    Raises:
        StoreError: the store cannot be written.
    """
    saved = SavedSet(set_id=secrets.token_hex(8), created_ns=time.time_ns(), **values)
    location.write_text(f"{FOLDER}/{saved.set_id}.json", saved.model_dump_json())
    return saved


def replace_set(location: StoreLocation, saved: SavedSet) -> None:
    """Write a set again under its id.

    Raises:
        StoreError: the store cannot be written.
    """
    location.write_text(f"{FOLDER}/{_checked(saved.set_id)}.json", saved.model_dump_json())


def read_set(location: StoreLocation, set_id: str) -> SavedSet:
    """
    Raises:
        ConfigError: there is none of this id. DamagedError: its file is damaged. StoreError: the store cannot be read.
    """
    text = location.read_text(f"{FOLDER}/{_checked(set_id)}.json")
    if text is None:
        raise ConfigError(f"no set {set_id!r}")
    try:
        return SavedSet.model_validate_json(text)
    except ValidationError as error:
        told = f"{location.uri}/{FOLDER}/{set_id}.json is damaged: {error.error_count()} faults"
        raise DamagedError(told) from error


def set_ids(location: StoreLocation) -> list[str]:
    """Ids of all sets, in no order; none is read, so a damaged one is among them.

    Raises:
        StoreError: the store cannot be listed.
    """
    fs, root = location.filesystem()
    try:
        names = [str(path).rsplit("/", 1)[-1] for path in fs.ls(f"{root}/{FOLDER}", detail=False)]
    except FileNotFoundError:
        return []
    except storage_errors() as error:
        raise StoreError(f"{location.uri}: cannot list its sets: {error}") from error
    ids = [name.removesuffix(".json") for name in names if name.endswith(".json")]
    return [set_id for set_id in ids if is_set_id(set_id)]


def list_sets(location: StoreLocation) -> list[SavedSet]:
    """All sets, newest first; a damaged one is left out.

    Raises:
        StoreError: the store cannot be listed, or a set not be read.
    """

    def read(set_id: str) -> SavedSet | None:
        try:
            return read_set(location, set_id)
        except (ConfigError, DamagedError):  # removed meanwhile, or damaged
            return None

    with ThreadPoolExecutor(_READERS) as pool:
        found = [saved for saved in pool.map(read, set_ids(location)) if saved is not None]
    return sorted(found, key=lambda saved: (-saved.created_ns, saved.set_id))


def remove_set(location: StoreLocation, set_id: str) -> None:
    """
    Raises:
        ConfigError: there is none of this id. StoreError: the store cannot be written.
    """
    fs, root = location.filesystem()
    try:
        fs.rm_file(f"{root}/{FOLDER}/{_checked(set_id)}.json")
    except FileNotFoundError as error:
        raise ConfigError(f"no set {set_id!r}") from error
    except storage_errors() as error:
        raise StoreError(f"{location.uri}: cannot remove set {set_id}: {error}") from error


def _checked(set_id: str) -> str:
    """An id is a file name, so it is nothing but hexadecimal digits."""
    if not is_set_id(set_id):
        raise ConfigError(f"no set {set_id!r}")
    return set_id
