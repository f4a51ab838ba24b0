"""The scenes nearest to a vector: through the table's index as it was tuned, or exactly where there is none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

VECTOR, METRIC = "embedding", "cosine"
# A key of the table's own configuration: each version of the table, tagged ones too, carries what its index needs.
SETTINGS_KEY = "nightminer.vector_index"
# So few rows are sooner fetched and compared than an index is asked, or all vectors are read in order: at a million
# rows 50 took 22 ms and 1000 took 170 ms, the index 115 to 250 ms.
FETCHED_UP_TO = 1000


@dataclass(frozen=True)
class Tuning:
    """What the index needs where a share of the rows passes the filter and `depth` rows are asked for.

    probes: partitions to search at least. refine: times `depth`, the rows that are compared by their full vectors.
    recall: share of the `depth` nearest that were found so, measured.
    """

    depth: int
    share: float
    probes: int
    refine: int
    recall: float


@dataclass(frozen=True)
class VectorIndex:
    """An index and how to search it.

    Attributes:
        kind: in Lance's names. index_id: of its files; another id is another index.
        rows: of the table, when it was tuned. trained_rows: when its partitions were made.
        partitions: how many. target_recall: what it was tuned for. tunings: one a depth and share.
        build_s, tune_s: seconds that it took.
    """

    kind: str
    index_id: str
    rows: int
    trained_rows: int
    partitions: int
    target_recall: float
    tunings: tuple[Tuning, ...]
    build_s: float
    tune_s: float

    @property
    def recall_at_10(self) -> float:
        """Without a filter."""
        return next(tuning.recall for tuning in self.tunings if tuning.depth == 10)

    def as_json(self) -> dict[str, Any]:
        """For the table's configuration and for the record of a run, with the recall of the ten nearest."""
        filtered = min(tuning.recall for tuning in self.tunings if tuning.depth == 10)
        return asdict(self) | {"recall_at_10": self.recall_at_10, "recall_at_10_filtered": filtered}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> VectorIndex:
        """Raises KeyError, TypeError: written by another version."""
        known = {field.name: values[field.name] for field in fields(cls)}
        return cls(**known | {"tunings": tuple(Tuning(**tuning) for tuning in values["tunings"])})

    def tuning(self, depth: int, share: float) -> Tuning:
        """The one measured for the next deeper and more selective case; beyond what was measured every partition."""
        deeper = [tuning for tuning in self.tunings if tuning.depth >= depth]
        of_depth = [tuning for tuning in deeper if tuning.depth == min(t.depth for t in deeper)]
        harder = [tuning for tuning in of_depth if tuning.share <= share]
        if harder:
            return max(harder, key=lambda tuning: tuning.share)
        hardest = min(of_depth or self.tunings, key=lambda tuning: (-tuning.depth, tuning.share))
        return Tuning(depth, share, self.partitions, hardest.refine, hardest.recall)


def index_ids(dataset: lance.LanceDataset) -> str:
    """Ids of the files of the vector index at this version, joined; empty where there is none."""
    found = [description for description in dataset.describe_indices() if description.field_names == [VECTOR]]
    return "+".join(sorted(segment.uuid for description in found for segment in description.segments))


def recorded_index(dataset: lance.LanceDataset) -> VectorIndex | None:
    """What this version says of its index, which may have been replaced since."""
    try:
        return VectorIndex.from_json(json.loads(dataset.config().get(SETTINGS_KEY, "null")))
    except (KeyError, TypeError):
        return None  # none, or one of another version of Nightminer: searched exactly until it is refreshed


def read_vector_index(dataset: lance.LanceDataset) -> VectorIndex | None:
    """The index of this version of the table and its tuning, or None where there is none that was measured."""
    index = recorded_index(dataset)
    return index if index is not None and index.index_id == index_ids(dataset) else None


def nearest_rows(
    dataset: lance.LanceDataset,
    query_E: NDArray[np.float32],
    sql: str | None,
    depth: int,
    columns: Sequence[str],
    is_exact: bool = False,
) -> pa.Table:
    """The `depth` rows nearest to a query among those that pass a filter, nearest first, with `_distance` (cosine).

    Rows without a vector are never among them. Rows that came after the index was built are compared one by one.

    Args:
        dataset: the scenes, at the version that is meant.
        sql: of `SceneFilter.to_sql`. is_exact: as if there was no index.
    """
    index = None if is_exact else read_vector_index(dataset)
    passing = dataset.count_rows(filter=sql)
    if passing <= FETCHED_UP_TO:
        return _compare_fetched(dataset, query_E, sql, depth, columns)
    if index is None:
        return search_exactly(dataset, query_E, sql, depth, columns)
    return search_index(dataset, query_E, sql, depth, columns, index.tuning(depth, passing / dataset.count_rows()))


def search_index(
    dataset: lance.LanceDataset,
    query_E: NDArray[np.float32],
    sql: str | None,
    depth: int,
    columns: Sequence[str],
    tuning: Tuning,
) -> pa.Table:
    """As `nearest_rows`, by a tuning of the index."""
    # No most of probes: where too few of the first partitions pass the filter, the search goes on to the next.
    how = {"minimum_nprobes": tuning.probes, "refine_factor": tuning.refine}
    nearest = {"column": VECTOR, "q": query_E.astype(np.float32), "k": depth, "metric": METRIC} | how
    return dataset.to_table(columns=[*columns, "_distance"], nearest=nearest, filter=sql, prefilter=True)


def search_exactly(
    dataset: lance.LanceDataset, query_E: NDArray[np.float32], sql: str | None, depth: int, columns: Sequence[str]
) -> pa.Table:
    """As `nearest_rows`, by reading all vectors in order."""
    nearest = {"column": VECTOR, "q": query_E.astype(np.float32), "k": depth, "metric": METRIC, "use_index": False}
    # With a scalar index each row that passes would be fetched alone: a tenth of all rows then takes twice as long.
    return dataset.to_table(
        columns=[*columns, "_distance"], nearest=nearest, filter=sql, prefilter=True, use_scalar_index=False
    )


def _compare_fetched(
    dataset: lance.LanceDataset, query_E: NDArray[np.float32], sql: str | None, depth: int, columns: Sequence[str]
) -> pa.Table:
    """As `nearest_rows`, by fetching every row that passes."""
    rows = dataset.to_table(columns=[*dict.fromkeys([*columns, VECTOR])], filter=sql)
    rows = rows.filter(rows[VECTOR].is_valid())
    vectors_NE = rows[VECTOR].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, len(query_E))
    norms_N = np.linalg.norm(vectors_NE, axis=1) * np.linalg.norm(query_E)
    distance_N = (1 - vectors_NE @ query_E / np.maximum(norms_N, np.finfo(np.float32).tiny)).astype(np.float32)
    order = np.argsort(distance_N, kind="stable")[:depth]
    return rows.append_column("_distance", pa.array(distance_N)).select([*columns, "_distance"]).take(pa.array(order))
