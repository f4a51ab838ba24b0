"""Which scenes a query or a saved set means, by id."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic import Field

from system.config import FrozenConfig
from system.errors import ConfigError, DataError
from system.logs import files
from system.pipelines.search import search_store
from system.store.detections import Detected, among_detected
from system.store.filters import SceneFilter
from system.store.location import StoreLocation
from system.store.search import SearchConfig, hardest_scene_ids, searched_model, tag_names
from system.store.sets import SavedSet, is_set_id, list_sets, read_set

_SCENE_ID = re.compile(r"[0-9a-f]{32}")
# Of what a search by likeness finds, where nobody says how many: everything is a little alike.
_LIKE_TOP = 100
_SETS_TOLD = 5


class SceneQuery(FrozenConfig):
    """A search, or a set (`scene_set`): the id of one saved in the store, or a file of scene ids.

    detected, detector: as of `search_store`. top: at most so many; None: all that pass the filters, of a search by
    text, image or scene the first 100.
    """

    where: SceneFilter = SceneFilter()
    text: str | None = None
    image: str | None = None
    scene: str | None = None
    scene_set: str | None = None
    detected: tuple[Detected, ...] = ()
    detector: str | None = None
    top: int | None = Field(default=None, ge=1)
    hardness_weight: float = Field(default=0.0, ge=0, le=1)
    version: str | None = None

    def told(self) -> dict[str, Any]:
        """What was asked, for a provenance: without what was not."""
        return self.model_dump(mode="json", exclude_defaults=True)


def select_scenes(store: str, query: SceneQuery) -> list[str]:
    """Scene ids, best first, or in the order of the set.

    Raises:
        ConfigError: a set beside a search, a set that holds no ids, or as `search_store`.
    """
    if query.scene_set is not None:
        if query.told().keys() - {"scene_set", "version"}:
            raise ConfigError("--set names the scenes; leave out the options of a search")
        return saved_or_listed(StoreLocation.parse(store), query.scene_set)
    if query.text is not None or query.image is not None or query.scene is not None:
        config = SearchConfig.parse(
            {"top": query.top or _LIKE_TOP, "hardness_weight": query.hardness_weight}, "options"
        )
        asked = (query.text, query.image, query.scene, query.version, query.detected, query.detector)
        found = search_store(store, query.where, config, *asked)
        return [row["scene_id"] for row in found]
    location = StoreLocation.parse(store)
    query.where.check_tags(tag_names(location))
    model_id = query.where.model_id or searched_model(location, query.version)["model_id"]
    where = query.where.model_copy(update={"model_id": model_id})
    narrowed = among_detected(location, where, query.detected, query.detector)
    return [] if narrowed is None else hardest_scene_ids(location, narrowed, query.top, query.version)


def saved_or_listed(location: StoreLocation, name: str) -> list[str]:
    """Scene ids of a set that was saved in the store, or of a file, which comes first.

    Raises:
        ConfigError: neither is there, or as `read_scene_set`.
    """
    saved = _saved_set(location, name)
    return read_scene_set(name) if saved is None else list(saved.scene_ids)


def rows_of_set(store: str, query: SceneQuery) -> dict[str, Any]:
    """Whose rows, of which version, a saved set means: `model_id` and `table_version` of an `ExportConfig`.

    Of a search, a file, or where a version is asked for: nothing.

    Raises:
        ConfigError: there is no such set.
    """
    if query.scene_set is None or query.version is not None:
        return {}
    saved = _saved_set(StoreLocation.parse(store), query.scene_set)
    return {} if saved is None else {"model_id": saved.model_id, "table_version": saved.version}


def _saved_set(location: StoreLocation, name: str) -> SavedSet | None:
    """None of what is the name of a file."""
    if not is_set_id(name) or Path(name).exists():
        return None
    try:
        return read_set(location, name)
    except ConfigError as error:
        known = ", ".join(f"{saved.set_id} ({saved.name})" for saved in list_sets(location)[:_SETS_TOLD])
        told = f"expected a file, or a set saved in {location.uri}: {known or 'it holds none'}"
        raise ConfigError(f"--set {name}: {told}") from error


def read_scene_set(uri: str) -> list[str]:
    """Scene ids of a file: one a line, or JSON: a list, or an object with `scene_ids` or a search's `results`.

    Raises:
        ConfigError: the file is not there, or something in it is no scene id.
    """
    try:
        text = files.read_bytes(files.absolute(uri)).decode()
    except (DataError, UnicodeDecodeError) as error:
        raise ConfigError(f"--set {uri}: expected a text file of scene ids: {error}") from error
    ids = _from_json(text) if text.lstrip().startswith(("{", "[")) else text.split()
    for number, scene_id in enumerate(ids, start=1):
        if not isinstance(scene_id, str) or not _SCENE_ID.fullmatch(scene_id):
            told = f"number {number} is {str(scene_id)[:60]!r}, expected 32 hexadecimal digits"
            raise ConfigError(f"--set {uri}: {told}; jobs/search_scenes.py prints ids")
    if not ids:
        raise ConfigError(f"--set {uri}: expected scene ids, found none")
    return ids


def _from_json(text: str) -> list[Any]:
    try:
        told = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--set: expected a JSON list or object of scene ids: {error}") from error
    if isinstance(told, dict):
        told = told.get("scene_ids", told.get("results"))
    if not isinstance(told, list):
        raise ConfigError('--set: expected a JSON list, {"scene_ids": [...]} or {"results": [{"scene_id": ...}]}')
    return [row.get("scene_id") if isinstance(row, dict) else row for row in told]
