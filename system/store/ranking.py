"""Read the signals that hardness is made of, and write the ranks back as columns of the rows that exist."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from system.errors import StoreError
from system.store.filters import SceneFilter
from system.store.location import StoreLocation
from system.store.nearest import nearest_rows
from system.store.schema import RANKING_COLUMNS, SCENES

_SIGNALS = ("log_id", "source", "embedding", "risk", "ambiguity")


@dataclass(frozen=True, eq=False)
class Signals:
    """One row a scene of one model, in the table's order.

    Attributes:
        row_address: uint64 [N].
        log: int64 [N], the same number for the scenes of one log.
        log_ids: N log ids.
        embedding_NE: float32, NaN where a scene has no pictures.
        risk, ambiguity: float32 [N], NaN where unknown.
    """

    row_address: NDArray[np.uint64]
    log: NDArray[np.int64]
    log_ids: list[str]
    embedding_NE: NDArray[np.float32]
    risk: NDArray[np.float32]
    ambiguity: NDArray[np.float32]


def num_unranked(location: StoreLocation, model_id: str) -> int:
    """Scenes of a model that no ranking has seen yet."""
    return int(location.dataset(SCENES).count_rows(filter=f"model_id = '{model_id}' AND ranked_among IS NULL"))


def read_signals(location: StoreLocation, model_id: str) -> Signals:
    """All scenes of a model. 4 E + 40 bytes a scene."""
    dataset = location.dataset(SCENES)
    table = dataset.scanner(columns=list(_SIGNALS), filter=f"model_id = '{model_id}'", with_row_address=True).to_table()
    width = dataset.schema.field("embedding").type.list_size
    embedding = table["embedding"].combine_chunks()
    flat = embedding.values.to_numpy(zero_copy_only=False).reshape(-1, width)[embedding.offset :][: len(embedding)]
    known = embedding.is_valid().to_numpy(zero_copy_only=False)
    log_ids = table["log_id"].to_pylist()
    logs = [f"{source}\x1f{log_id}" for source, log_id in zip(table["source"].to_pylist(), log_ids, strict=True)]
    return Signals(
        row_address=table["_rowaddr"].to_numpy(),
        log=np.unique(logs, return_inverse=True)[1].astype(np.int64),
        log_ids=log_ids,
        embedding_NE=np.where(known[:, None], flat, np.float32(np.nan)).astype(np.float32),
        risk=_with_nan(table["risk"]),
        ambiguity=_with_nan(table["ambiguity"]),
    )


def write_ranks(
    location: StoreLocation, row_address: NDArray[np.uint64], ranks: pa.Table
) -> tuple[list[str], list[int]]:
    """Rewrite the ranking columns of some rows, uncommitted.

    Args:
        row_address: uint64 [N] of the rows.
        ranks: N rows with exactly the columns RANKING_COLUMNS.
    Returns:
        (JSON of the fragments, Lance ids of the rewritten fields) for `commits.commit_updated`.
    Raises:
        StoreError: the disk is full or the store is read-only.
    """
    fields: set[int] = set()
    fragments = []
    of_fragment = (row_address >> np.uint64(32)).astype(np.int64)
    update = ranks.select(list(RANKING_COLUMNS)).append_column("_rowaddr", pa.array(row_address, pa.uint64()))
    try:
        for fragment in location.dataset(SCENES).get_fragments():
            part = update.filter(pa.array(of_fragment == fragment.fragment_id))
            if len(part):
                metadata, modified = fragment.update_columns(part, left_on="_rowaddr", right_on="_rowaddr")
                fragments.append(json.dumps(metadata.to_json()))
                fields.update(modified)
    except (OSError, RuntimeError, ValueError) as error:
        raise StoreError(f"{location.uri}: cannot write the ranking: {error}") from error
    return fragments, sorted(fields)


def nearest_distance(
    location: StoreLocation, embeddings_NE: NDArray[np.float32], log_ids: Sequence[str], num_neighbours: int
) -> NDArray[np.float32]:
    """Mean cosine distance to the nearest scenes of other logs, by the store's own vector index; float32 [N].

    Args:
        log_ids: N, the log of each query, whose own scenes do not count.
    """
    dataset = location.dataset(SCENES)
    means = np.full(len(embeddings_NE), np.nan, np.float32)
    for k, (row, log_id) in enumerate(zip(embeddings_NE, log_ids, strict=True)):
        found = nearest_rows(dataset, row, SceneFilter(not_log_ids=(log_id,)).to_sql(), num_neighbours, ())
        if len(found):
            means[k] = found["_distance"].to_numpy().mean()
    return means


def _with_nan(column: pa.ChunkedArray) -> NDArray[np.float32]:
    return column.to_numpy().astype(np.float32)
