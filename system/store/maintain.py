"""Keep a store fast and small: indices, compaction, table tags, removal of orphans."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from system.errors import StoreError
from system.store.detections import DETECTIONS
from system.store.location import StoreLocation
from system.store.schema import PICTURES, QUARANTINE, RUNS, SCENES
from system.store.vector_index import VectorIndexConfig, refresh_vector_index

_COMPACT_FROM_FRAGMENTS = 64


def build_indices(location: StoreLocation, vector: VectorIndexConfig | None = None) -> int:
    """Compact small fragments and bring every index up to date; returns the table's version. Call with the lease held.

    Each column that a filter names has an index, which also counts what passes before a search by vector; pictures are
    found by their scene.

    Raises:
        StoreError: the disk is full or the store is read-only.
    """
    from lancedb.index import Bitmap, BTree, LabelList

    of_scenes: dict[str, Any] = {
        "scene_id": BTree(),
        "risk": BTree(),
        "hardness": BTree(),
        "min_ttc_s": BTree(),
        "t_start_ns": BTree(),
        "t_end_ns": BTree(),
        "tags": LabelList(),
        "cameras": LabelList(),
        "log_id": Bitmap(),
        "source": Bitmap(),
        "model_id": Bitmap(),
        "num_pictures": Bitmap(),
    }
    try:
        _compact(location, SCENES)
        for name, indices in ((SCENES, of_scenes), (PICTURES, {"scene_id": BTree()})):
            table = location.connect().open_table(name)
            if table.count_rows():
                for column, config in indices.items():
                    table.create_index(column, config=config, replace=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise StoreError(f"{location.uri}: cannot build the indices: {error}") from error
    refresh_vector_index(location, vector)
    return int(location.dataset(SCENES).version)


def tidy_detections(location: StoreLocation) -> None:
    """Compact small fragments of the detections, of which a long run leaves thousands. Call with the lease held.

    Raises:
        StoreError: the disk is full or the store is read-only.
    """
    try:
        _compact(location, DETECTIONS)
    except (OSError, RuntimeError, ValueError) as error:
        raise StoreError(f"{location.uri}: cannot compact {DETECTIONS!r}: {error}") from error


def _compact(location: StoreLocation, table: str) -> None:
    if len(location.dataset(table).get_fragments()) >= _COMPACT_FROM_FRAGMENTS:
        location.dataset(table).optimize.compact_files()


def tag_version(location: StoreLocation, tag: str) -> int:
    """Name the newest version of the scenes, so that today's answers can be asked for again; returns the version.

    Raises:
        StoreError: the store cannot be written.
    """
    try:
        dataset = location.dataset(SCENES)
        if tag in dataset.tags.list():
            dataset.tags.update(tag, dataset.version)
        else:
            dataset.tags.create(tag, dataset.version)
        return int(dataset.version)
    except (OSError, RuntimeError, ValueError) as error:
        raise StoreError(f"{location.uri}: cannot tag the version {tag!r}: {error}") from error


def remove_orphans(location: StoreLocation, older_than_days: float) -> int:
    """Remove untagged old versions and files that no version names; returns bytes freed.

    Call only with the lease held: the fragments of a run that is alive look like orphans.

    Raises:
        StoreError: the store cannot be written.
    """
    freed = 0
    try:
        detections = (DETECTIONS,) if location.has_table(DETECTIONS) else ()
        for name in (SCENES, PICTURES, QUARANTINE, RUNS, *detections):
            stats = location.dataset(name).cleanup_old_versions(
                older_than=timedelta(days=older_than_days), delete_unverified=True, error_if_tagged_old_versions=False
            )
            freed += int(stats.bytes_removed)
    except (OSError, RuntimeError, ValueError) as error:
        raise StoreError(f"{location.uri}: cannot remove old versions: {error}") from error
    return freed
