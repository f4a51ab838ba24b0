"""Keep a store fast and small: indices, compaction, table tags, removal of orphans."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

import lance
from pydantic import Field

from system.config import FrozenConfig
from system.errors import LeaseError, StoreError
from system.store.detections import DETECTIONS
from system.store.kept_nights import untag_old_nights
from system.store.lease import Lease, current_holder
from system.store.location import StoreLocation
from system.store.nearest import read_vector_index
from system.store.schema import PICTURES, SCENES
from system.store.tables import table_names
from system.store.vector_index import VectorIndexConfig, refresh_vector_index

_COMPACT_FROM_FRAGMENTS = 64
# What Lance says when other commits came first.
_OVERTAKEN = ("conflict", "concurrent writers")


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


class MaintainConfig(FrozenConfig):
    """keep_days: versions that are younger stay, as do tagged ones. orphan_days: files that no version names stay so
    long, and never less than versions do, for a run that is alive may be about to commit them. keep_nights: of the
    versions of nights, those of so many newest stay tagged; None: all.
    """

    keep_days: float = Field(default=7.0, ge=0)
    orphan_days: float = Field(default=1.0, ge=0)
    keep_nights: int | None = Field(default=None, ge=1)


@dataclass
class MaintainReport:
    """bytes, fragments, versions: of all tables. unindexed_share: of the scenes, that a search compares one by one.

    tags_removed: of nights that are not kept.
    recall_at_10: of the vector index, as it was measured when it was brought up to date; None where there is none.
    held_by: who writes to the store; what nobody names is left alone then. conflicts: steps that a writer overtook and
    that the next call does.
    """

    bytes_before: int = 0
    bytes_after: int = 0
    fragments_before: int = 0
    fragments_after: int = 0
    versions_before: int = 0
    versions_after: int = 0
    tags: int = 0
    tags_removed: list[str] = field(default_factory=list)
    unindexed_share: float = 0.0
    recall_at_10: float | None = None
    held_by: str | None = None
    conflicts: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        return asdict(self)


def maintain_store(location: StoreLocation, config: MaintainConfig, run_id: str) -> MaintainReport:
    """Compact, bring indices up to date, remove old versions and orphans, while others read and one may write.

    Where a writer holds the store, only what it cannot miss is done: orphans stay, for they may be its own.

    Raises:
        StoreError: the store cannot be read or written.
    """
    with ExitStack() as stack:
        holder = None
        try:
            stack.enter_context(Lease(location, run_id))
        except LeaseError as error:
            holder = str(current_holder(location) or error)
        return maintain_held(location, config, holder)


def maintain_held(
    location: StoreLocation, config: MaintainConfig, holder: str | None = None, with_indices: bool = True
) -> MaintainReport:
    """As `maintain_store`, with the lease held by the caller, or by somebody else: `holder`.

    Args:
        with_indices: False where they were brought up to date a moment ago.
    """
    report = MaintainReport(held_by=holder)
    report.bytes_before, report.fragments_before, report.versions_before = _sizes(location)
    for name in table_names(location):
        if name != SCENES:  # its turn comes with its indices
            _attempt(report, f"compact {name}", partial(_compact, location, name))
    if with_indices:
        _attempt(report, "indices", partial(build_indices, location))
    if config.keep_nights is not None and holder is None:
        report.tags_removed = untag_old_nights(location, config.keep_nights)
    for name in table_names(location):
        _clean(location, name, config, report)
    report.bytes_after, report.fragments_after, report.versions_after = _sizes(location)
    dataset = location.dataset(SCENES)
    report.tags = len(dataset.tags.list())
    report.unindexed_share = unindexed_share(dataset)
    index = read_vector_index(dataset)
    report.recall_at_10 = None if index is None else index.recall_at_10
    return report


def unindexed_share(dataset: lance.LanceDataset) -> float:
    """Of the rows, that an index does not know yet; the largest over all indices, 0 where there are none."""
    rows = dataset.count_rows()
    if not rows:
        return 0.0
    shares = [
        dataset.stats.index_stats(index.name)["num_unindexed_rows"] / rows for index in dataset.describe_indices()
    ]
    return round(max(shares, default=0.0), 4)


def _attempt(report: MaintainReport, step: str, work: Callable[[], Any]) -> None:
    """A writer may overtake it; nothing is lost then, and the next call does it."""
    try:
        work()
    except (StoreError, OSError, RuntimeError, ValueError) as error:
        if report.held_by is None or not any(word in str(error).lower() for word in _OVERTAKEN):
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"{step}: {error}") from error
        report.conflicts.append(step)


def _clean(location: StoreLocation, name: str, config: MaintainConfig, report: MaintainReport) -> None:
    try:
        # Twice, since what is unverified may be of a run that is about to commit it, and so stays longer.
        dataset = location.dataset(name)
        dataset.cleanup_old_versions(older_than=timedelta(days=config.keep_days), error_if_tagged_old_versions=False)
        if report.held_by is None:
            older = timedelta(days=max(config.keep_days, config.orphan_days))
            dataset.cleanup_old_versions(older_than=older, delete_unverified=True, error_if_tagged_old_versions=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise StoreError(f"{location.uri}: cannot remove old versions of {name!r}: {error}") from error


def _sizes(location: StoreLocation) -> tuple[int, int, int]:
    """Bytes below the root; fragments and versions of all tables."""
    datasets = [location.dataset(name) for name in table_names(location)]
    fragments = sum(len(dataset.get_fragments()) for dataset in datasets)
    return _bytes(location), fragments, sum(len(dataset.versions()) for dataset in datasets)


def _bytes(location: StoreLocation) -> int:
    fs, root = location.filesystem()
    if not location.is_local:
        return sum(int(info["size"]) for info in fs.find(root, detail=True).values())
    found = 0
    for path in fs.find(root):
        # What a writer has just renamed is counted under its new name, or the next time.
        with suppress(FileNotFoundError):
            found += os.stat(path).st_size
    return found


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
        for name in table_names(location):
            stats = location.dataset(name).cleanup_old_versions(
                older_than=timedelta(days=older_than_days), delete_unverified=True, error_if_tagged_old_versions=False
            )
            freed += int(stats.bytes_removed)
    except (OSError, RuntimeError, ValueError) as error:
        raise StoreError(f"{location.uri}: cannot remove old versions: {error}") from error
    return freed
