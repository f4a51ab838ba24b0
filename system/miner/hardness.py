"""Hardness of scenes: percentile ranks of risk, trajectory ambiguity and semantic rarity, and their weighted mean.

A rank is relative to all scenes at hand. What is unknown is NaN and stays NaN; for the mean it counts as the middle.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_validator

from system.config import FrozenConfig

# Similarities of one block of scenes to all others take at most this much memory.
_BLOCK_BYTES = 64 << 20


class HardnessWeights(FrozenConfig):
    """How much each component counts. Risk leads, because a dangerous scene is hard however common it looks."""

    risk: float = Field(default=0.5, ge=0, allow_inf_nan=False)
    ambiguity: float = Field(default=0.25, ge=0, allow_inf_nan=False)
    rarity: float = Field(default=0.25, ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _something_counts(self) -> HardnessWeights:
        if self.risk + self.ambiguity + self.rarity <= 0:
            raise ValueError("at least one weight must be positive")
        return self


class Percentiles:
    """Known values in order, among which others are ranked; held in the type that they came in."""

    def __init__(self, values: ArrayLike) -> None:
        """values: [N], NaN where unknown; infinities are ranked like any value."""
        array = np.asarray(values)
        self._sorted = np.sort(array[~np.isnan(array)])

    def ranks(self, values: ArrayLike) -> NDArray[np.float64]:
        """Share of the known values that lie below each value, equal ones (itself among them) counted half.

        Returns:
            float64, NaN where the value is. Of all the values: in (0, 1), mean 0.5.
        """
        array = np.asarray(values, dtype=self._sorted.dtype)
        known = ~np.isnan(array)
        ranks = np.full(array.shape, np.nan)
        sides = (np.searchsorted(self._sorted, array[known], side) for side in ("left", "right"))
        ranks[known] = sum(side.astype(np.float64) for side in sides) / (2 * max(1, len(self._sorted)))
        return ranks


def percentile_ranks(values: ArrayLike) -> NDArray[np.float64]:
    """Ranks of values among themselves, as of `Percentiles`; a single known value has rank 0.5."""
    array = np.asarray(values, dtype=np.float64)
    return Percentiles(array).ranks(array)


def fuse(
    risk_rank: ArrayLike, ambiguity_rank: ArrayLike, rarity_rank: ArrayLike, weights: HardnessWeights
) -> NDArray[np.float64]:
    """Hardness: the weighted mean of the ranks, an unknown one counted as the middle.

    So a scene of which little is known is not at the top for the one thing that is known of it.

    Args:
        risk_rank, ambiguity_rank, rarity_rank: [N] in [0, 1], NaN where unknown.
    Returns:
        float64 [N] in [0, 1]; NaN where nothing with a positive weight is known.
    """
    ranks_3N = np.stack([np.asarray(r, dtype=np.float64) for r in (risk_rank, ambiguity_rank, rarity_rank)])
    weight_31 = np.array([[weights.risk], [weights.ambiguity], [weights.rarity]])
    is_known_N = ((weight_31 > 0) & ~np.isnan(ranks_3N)).any(0)
    fused_N = (weight_31 * np.nan_to_num(ranks_3N, nan=0.5)).sum(0) / weight_31.sum()
    return np.where(is_known_N, fused_N, np.nan)


def knn_rarity(embeddings_NE: ArrayLike, log_ids_N: ArrayLike, k: int) -> NDArray[np.float32]:
    """Semantic rarity: mean cosine distance to the k nearest scenes of other logs, by exact search.

    Scenes of one log look alike; a scene is rare only if no other drive has seen the like.

    Args:
        embeddings_NE: any length; rows that are zero or hold a NaN are nobody's neighbour.
        log_ids_N: numbers or strings.
        k: neighbours; fewer where other logs have fewer scenes.
    Returns:
        float32 [N] in [0, 2]; NaN for such rows, and where no other log has a scene. Memory is N*E + 64 MB or so.
    """
    embeddings = np.asarray(embeddings_NE, dtype=np.float32)
    num_scenes = len(embeddings)
    rarity = np.full(num_scenes, np.nan, np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)
    known = np.flatnonzero(np.isfinite(unit).all(-1)) if num_scenes else np.zeros(0, np.intp)
    if not len(known):
        return rarity
    unit = unit[known]
    log = np.unique(np.asarray(log_ids_N)[known], return_inverse=True)[1]
    num_others = len(log) - np.bincount(log)[log]
    block = max(1, _BLOCK_BYTES // (4 * len(unit)))
    for start in range(0, len(unit), block):
        rows = slice(start, start + block)
        distance = 1.0 - unit[rows] @ unit.T
        distance[log[rows, None] == log[None]] = np.inf
        taken = min(k, len(unit))
        nearest = np.partition(distance, taken - 1, axis=1)[:, :taken]
        is_other = np.isfinite(nearest)
        sums = np.where(is_other, np.clip(nearest, 0.0, 2.0), 0.0).sum(1)
        counts = np.minimum(k, num_others[rows])
        rarity[known[rows]] = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return rarity
