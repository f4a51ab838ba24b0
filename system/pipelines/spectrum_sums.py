"""Sums over pairs that can be merged in any order, with those of bootstrap draws beside them: memory does not grow.

A draw of the bootstrap gives every pair a Poisson(1) weight, told by the pair's number and the seed alone. So draws are
made while pairs stream by, and neither their order nor their batches change the result beyond rounding.
Legend: N pairs, D figures of a pair, Q draws; column 0 of Q + 1 is the data itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

DISTANCES, RELATIONS, CURVES = "distances", "relations", "curves"
Figures = Mapping[str, NDArray[np.floating]]


def draw_weights(numbers: Sequence[int], draws: int, seed: int) -> NDArray[np.float64]:
    """How often each pair counts in the data and in each draw, [Q + 1, N]."""
    columns = [np.random.default_rng([seed, number]).poisson(1.0, draws) for number in numbers]
    drawn = np.stack(columns, axis=1) if columns else np.zeros((draws, 0))
    return np.concatenate([np.ones((1, len(numbers))), drawn]).astype(np.float64)


class PairSums:
    """Weighted sums of named figures over pairs."""

    def __init__(self) -> None:
        self.pairs = 0
        self._weight_Q: NDArray[np.float64] | None = None
        self._sums: dict[str, NDArray[np.float64]] = {}

    def add(self, figures: Figures, weights_QN: NDArray[np.float64]) -> None:
        """Add pairs: each figure [N, ...], of the same names and shapes every time."""
        other = PairSums()
        other.pairs = weights_QN.shape[1]
        other._weight_Q = weights_QN.sum(axis=1)
        other._sums = {
            name: (weights_QN @ values.reshape(len(values), -1).astype(np.float64)).reshape(-1, *values.shape[1:])
            for name, values in figures.items()
        }
        self.merge(other)

    def merge(self, other: PairSums) -> None:
        """Add what another has seen; the two must not share a pair."""
        if other._weight_Q is None:
            return
        self.pairs += other.pairs
        self._weight_Q = other._weight_Q.copy() if self._weight_Q is None else self._weight_Q + other._weight_Q
        for name, sums in other._sums.items():
            self._sums[name] = self._sums[name] + sums if name in self._sums else sums.copy()

    def means(self, name: str) -> NDArray[np.float64]:
        """[Q + 1, ...]: of the data, then of each draw; NaN for a draw without any pair."""
        if self._weight_Q is None:
            raise ValueError("no pair was added")
        weight = np.where(self._weight_Q > 0, self._weight_Q, np.nan)
        sums = self._sums[name]
        return sums / weight.reshape(-1, *[1] * (sums.ndim - 1))


def interval(values_Q: NDArray[np.float64], digits: int = 5) -> dict[str, float | None]:
    """{value, low, high}: of the data, and the 95 % percentile interval of the draws; None where nothing is known."""
    drawn = values_Q[1:][np.isfinite(values_Q[1:])]
    value = float(values_Q[0])
    low, high = np.quantile(drawn, (0.025, 0.975)) if len(drawn) > 1 else (None, None)
    return {
        "value": _rounded(value, digits),
        "low": None if low is None else _rounded(float(low), digits),
        "high": None if high is None else _rounded(float(high), digits),
    }


def _rounded(value: float, digits: int) -> float | None:
    """To so many significant digits."""
    return float(f"{value:.{digits}g}") if np.isfinite(value) else None
