"""The vector index of a store: built where it pays, measured against exact search, remembered with its table.

It is an IVF with 8-bit scalar quantisation (IVF_SQ). Of what Lance offers it answered soonest at equal recall: product
quantisation and RaBitQ must compare five to ten times as many rows by their full vectors, and fetching these takes
most of a query; product quantisation takes many times as long to build. A row costs a quarter of its vector.
"""

from __future__ import annotations

import json
import math
import time

import lance
from pydantic import Field

from system.config import FrozenConfig
from system.errors import StoreError
from system.store.location import StoreLocation
from system.store.nearest import (
    METRIC,
    SETTINGS_KEY,
    VECTOR,
    VectorIndex,
    index_ids,
    read_vector_index,
    recorded_index,
)
from system.store.schema import SCENES
from system.store.vector_recall import tune

KIND = "IVF_SQ"
# Vectors a partition that its centre is learnt from, and the least that a partition should hold.
_SAMPLE_RATE, _LEAST_OF_A_PARTITION = 64, 256
# New rows up to this share are compared one by one; an index whose table grew by this factor is trained anew.
_LEFT_OUT_SHARE, _GROWTH = 0.01, 2.0


class VectorIndexConfig(FrozenConfig):
    """When an index is built and what it must find.

    from_rows: with fewer vectors nothing is built. target_recall: share of the ten nearest that is to be found.
    queries: that are asked to measure it, each by exact search too.
    """

    from_rows: int = Field(default=50_000, ge=1)
    target_recall: float = Field(default=0.95, gt=0, lt=1)
    queries: int = Field(default=64, ge=1)


def refresh_vector_index(location: StoreLocation, config: VectorIndexConfig | None = None) -> VectorIndex | None:
    """Build the index of the scenes' embeddings, or bring it up to date. Call with the lease held, after compaction.

    Nothing is done where it is up to date, or so nearly that the new rows are no burden. While it is at work, and where
    it was cut off, searches are exact.

    Args:
        config: by default as `VectorIndexConfig()`.
    Returns:
        The index as it is now; None where the store is so small that exact search is as good.
    Raises:
        StoreError: the disk is full or the store is read-only.
    """
    config = config or VectorIndexConfig()
    try:
        dataset = location.dataset(SCENES)
        rows, held = dataset.count_rows(), recorded_index(dataset)
        if held is None or _name(held.partitions) not in _indexed_rows(dataset) or rows >= _GROWTH * held.trained_rows:
            return _build(location, dataset, rows, config)
        is_present = held.index_id == index_ids(dataset)
        left_out = rows - _indexed_rows(dataset)[_name(held.partitions)]
        has_target = held.target_recall == config.target_recall
        if is_present and has_target and left_out <= _LEFT_OUT_SHARE * rows:
            return held
        started_s = time.perf_counter()
        if left_out:
            dataset.optimize.optimize_indices(index_names=[_name(held.partitions)], num_indices_to_merge=1)
        elif has_target and rows == held.rows:
            # Compaction has rewritten the same index.
            return _record(location, held.trained_rows, held.partitions, config, held.build_s, held)
        build_s = time.perf_counter() - started_s
        return _record(location, held.trained_rows, held.partitions, config, build_s)
    except (OSError, RuntimeError, ValueError) as error:
        raise StoreError(f"{location.uri}: cannot build the vector index: {error}") from error


def vector_index_of(location: StoreLocation) -> VectorIndex | None:
    """The index that searches of the newest version use."""
    return read_vector_index(location.dataset(SCENES))


def _build(
    location: StoreLocation, dataset: lance.LanceDataset, rows: int, config: VectorIndexConfig
) -> VectorIndex | None:
    if rows < config.from_rows:
        return None
    vectors = dataset.count_rows(f"{VECTOR} IS NOT NULL")
    if vectors < max(config.from_rows, _LEAST_OF_A_PARTITION):
        return None
    started_s = time.perf_counter()
    partitions = max(1, min(round(math.sqrt(vectors)), vectors // _LEAST_OF_A_PARTITION))
    others = [name for name in _indexed_rows(dataset) if name != _name(partitions)]
    dataset.create_index(
        VECTOR,
        KIND,
        name=_name(partitions),
        metric=METRIC,
        replace=True,
        num_partitions=partitions,
        sample_rate=_SAMPLE_RATE,
    )
    for name in others:
        location.dataset(SCENES).drop_index(name)
    return _record(location, rows, partitions, config, time.perf_counter() - started_s)


def _record(
    location: StoreLocation,
    trained_rows: int,
    partitions: int,
    config: VectorIndexConfig,
    build_s: float,
    tuned: VectorIndex | None = None,
) -> VectorIndex:
    """Tune the index as it is, unless that was done, and write what was found into the table's configuration."""
    dataset, started_s = location.dataset(SCENES), time.perf_counter()
    tunings = tune(dataset, partitions, config.target_recall, config.queries) if tuned is None else tuned.tunings
    index = VectorIndex(
        kind=KIND,
        index_id=index_ids(dataset),
        rows=dataset.count_rows(),
        trained_rows=trained_rows,
        partitions=partitions,
        target_recall=config.target_recall,
        tunings=tunings,
        build_s=round(build_s, 1),
        tune_s=round(time.perf_counter() - started_s, 1) if tuned is None else tuned.tune_s,
    )
    dataset.update_config({SETTINGS_KEY: json.dumps(index.as_json())})
    return index


def _name(partitions: int) -> str:
    """The index's name tells its partitions: one that was built and not recorded is not taken for another."""
    return f"{VECTOR}_{KIND.lower()}_{partitions}"


def _indexed_rows(dataset: lance.LanceDataset) -> dict[str, int]:
    """Rows that each vector index covers, by its name."""
    found = [description for description in dataset.describe_indices() if description.field_names == [VECTOR]]
    return {description.name: int(description.num_rows_indexed) for description in found}
