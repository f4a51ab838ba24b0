"""Figures of an evaluation, from plain arrays. Unknown never counts.

Legend: N scenes, K tags, Q queries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from system.labels.table import PRESENT

Floats = NDArray[np.floating]
_THRESHOLDS = np.linspace(0.02, 0.98, 49)


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % bootstrap interval; NaN where it is not defined."""

    value: float
    low: float
    high: float

    def as_json(self) -> dict[str, float | None]:
        return {name: None if np.isnan(value) else round(value, 4) for name, value in vars(self).items()}


def bootstrap(
    figure: Callable[[NDArray[np.intp]], float],
    count: int,
    rounds: int = 1000,
    seed: int = 0,
    groups: Sequence[str] | None = None,
) -> Interval:
    """A figure of N rows, and what it would be for other draws of as many rows.

    Args:
        figure: from row numbers, repeated ones among them, to the figure; NaN where it is not defined.
        groups: of each row. Whole groups are drawn where they are given: rows of one drive are alike, and drawing them
            singly would make the interval too narrow.
    """
    rng = np.random.default_rng(seed)
    value = figure(np.arange(count)) if count else np.nan
    if np.isnan(value):
        return Interval(np.nan, np.nan, np.nan)
    units = [np.array([n]) for n in range(count)]
    if groups is not None:
        names = np.array(groups)
        units = [np.flatnonzero(names == name) for name in dict.fromkeys(groups)]
    whole = len(units)
    draws = np.array([figure(np.concatenate([units[k] for k in rng.integers(0, whole, whole)])) for _ in range(rounds)])
    low, high = np.nanpercentile(draws, [2.5, 97.5]) if np.isfinite(draws).any() else (np.nan, np.nan)
    return Interval(float(value), float(low), float(high))


def average_precision(scores_N: Floats, values_N: NDArray[np.int8]) -> float:
    """AP of one tag over the scenes where it is known; NaN without both kinds.

    As scikit-learn's, which takes twenty times as long; a bootstrap asks for a hundred thousand.
    """
    known = values_N >= 0
    wanted, scores = values_N[known] == PRESENT, scores_N[known]
    if not wanted.any() or wanted.all() or np.isnan(scores).any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    # Scenes with one score are found together.
    ends = np.r_[np.flatnonzero(np.diff(scores[order])), len(order) - 1]
    hits = np.cumsum(wanted[order])[ends]
    return float((np.diff(hits, prepend=0) * hits / (ends + 1)).sum() / hits[-1])


def mean_average_precision(scores_NK: Floats, values_NK: NDArray[np.int8], tags: Sequence[int]) -> float:
    """Mean AP over tags; those without both kinds are left out of it."""
    found = [average_precision(scores_NK[:, k], values_NK[:, k]) for k in tags]
    known = [value for value in found if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def choose_thresholds(scores_NK: Floats, values_NK: NDArray[np.int8]) -> Floats:
    """Per tag the probability [K] with the best F1 on validation scenes; 0.5 where they do not show the tag."""
    chosen = np.full(scores_NK.shape[1], 0.5)
    for k in range(scores_NK.shape[1]):
        known = values_NK[:, k] >= 0
        wanted, scores = values_NK[known, k] == PRESENT, scores_NK[known, k]
        if wanted.any() and not wanted.all():
            f1 = [_f1(wanted, scores >= threshold) for threshold in _THRESHOLDS]
            best = np.flatnonzero(np.array(f1) == max(f1))
            chosen[k] = _THRESHOLDS[best[len(best) // 2]]
    return chosen


def micro_f1(scores_NK: Floats, values_NK: NDArray[np.int8], thresholds_K: Floats, tags: Sequence[int]) -> float:
    """F1 over all known (scene, tag) pairs of some tags; NaN where none is present."""
    columns = list(tags)
    known = values_NK[:, columns] >= 0
    wanted = (values_NK[:, columns] == PRESENT)[known]
    given = (scores_NK[:, columns] >= thresholds_K[columns])[known]
    return _f1(wanted, given) if wanted.any() else float("nan")


def retrieval_at(scores_QN: Floats, relevant_QN: NDArray[np.int8], k: int = 10) -> tuple[float, float]:
    """(mean nDCG@k, mean recall@k) over queries.

    Args:
        relevant_QN: 1 relevant, 0 not, -1 unknown: left out of that query's gallery. Recall is of min(k, relevant).
    """
    gains, recalls = [], []
    for scores, relevant in zip(scores_QN, relevant_QN, strict=True):
        known = relevant >= 0
        wanted = relevant[known] == PRESENT
        if not wanted.any() or wanted.all():
            continue
        hits = wanted[np.argsort(-scores[known], kind="stable")[:k]]
        discount = 1 / np.log2(np.arange(2, k + 2))
        most = min(k, int(wanted.sum()))
        gains.append(float((hits * discount[: len(hits)]).sum() / discount[:most].sum()))
        recalls.append(float(hits.sum() / most))
    return (float(np.mean(gains)), float(np.mean(recalls))) if gains else (float("nan"), float("nan"))


def spearman(a_N: Floats, b_N: Floats) -> float:
    """Rank correlation of what is known in both; NaN where one of them does not vary."""
    known = np.isfinite(a_N) & np.isfinite(b_N)
    a, b = rankdata(a_N[known]), rankdata(b_N[known])
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def top_decile_share(predicted_N: Floats, true_N: Floats) -> float:
    """Share of the true top tenth that lies in the predicted top tenth; 0.1 by chance."""
    known = np.isfinite(predicted_N) & np.isfinite(true_N)
    count = max(1, round(0.1 * int(known.sum())))
    if known.sum() < 10:
        return float("nan")
    tops = [set(np.argsort(-values[known], kind="stable")[:count].tolist()) for values in (predicted_N, true_N)]
    return len(tops[0] & tops[1]) / count


def roc_area(scores_N: Floats, wanted_N: NDArray[np.bool_]) -> float:
    """Area under the ROC curve over known scores; NaN without both kinds."""
    known = np.isfinite(scores_N)
    if not wanted_N[known].any() or wanted_N[known].all():
        return float("nan")
    return float(roc_auc_score(wanted_N[known], scores_N[known]))


def forecast_errors(
    paths_NMT2: Floats, probability_NM: Floats, future_NT2: Floats, miss_m: float = 2.0
) -> Mapping[str, Floats]:
    """Errors [N] of forecasts against the path driven, in m.

    Returns:
        ade, fde: of the likeliest mode. min_ade, min_fde: of the best one. miss: the best one ends over 2 m away (1 or
        0), as Argoverse and nuScenes count it.
    """
    distance_NMT = np.linalg.norm(paths_NMT2 - future_NT2[:, None], axis=-1)
    likeliest = distance_NMT[np.arange(len(paths_NMT2)), probability_NM.argmax(1)]
    ends_NM = distance_NMT[..., -1]
    return {
        "ade": likeliest.mean(-1),
        "fde": likeliest[:, -1],
        "min_ade": distance_NMT.mean(-1).min(1),
        "min_fde": ends_NM.min(1),
        "miss": (ends_NM.min(1) > miss_m).astype(np.float64),
    }


def _f1(wanted: NDArray[np.bool_], given: NDArray[np.bool_]) -> float:
    both = int((wanted & given).sum())
    total = int(wanted.sum() + given.sum())
    return 2 * both / total if total else 0.0
