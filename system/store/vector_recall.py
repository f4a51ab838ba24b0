"""Measure what a vector index finds against exact search, and choose how to search it.

A table's own rows are the judge: queries lie at its scenes and between them, as a sentence does. Scene ids are hashes,
so that those below a bound are a draw of any share that knows nothing of the vectors; they stand for filters, and so do
the table's tags, which go with what pictures look like: the nearest scenes with a tag may lie far from a query.

Legend: Q queries, E embedding width, K rows asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import lance
import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from system.store.filters import SceneFilter, literal
from system.store.nearest import VECTOR, Tuning, search_index

# Depths asked for: a page of results, and all that a ranking over HTTP looks at, which fewer queries measure as well.
DEPTHS = {10: 1.0, 1000: 0.25}
SHARES = (0.1, 0.01, 0.001)
_TAG_SHARES = (0.5, 0.1, 0.02)
_REFINES = (1, 2, 4, 8, 16, 32)
_IDS_DRAWN = 8192
# A query costs its fixed part and the full vectors that it fetches; partitions cost little, so steps are wide.
_FIRST_PROBES, _STEP = 64, 4
# One-sided, 95 %: what is measured on a few queries holds for others too.
_DEVIATIONS = 1.645


@dataclass(frozen=True, eq=False)
class Nearest:
    """share: of rows that pass `sql` (all where it is None). rows_QK: row ids of the nearest of them, nearest first."""

    sql: str | None
    share: float
    rows_QK: NDArray[np.uint64]


def tune(
    dataset: lance.LanceDataset, partitions: int, target_recall: float, num_queries: int, seed: int = 0
) -> tuple[Tuning, ...]:
    """The least effort that reaches the target, for each depth and each share of rows that pass a filter.

    Args:
        dataset: with the index to be tuned.
    Returns:
        Tunings, of which those for ten rows come first, the easiest of them ahead. Where every partition does not reach
        the target, that is what is returned, with the recall that it has. Cases in which fewer rows pass than are asked
        for are left out.
    """
    queries_QE, filters = _sample(dataset, num_queries, np.random.default_rng(seed))
    draws = sorted(exact_nearest(dataset, queries_QE, filters, max(DEPTHS)), key=lambda draw: -draw.share)
    tunings = []
    for depth, share_of_queries in DEPTHS.items():
        queries = queries_QE[: max(1, round(share_of_queries * len(queries_QE)))]
        refine, probes = _REFINES[-1], max(1, partitions // _FIRST_PROBES)
        for place, draw in enumerate(draws):
            if draw.rows_QK.shape[1] < depth:
                continue
            truth = draw.rows_QK[: len(queries), :depth]
            if place == 0:
                refine = _least_refine(dataset, queries, truth, depth, partitions, target_recall)
            # A more selective filter needs no less than an easier one.
            while True:
                hits_Q = recall(dataset, queries, draw.sql, truth, Tuning(depth, draw.share, probes, refine, 0.0))
                at_least = hits_Q.mean() - _DEVIATIONS * hits_Q.std() / np.sqrt(len(hits_Q))
                if at_least >= target_recall or probes >= partitions:
                    break
                probes = min(_STEP * probes, partitions)
            tunings.append(Tuning(depth, draw.share, probes, refine, round(float(hits_Q.mean()), 4)))
    return tuple(tunings)


def recall(
    dataset: lance.LanceDataset,
    queries_QE: NDArray[np.float32],
    sql: str | None,
    nearest_QK: NDArray[np.uint64],
    tuning: Tuning,
) -> NDArray[np.float64]:
    """Share of each query's K nearest rows that the index finds, [Q]."""
    shares = np.empty(len(queries_QE))
    depth = nearest_QK.shape[1]
    for q, (query_E, nearest_K) in enumerate(zip(queries_QE, nearest_QK, strict=True)):
        found = search_index(dataset, query_E, sql, depth, ["_rowid"], tuning)["_rowid"].to_numpy()
        shares[q] = np.isin(nearest_K, found).mean()
    return shares


def exact_nearest(
    dataset: lance.LanceDataset, queries_QE: NDArray[np.float32], filters: Sequence[str | None], depth: int
) -> list[Nearest]:
    """The `depth` nearest rows of each query under each filter, or as many as pass, by reading all vectors once.

    Args:
        queries_QE: float32, norm 1.
    """
    passing = [_passing(dataset, sql) for sql in filters]
    best_FQK = [np.zeros((len(queries_QE), 0), np.float32) for _ in filters]
    rows_FQK = [np.zeros((len(queries_QE), 0), np.uint64) for _ in filters]
    for batch in dataset.to_batches(columns=[VECTOR], with_row_id=True):
        # A vector that is null is left out here, and its row below.
        flat_NE = batch[VECTOR].flatten().to_numpy(zero_copy_only=False).reshape(-1, queries_QE.shape[1])
        similarity_QN = queries_QE @ (flat_NE / np.maximum(np.linalg.norm(flat_NE, axis=1, keepdims=True), 1e-12)).T
        row_ids = batch["_rowid"].filter(batch[VECTOR].is_valid()).to_numpy()
        for f, ids in enumerate(passing):
            passes = slice(None) if ids is None else _is_among(row_ids, ids)
            kept = row_ids[passes]
            best = np.concatenate([best_FQK[f], similarity_QN[:, passes]], axis=1)
            rows = np.concatenate([rows_FQK[f], np.broadcast_to(kept, (len(queries_QE), len(kept)))], axis=1)
            if best.shape[1] > depth:
                places = np.argpartition(-best, depth - 1, axis=1)[:, :depth]
                best, rows = np.take_along_axis(best, places, axis=1), np.take_along_axis(rows, places, axis=1)
            best_FQK[f], rows_FQK[f] = best, rows
    total = max(1, dataset.count_rows())
    return [
        Nearest(
            sql=sql,
            share=1.0 if ids is None else len(ids) / total,
            rows_QK=np.take_along_axis(rows, np.argsort(-best, axis=1), axis=1),
        )
        for sql, ids, best, rows in zip(filters, passing, best_FQK, rows_FQK, strict=True)
    ]


def _passing(dataset: lance.LanceDataset, sql: str | None) -> NDArray[np.uint64] | None:
    """Sorted row ids, None for all."""
    if sql is None:
        return None
    return np.sort(dataset.to_table(columns=[], filter=sql, with_row_id=True)["_rowid"].to_numpy())


def _is_among(values: NDArray[np.uint64], sorted_N: NDArray[np.uint64]) -> NDArray[np.bool_]:
    if not len(sorted_N):
        return np.zeros(len(values), bool)
    places = np.minimum(np.searchsorted(sorted_N, values), len(sorted_N) - 1)
    return np.asarray(sorted_N[places] == values)


def _sample(
    dataset: lance.LanceDataset, count: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], list[str | None]]:
    """Queries, float32 [Q, E] of norm 1, and a filter for each share."""
    num_rows = dataset.count_rows()

    def drawn(most: int) -> list[int]:
        return np.sort(rng.choice(num_rows, min(num_rows, most), replace=False)).tolist()

    vectors = dataset.take(drawn(8 * count), columns=[VECTOR])[VECTOR].combine_chunks()
    known_NE = rng.permutation(vectors.flatten().to_numpy(zero_copy_only=False).reshape(-1, vectors.type.list_size))
    count = min(count, len(known_NE) // 2)
    towards = rng.random((count, 1)).astype(np.float32)
    queries_QE = (1 - towards) * known_NE[:count] + towards * known_NE[count : 2 * count]
    queries_QE /= np.maximum(np.linalg.norm(queries_QE, axis=1, keepdims=True), 1e-12)
    ids = sorted(dataset.take(drawn(_IDS_DRAWN), columns=["scene_id"])["scene_id"].to_pylist())
    bounds = [ids[int(share * len(ids))] for share in SHARES if 1 <= share * len(ids) < len(ids)]
    return queries_QE, [None, *(f"scene_id < {literal(bound)}" for bound in bounds), *_tag_filters(dataset)]


def _tag_filters(dataset: lance.LanceDataset) -> list[str]:
    """Of the tags those that are nearest to some shares of all rows."""
    counted = pc.value_counts(pc.list_flatten(dataset.to_table(columns=["tags"])["tags"])).to_pylist()
    shares = {pair["values"]: pair["counts"] / dataset.count_rows() for pair in counted}
    chosen = {min(shares, key=lambda tag: abs(math.log(shares[tag] / share))) for share in _TAG_SHARES if shares}
    return [SceneFilter(tags=(tag,)).to_sql() or "" for tag in sorted(chosen)]


def _least_refine(
    dataset: lance.LanceDataset,
    queries_QE: NDArray[np.float32],
    nearest_QK: NDArray[np.uint64],
    depth: int,
    partitions: int,
    target_recall: float,
) -> int:
    """So many full vectors that a quarter of all partitions loses no more than half of what may be lost."""
    for refine in _REFINES:
        tuning = Tuning(depth, 1.0, max(1, partitions // 4), refine, 0.0)
        if recall(dataset, queries_QE, None, nearest_QK, tuning).mean() >= (1 + target_recall) / 2:
            return refine
    return _REFINES[-1]
