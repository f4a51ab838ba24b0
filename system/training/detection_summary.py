"""What the runs of a study of detection or segmentation say together: figures and paired differences with intervals.

Intervals hold both what another seed and what other test pictures would have done, as of `freqkd_summary`: each round
draws test pictures, the same for every run, and seeds, the same for every arm.

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


@dataclass(frozen=True, eq=False)
class DetectionFigures:
    """One run on one test set, as fractions: by figure (value_K, drawn_BK)."""

    values: Mapping[str, tuple[Floats, Floats]]

    @classmethod
    def read(cls, file: Path, test: str, figures: Sequence[str]) -> DetectionFigures:
        """Raises DataError: it is not what a run left."""
        try:
            with file.open("rb") as content, np.load(content) as held:
                return cls(
                    {f: (held[f"{test}/{f}"].astype(float), held[f"{test}/drawn_{f}"].astype(float)) for f in figures}
                )
        except (OSError, ValueError, KeyError, BadZipFile) as error:
            raise DataError("damaged_run", f"{file}: expected figures on {test}: {error}; delete it") from error

    def over(self, figure: str, classes: Sequence[int]) -> tuple[float, Floats]:
        """Mean over some classes: (as it is, in each round); classes that are not there are left out."""
        value_K, drawn_BK = self.values[figure]
        chosen_BK = drawn_BK[:, list(classes)]
        known = np.isfinite(chosen_BK)
        mean_B = np.where(known, chosen_BK, 0).sum(1) / np.maximum(known.sum(1), 1)
        own = value_K[list(classes)]
        own = own[np.isfinite(own)]
        return float(own.mean()) if len(own) else float("nan"), np.where(known.any(1), mean_B, np.nan)


def summarise_detection(
    runs: Mapping[tuple[str, int, int], DetectionFigures],
    arms: Sequence[str],
    drifts: Sequence[int],
    seeds: int,
    classes: Sequence[str],
    ours: str,
) -> dict[str, Any]:
    """Figures in points of 100.

    Args:
        runs: by arm, drift and seed; of the arm without distillation at drift 0.
    Returns:
        arms {arm: {drift: {<figure>: {mean, low, high, seeds}, <class>: {...} (of it, the first figure)}}}; differences
        {against_none {arm: {drift: {<figure>}}}, ours_against {rival: {drift: {<figure>}}}}.
    """
    figures = tuple(next(iter(runs.values())).values)
    rounds = len(next(iter(runs.values())).values[figures[0]][1])
    draws_BS = np.random.default_rng(1).integers(0, seeds, (rounds, seeds))
    every = range(len(classes))

    def over_seeds(arm: str, drift: int, figure: str, which: Sequence[int]) -> tuple[float, Floats]:
        found = [runs[arm, 0 if arm == NO_KD else drift, seed].over(figure, which) for seed in range(seeds)]
        drawn_SB = np.stack([values_B for _, values_B in found])
        known = [value for value, _ in found if np.isfinite(value)]
        return float(np.mean(known)) if known else float("nan"), drawn_SB[draws_BS.T, np.arange(rounds)].mean(0)

    def row(arm: str, drift: int) -> dict[str, Any]:
        told: dict[str, Any] = {f: _told(*over_seeds(arm, drift, f, every)) | {"seeds": seeds} for f in figures}
        return told | {name: _told(*over_seeds(arm, drift, figures[0], [k])) for k, name in enumerate(classes)}

    def difference(a: str, b: str) -> dict[str, Any]:
        told: dict[str, Any] = {}
        for drift in drifts:
            told[str(drift)] = {}
            for figure in figures:
                (x, x_B), (y, y_B) = over_seeds(a, drift, figure, every), over_seeds(b, drift, figure, every)
                told[str(drift)][figure] = _told(x - y, x_B - y_B)
        return told

    rivals = [arm for arm in arms if arm != ours] if ours in arms else []
    return {
        "arms": {arm: {str(drift): row(arm, drift) for drift in drifts} for arm in arms},
        "differences": {
            "against_none": {arm: difference(arm, NO_KD) for arm in arms if arm != NO_KD} if NO_KD in arms else {},
            "ours_against": {rival: difference(ours, rival) for rival in rivals},
        },
    }


def _told(value: float, drawn_B: Floats) -> dict[str, Any]:
    if not np.isfinite(value) or not np.isfinite(drawn_B).any():
        return {"mean": None, "low": None, "high": None}
    low, high = np.nanpercentile(drawn_B, [2.5, 97.5])
    return {"mean": round(100 * value, 2), "low": round(100 * float(low), 2), "high": round(100 * float(high), 2)}
