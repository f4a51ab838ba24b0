"""Rank every scene of a model by hardness, in a worker, so that the vectors stay out of the driver."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray

from system.miner.hardness import HardnessWeights, fuse, knn_rarity, percentile_ranks
from system.store.commits import commit_updated
from system.store.lease import Lease
from system.store.location import StoreLocation
from system.store.maintain import build_indices
from system.store.ranking import Signals, nearest_distance, num_unranked, read_signals, write_ranks
from system.store.vector_index import refresh_vector_index

# Up to here comparing everything with everything is faster than asking an index for each scene.
EXACT_RARITY_UP_TO = 50_000


def rank_store(
    location: StoreLocation,
    model_id: str,
    weights: HardnessWeights,
    neighbours: int,
    lease: Lease,
    exact_up_to: int = EXACT_RARITY_UP_TO,
) -> bool:
    """Bring hardness, its components and the indices up to date. Returns False where every scene was ranked already.

    Ranks are relative to all scenes of the model, so that one new scene moves them all; only these columns are
    rewritten, in one transaction that the driver commits.
    """
    if not num_unranked(location, model_id):
        return False
    fragments, fields = ray.get(_rank.remote(location, model_id, weights, neighbours, exact_up_to))
    lease.check()
    commit_updated(location, "scenes", fragments, fields)
    ray.get(_index.remote(location))
    return True


@ray.remote(num_cpus=1)
def _rank(
    location: StoreLocation, model_id: str, weights: HardnessWeights, neighbours: int, exact_up_to: int
) -> tuple[list[str], list[int]]:
    return rank_rows(location, model_id, weights, neighbours, exact_up_to)


@ray.remote(num_cpus=1)
def _index(location: StoreLocation) -> int:
    return build_indices(location)


def rank_rows(
    location: StoreLocation, model_id: str, weights: HardnessWeights, neighbours: int, exact_up_to: int
) -> tuple[list[str], list[int]]:
    """Compute all ranks and write them, uncommitted; as `system.store.ranking.write_ranks` returns them."""
    signals = read_signals(location, model_id)
    rarity = _rarity(location, signals, neighbours, exact_up_to)
    risk_rank, ambiguity_rank, rarity_rank = map(percentile_ranks, (signals.risk, signals.ambiguity, rarity))
    hardness = fuse(risk_rank, ambiguity_rank, rarity_rank, weights)
    columns = {
        "rarity": rarity,
        "risk_rank": risk_rank,
        "ambiguity_rank": ambiguity_rank,
        "rarity_rank": rarity_rank,
        "hardness": hardness,
    }
    ranks = {name: pa.array(values, pa.float32(), from_pandas=True) for name, values in columns.items()}
    ranks["ranked_among"] = pa.array([len(rarity)] * len(rarity), pa.int64())
    return write_ranks(location, signals.row_address, pa.table(ranks))


def _rarity(location: StoreLocation, signals: Signals, neighbours: int, exact_up_to: int) -> NDArray[np.float32]:
    """Mean distance to the nearest scenes of other logs; NaN for scenes without an embedding."""
    known = np.flatnonzero(~np.isnan(signals.embedding_NE[:, 0]))
    rarity = np.full(len(signals.risk), np.nan, np.float32)
    if len(known) <= exact_up_to:
        rarity[known] = knn_rarity(signals.embedding_NE[known], signals.log[known], neighbours)
    else:
        # The first ranking of so many would otherwise compare each of them with all.
        refresh_vector_index(location)
        log_ids = [signals.log_ids[k] for k in known]
        rarity[known] = nearest_distance(location, signals.embedding_NE[known], log_ids, neighbours)
    return rarity
