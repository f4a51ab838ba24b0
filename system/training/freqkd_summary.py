"""What the runs of a FreqKD study say together: figures and paired differences with intervals.

Intervals hold both what another seed and what other test pictures would have done. Each bootstrap round draws test
pictures, the same for every run, and, for each drift, seeds, the same for every arm; a difference of two arms is taken
within a round. So two arms are compared on the same pictures, drifts, orders and starts. With few seeds their share of
an interval is too small: three say little of a fourth.

Legend: S seeds, K classes, B rounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from system.errors import DataError
from system.training.freqkd_arms import NO_KD

Floats = NDArray[np.floating]
RECALLED = (1, 5)


@dataclass(frozen=True, eq=False)
class RunFigures:
    """One run, as fractions. precision_K, drawn_BK: of patches, as they are and in each round's draw of pictures.

    recall, drawn_recall_B: share of pictures that find their own among the first k.
    """

    precision_K: Floats
    drawn_BK: Floats
    recall: Mapping[int, float]
    drawn_recall_B: Mapping[int, Floats]

    @classmethod
    def read(cls, file: Path, counts_BN: Floats) -> RunFigures:
        """Raises DataError: it is not what a run left."""
        try:
            with file.open("rb") as content, np.load(content) as held:
                hits = {k: (held["rank_N"] <= k).astype(float) for k in RECALLED}
                return cls(
                    held["precision_K"],
                    held["drawn_precision_BK"].astype(float),
                    {k: float(found.mean()) for k, found in hits.items()},
                    {k: counts_BN @ found / counts_BN.sum(1) for k, found in hits.items()},
                )
        except (OSError, ValueError, KeyError, BadZipFile) as error:
            raise DataError("damaged_run", f"{file}: expected the figures of a run: {error}; delete it") from error

    def values(self, figure: str, classes: Sequence[str]) -> tuple[float, Floats]:
        """(as it is, in each round) of `mean`, a class, `retrieval_r1` or `retrieval_r5`."""
        if figure.startswith("retrieval_r"):
            k = int(figure.removeprefix("retrieval_r"))
            return self.recall[k], self.drawn_recall_B[k]
        if figure == "mean":
            known_BK = np.isfinite(self.drawn_BK)
            mean_B = np.where(known_BK, self.drawn_BK, 0).sum(1) / np.maximum(known_BK.sum(1), 1)
            return float(np.nanmean(self.precision_K)), np.where(known_BK.any(1), mean_B, np.nan)
        column = list(classes).index(figure)
        return float(self.precision_K[column]), self.drawn_BK[:, column]


def summarise(
    runs: Mapping[tuple[str, int, int], RunFigures],
    arms: Sequence[str],
    drifts: Sequence[int],
    seeds: int,
    classes: Sequence[str],
    ours: str,
) -> dict[str, Any]:
    """Figures in points of 100.

    Args:
        runs: by arm, drift and seed; of the arm without training one, at drift and seed 0.
        ours: the arm that is compared with every other.
    Returns:
        arms {arm: {drift: {mean, low, high, seeds, <class>: {...}, retrieval_r1: {...}, retrieval_r5: {...}}}};
        differences {against_none {arm: {drift: {mean, low, high}}}, ours_against {rival: {drift: ours minus theirs}}}.
    """
    rounds = len(next(iter(runs.values())).drawn_BK)
    draws = {d: np.random.default_rng([1, d]).integers(0, seeds, (rounds, seeds)) for d in drifts}

    def over_seeds(arm: str, drift: int, figure: str) -> tuple[float, Floats]:
        if arm == NO_KD:
            return runs[NO_KD, 0, 0].values(figure, classes)
        found = [runs[arm, drift, seed].values(figure, classes) for seed in range(seeds)]
        drawn_SB = np.stack([values_B for _, values_B in found])
        return float(np.mean([v for v, _ in found])), drawn_SB[draws[drift].T, np.arange(rounds)].mean(0)

    def row(arm: str, drift: int) -> dict[str, Any]:
        told = _told(*over_seeds(arm, drift, "mean")) | {"seeds": 1 if arm == NO_KD else seeds}
        figures = (*classes, *(f"retrieval_r{k}" for k in RECALLED))
        return told | {figure: _told(*over_seeds(arm, drift, figure)) for figure in figures}

    def difference(a: str, b: str) -> dict[str, Any]:
        pairs = {drift: (over_seeds(a, drift, "mean"), over_seeds(b, drift, "mean")) for drift in drifts}
        return {str(drift): _told(x - y, x_B - y_B) for drift, ((x, x_B), (y, y_B)) in pairs.items()}

    rivals = [arm for arm in arms if arm != ours] if ours in arms else []
    return {
        "arms": {arm: {str(drift): row(arm, drift) for drift in drifts} for arm in arms},
        "drifts": list(drifts),
        "classes": list(classes),
        "ours": ours if ours in arms else None,
        "differences": {
            "against_none": {arm: difference(arm, NO_KD) for arm in arms if arm != NO_KD} if NO_KD in arms else {},
            "ours_against": {rival: difference(ours, rival) for rival in rivals},
        },
    }


def _told(value: float, drawn_B: Floats) -> dict[str, float | None]:
    if not np.isfinite(value) or not np.isfinite(drawn_B).any():
        return {"mean": None, "low": None, "high": None}
    low, high = np.nanpercentile(drawn_B, [2.5, 97.5])
    return {"mean": round(100 * value, 2), "low": round(100 * float(low), 2), "high": round(100 * float(high), 2)}
