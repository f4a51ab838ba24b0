"""Rank every scene of a model by hardness, in a worker, so that the vectors stay out of the driver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import ray
from numpy.typing import NDArray

from system.errors import ConflictError
from system.miner.hardness import HardnessWeights, Percentiles, fuse, knn_rarity
from system.store.commits import commit_updated
from system.store.lease import Lease
from system.store.location import StoreLocation
from system.store.maintain import build_indices
from system.store.ranking import (
    num_scenes,
    num_unranked,
    rarity_of_part,
    read_signals,
    read_vectors,
    write_ranks,
)
from system.store.runs import read_runs
from system.store.schema import SCENES

Addresses: TypeAlias = NDArray[np.uint64]
Floats: TypeAlias = NDArray[np.float32]

# Up to here comparing everything with everything is faster than asking an index for each scene.
EXACT_RARITY_UP_TO = 50_000
# Its multiples modulo 1 leave no large gap, however many there are.
_GOLDEN = (5**0.5 - 1) / 2
_ATTEMPTS = 3


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
    rewritten, in one transaction that the driver commits. Rarity is computed anew for every scene of a small store. In
    a large one it is looked up for the new scenes and for those of one old run, another each time, since what was rare
    may have become common.
    """
    if not num_unranked(location, model_id):
        return False
    for attempt in range(_ATTEMPTS):
        try:
            _rank_once(location, model_id, weights, neighbours, lease, exact_up_to)
            break
        except ConflictError:  # maintenance rewrote fragments meanwhile
            if attempt + 1 == _ATTEMPTS:
                raise
    ray.get(_index.remote(location))
    return True


def _rank_once(
    location: StoreLocation, model_id: str, weights: HardnessWeights, neighbours: int, lease: Lease, exact_up_to: int
) -> None:
    version = int(location.dataset(SCENES).version)
    if num_scenes(location.dataset(SCENES, version), model_id) <= exact_up_to:
        found = [_exact.remote(location, version, model_id, neighbours)]
    else:
        # New scenes are looked up, and others near them: both through the index.
        version = ray.get(_index.remote(location))
        parts = max(1, int(ray.cluster_resources().get("CPU", 1)))
        old_run = run_to_refresh([run.run_id for run in read_runs(location) if run.model_id == model_id])
        found = [
            _look_up.remote(location, version, model_id, old_run, neighbours, part, parts) for part in range(parts)
        ]
    fragments, fields = ray.get(_rank.remote(location, version, model_id, weights, *found))
    lease.check()
    commit_updated(location, SCENES, fragments, fields, version)


def run_to_refresh(run_ids: Sequence[str]) -> str | None:
    """Of a model's runs, newest first: one of the old ones, spread evenly over them as runs are added."""
    old = run_ids[1:]
    return old[int(len(run_ids) * _GOLDEN % 1 * len(old))] if old else None


@ray.remote(num_cpus=1)
def _rank(
    location: StoreLocation, version: int, model_id: str, weights: HardnessWeights, *found: tuple[Addresses, Floats]
) -> tuple[list[str], list[int]]:
    return rank_rows(location, version, model_id, weights, found)


@ray.remote(num_cpus=1)
def _exact(location: StoreLocation, version: int, model_id: str, neighbours: int) -> tuple[Addresses, Floats]:
    return exact_rarity(location, version, model_id, neighbours)


@ray.remote(num_cpus=1)
def _look_up(
    location: StoreLocation, version: int, model_id: str, old_run: str | None, neighbours: int, part: int, parts: int
) -> tuple[Addresses, Floats]:
    return rarity_of_part(location, version, model_id, old_run, neighbours, part, parts)


@ray.remote(num_cpus=1)
def _index(location: StoreLocation) -> int:
    return build_indices(location)


def exact_rarity(location: StoreLocation, version: int, model_id: str, neighbours: int) -> tuple[Addresses, Floats]:
    """(row address, rarity) of every scene with an embedding, by comparing all with all."""
    vectors = read_vectors(location.dataset(SCENES, version), model_id)
    return vectors.row_address, knn_rarity(vectors.embedding_NE, vectors.log, neighbours)


def rank_rows(
    location: StoreLocation,
    version: int,
    model_id: str,
    weights: HardnessWeights,
    found: Sequence[tuple[Addresses, Floats]],
) -> tuple[list[str], list[int]]:
    """Compute all ranks and write them, uncommitted; as `system.store.ranking.write_ranks` returns them.

    Args:
        version: of the table, that all row addresses are of.
        found: (row address, rarity) of scenes whose rarity is new; the others keep theirs. About 40 bytes a scene.
    """
    dataset = location.dataset(SCENES, version)
    signals = read_signals(dataset, model_id)
    rarity, order = signals.rarity.copy(), np.argsort(signals.row_address)
    for addresses, values in found:
        rarity[order[np.searchsorted(signals.row_address, addresses, sorter=order)]] = values
    del order
    risk, ambiguity, rare = (Percentiles(values) for values in (signals.risk, signals.ambiguity, rarity))

    def ranks_of(rows: NDArray[np.intp]) -> dict[str, NDArray[np.floating]]:
        ranks = risk.ranks(signals.risk[rows]), ambiguity.ranks(signals.ambiguity[rows]), rare.ranks(rarity[rows])
        columns = {"risk_rank": ranks[0], "ambiguity_rank": ranks[1], "rarity_rank": ranks[2]}
        return {"rarity": rarity[rows], **columns, "hardness": fuse(*ranks, weights)}

    return write_ranks(dataset, signals.row_address, ranks_of)
