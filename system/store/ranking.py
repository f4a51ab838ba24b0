"""Read the signals that hardness is made of, and write the ranks back as columns of the rows that exist."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import lance
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from system.errors import StoreError
from system.store.filters import SceneFilter, literal
from system.store.location import StoreLocation
from system.store.nearest import read_vector_index, search_exactly, search_index
from system.store.schema import RANKING_COLUMNS, SCENES

# Rows whose vectors are in memory while the index is asked for the neighbours of each.
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True, eq=False)
class Signals:
    """One row a scene of one model, in the table's order; 20 bytes each.

    Attributes:
        row_address: uint64 [N].
        risk, ambiguity: float32 [N], NaN where unknown.
        rarity: float32 [N], as an earlier ranking found it; NaN where none did, or there are no pictures.
    """

    row_address: NDArray[np.uint64]
    risk: NDArray[np.float32]
    ambiguity: NDArray[np.float32]
    rarity: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Vectors:
    """The scenes of a model that have an embedding.

    Attributes:
        row_address: uint64 [N]. embedding_NE: float32. log: int64 [N], the same number for the scenes of one log.
    """

    row_address: NDArray[np.uint64]
    embedding_NE: NDArray[np.float32]
    log: NDArray[np.int64]


def num_unranked(location: StoreLocation, model_id: str) -> int:
    """Scenes of a model that no ranking has seen yet."""
    return int(location.dataset(SCENES).count_rows(filter=f"{_of(model_id)} AND ranked_among IS NULL"))


def num_scenes(dataset: lance.LanceDataset, model_id: str) -> int:
    """Scenes of a model."""
    return int(dataset.count_rows(filter=_of(model_id)))


def read_signals(dataset: lance.LanceDataset, model_id: str) -> Signals:
    """All scenes of a model."""
    names = ["risk", "ambiguity", "rarity"]
    table = dataset.scanner(columns=names, filter=_of(model_id), with_row_address=True).to_table()
    return Signals(table["_rowaddr"].to_numpy(), *(_with_nan(table[name]) for name in names))


def read_vectors(dataset: lance.LanceDataset, model_id: str) -> Vectors:
    """All embeddings of a model: 4 E + 16 bytes a scene."""
    where = f"{_of(model_id)} AND embedding IS NOT NULL"
    table = dataset.scanner(columns=["log_id", "source", "embedding"], filter=where, with_row_address=True).to_table()
    logs = [f"{s}\x1f{log}" for s, log in zip(table["source"].to_pylist(), table["log_id"].to_pylist(), strict=True)]
    number = np.unique(logs, return_inverse=True)[1] if logs else np.zeros(0)
    return Vectors(table["_rowaddr"].to_numpy(), _matrix(table["embedding"]), number.astype(np.int64))


def rarity_of_part(
    location: StoreLocation,
    version: int,
    model_id: str,
    old_run: str | None,
    num_neighbours: int,
    part: int,
    parts: int,
) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
    """Rarity of the scenes that are not ranked yet, and of an old run's, by the store's own vector index.

    Args:
        version: of the table, whose row addresses are meant.
        part, parts: which of how many shares of the table's fragments is looked at here.
    Returns:
        (row address, mean cosine distance to the nearest scenes of other logs) of each.
    """
    dataset = location.dataset(SCENES, version)
    fragments = dataset.get_fragments()[part::parts]
    wanted = "ranked_among IS NULL" + (f" OR run_id = {literal(old_run)}" if old_run is not None else "")
    where = f"{_of(model_id)} AND embedding IS NOT NULL AND ({wanted})"
    addresses, rarity = [np.zeros(0, np.uint64)], [np.zeros(0, np.float32)]
    if fragments:
        scanner = dataset.scanner(
            columns=["log_id", "embedding"], filter=where, fragments=fragments, with_row_address=True,
            batch_size=_ROWS_AT_ONCE,
        )  # fmt: skip
        for batch in scanner.to_batches():
            embeddings, log_ids = _matrix(batch["embedding"]), batch["log_id"].to_pylist()
            addresses.append(batch["_rowaddr"].to_numpy())
            rarity.append(nearest_distance(location, model_id, embeddings, log_ids, num_neighbours))
    return np.concatenate(addresses), np.concatenate(rarity)


def write_ranks(
    dataset: lance.LanceDataset,
    row_address: NDArray[np.uint64],
    ranks_of: Callable[[NDArray[np.intp]], Mapping[str, NDArray[np.floating]]],
) -> tuple[list[str], list[int]]:
    """Rewrite the ranking columns of some rows, uncommitted, one fragment in memory at a time.

    Args:
        dataset: the version that the addresses are of. row_address: uint64 [N] of the rows.
        ranks_of: values of each of RANKING_COLUMNS but `ranked_among`, which is N, for places in row_address.
    Returns:
        (JSON of the fragments, Lance ids of the rewritten fields) for `commits.commit_updated`.
    Raises:
        StoreError: the disk is full or the store is read-only.
    """
    of_fragment = (row_address >> np.uint64(32)).astype(np.int64)
    order = np.argsort(of_fragment, kind="stable")
    bounds = np.searchsorted(of_fragment[order], np.arange(of_fragment.max(initial=-1) + 2))
    fields: set[int] = set()
    fragments = []
    try:
        for fragment in dataset.get_fragments():
            if fragment.fragment_id + 1 >= len(bounds):
                continue
            rows = order[bounds[fragment.fragment_id] : bounds[fragment.fragment_id + 1]]
            if len(rows):
                update = _update(row_address[rows], ranks_of(rows), len(row_address))
                metadata, modified = fragment.update_columns(update, left_on="_rowaddr", right_on="_rowaddr")
                fragments.append(json.dumps(metadata.to_json()))
                fields.update(modified)
    except (OSError, RuntimeError, ValueError) as error:
        raise StoreError(f"{dataset.uri}: cannot write the ranking: {error}") from error
    return fragments, sorted(fields)


def _update(row_address: NDArray[np.uint64], ranks: Mapping[str, NDArray[np.floating]], among: int) -> pa.Table:
    columns = {name: pa.array(values, pa.float32(), from_pandas=True) for name, values in ranks.items()}
    columns["ranked_among"] = pa.array(np.full(len(row_address), among, np.int64))
    return pa.table({name: columns[name] for name in RANKING_COLUMNS} | {"_rowaddr": pa.array(row_address)})


def nearest_distance(
    location: StoreLocation,
    model_id: str,
    embeddings_NE: NDArray[np.float32],
    log_ids: Sequence[str],
    num_neighbours: int,
) -> NDArray[np.float32]:
    """Mean cosine distance to a model's nearest scenes of other logs, by the store's own vector index; float32 [N].

    Args:
        log_ids: N, the log of each query, whose own scenes do not count.
    """
    dataset = location.dataset(SCENES)
    index = read_vector_index(dataset)
    # A log is a small part of a store that has an index: what passes is counted once, and not for each query.
    tuning = None if index is None else index.tuning(num_neighbours, num_scenes(dataset, model_id) / index.rows)
    means = np.full(len(embeddings_NE), np.nan, np.float32)
    for k, (row, log_id) in enumerate(zip(embeddings_NE, log_ids, strict=True)):
        others = SceneFilter(model_id=model_id, not_log_ids=(log_id,)).to_sql()
        if tuning is None:
            found = search_exactly(dataset, row, others, num_neighbours, ())
        else:
            found = search_index(dataset, row, others, num_neighbours, (), tuning)
        if len(found):
            means[k] = found["_distance"].to_numpy().mean()
    return means


def _of(model_id: str) -> str:
    return f"model_id = {literal(model_id)}"


def _matrix(column: pa.ChunkedArray | pa.Array) -> NDArray[np.float32]:
    """Of a column without nulls, float32 [N, E]."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), array.type.list_size)


def _with_nan(column: pa.ChunkedArray) -> NDArray[np.float32]:
    return column.to_numpy().astype(np.float32)
