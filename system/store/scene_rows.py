"""Whole rows of many scenes, by id, a few in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from system.errors import StoreError
from system.store.filters import SceneFilter
from system.store.location import StoreLocation
from system.store.search import scenes_version
from system.store.snapshot import Snapshot

_IDS_AT_ONCE, _ROWS_AT_ONCE = 1000, 64
PLACE_COLUMNS = ("scene_id", "source", "log_uri", "log_id", "t_start_ns", "run_id")


class SceneRows:
    """One version of the table of scenes, and one model's rows of it; what is committed meanwhile is not seen."""

    def __init__(
        self, location: StoreLocation, model_id: str, version_tag: str | None = None, version: int | None = None
    ) -> None:
        """
        Args:
            version: by its number, in place of the tag; the newest where it was removed.
        Raises:
            ConfigError: unknown tag. StoreError: there is no store.
        """
        dataset = scenes_version(location, version_tag) if version is None else Snapshot.kept(location, version).dataset
        self._dataset, self.model_id, self._uri = dataset, model_id, location.uri
        self.version = int(self._dataset.version)

    def places(self, scene_ids: Sequence[str]) -> Iterator[dict[str, Any]]:
        """PLACE_COLUMNS of the scenes, in any order; ids that are not there are left out."""
        for start in range(0, len(scene_ids), _IDS_AT_ONCE):
            yield from self._read(scene_ids[start : start + _IDS_AT_ONCE], list(PLACE_COLUMNS))

    def rows(self, scene_ids: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Whole rows, in the order of the ids, all of which are there."""
        for start in range(0, len(scene_ids), _ROWS_AT_ONCE):
            ids = scene_ids[start : start + _ROWS_AT_ONCE]
            found = {row["scene_id"]: row for row in self._read(ids, None)}
            yield from (found[scene_id] for scene_id in ids)

    def _read(self, scene_ids: Sequence[str], columns: list[str] | None) -> list[dict[str, Any]]:
        where = SceneFilter(scene_ids=tuple(scene_ids), model_id=self.model_id).to_sql()
        try:
            return self._dataset.to_table(columns=columns, filter=where).to_pylist()
        except (OSError, RuntimeError, ValueError) as error:
            raise StoreError(f"{self._uri}: cannot read {len(scene_ids)} scenes: {error}") from error
