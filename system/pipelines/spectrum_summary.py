"""From sums over pairs to what is reported: ratios with intervals, curves, splits, and a plain word on the paper's 2.4.

Legend: Q draws, A preparations, K comparisons, L blocks, B bands, M metrics, R shells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from system.freqkd.spectrum import BANDS, METRICS, PREPARATIONS
from system.pipelines.spectrum_sums import CURVES, DISTANCES, RELATIONS, PairSums, interval

PAPER_RATIO = 2.4
# The paper states one number without an interval: within a fifth of it counts as the same.
PAPER_TOLERANCE = 0.2
HEADLINE = PREPARATIONS.index("standardised")
ALL_METRICS = (*METRICS, "cka", "mmd")
INFRARED = 0
# Of a split: the draws of fewer pairs tell nothing.
LEAST_PAIRS = 5
Array = NDArray[np.float64]


def summarise(
    sums: PairSums,
    splits: Mapping[str, Mapping[str, PairSums]],
    comparisons: Sequence[str],
    blocks: Sequence[int],
    radii: Sequence[float],
) -> dict[str, Any]:
    """Everything that the report shows, as JSON."""
    metrics_QKLBM = _metrics(sums)
    ratios_QKM = _ratios(metrics_QKLBM)
    headline = {name: interval(ratios_QKM[:, INFRARED, m]) for m, name in enumerate(ALL_METRICS)}
    return {
        "pairs": sums.pairs,
        "blocks": list(blocks),
        **{f"ratio_{name}": headline[name] for name in METRICS},
        "paper_ratio": PAPER_RATIO,
        "least_pairs": LEAST_PAIRS,
        "agreement": {name: agreement(headline[name]) for name in METRICS},
        "verdict": _verdict({name: headline[name] for name in METRICS}),
        "preparations": _preparations(sums),
        "ratios": {
            name: {metric: interval(ratios_QKM[:, k, m]) for m, metric in enumerate(ALL_METRICS)}
            for k, name in enumerate(comparisons)
        },
        "bands": {name: _bands(metrics_QKLBM[:, k]) for k, name in enumerate(comparisons)},
        "ratio_against_controls": {
            name: {
                metric: interval(ratios_QKM[:, INFRARED, m] / _known(ratios_QKM[:, k, m]))
                for m, metric in enumerate(METRICS)
            }
            for k, name in enumerate(comparisons)
            if k != INFRARED
        },
        "per_block": {
            name: {
                metric: {
                    band: [interval(metrics_QKLBM[:, k, block, b, m]) for block in range(len(blocks))]
                    for b, band in enumerate(BANDS)
                }
                for m, metric in enumerate(ALL_METRICS)
            }
            for k, name in enumerate(comparisons)
        },
        "energy": _energy(sums, comparisons),
        "curves": _curves(sums, comparisons, blocks, radii),
        "splits": {
            split: {part: _part(found) for part, found in parts.items() if found.pairs}
            for split, parts in splits.items()
        },
    }


def agreement(ratio: Mapping[str, float | None]) -> dict[str, Any]:
    """Whether a ratio lies within a fifth of the paper's, and in words what it says instead."""
    value, low, high = (ratio[key] for key in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return {"agrees": False, "told": "not known"}
    agrees = abs(value / PAPER_RATIO - 1) <= PAPER_TOLERANCE
    if agrees:
        told = f"agrees with the paper's {PAPER_RATIO}x"
    elif low <= PAPER_RATIO <= high:
        told = f"too few pairs to tell it from the paper's {PAPER_RATIO}x"
    elif high < 1:
        told = f"says the opposite of the paper's {PAPER_RATIO}x: the low band differs more"
    elif low <= 1:
        told = f"does not agree with the paper's {PAPER_RATIO}x: no clear difference between the bands"
    elif value < PAPER_RATIO:
        told = f"same direction as the paper's {PAPER_RATIO}x, but clearly less"
    else:
        told = f"same direction as the paper's {PAPER_RATIO}x, but clearly more"
    return {"agrees": agrees, "told": told}


def _verdict(ratios: Mapping[str, Mapping[str, float | None]]) -> str:
    """One sentence a metric."""
    names = {"mse": "MSE", "nmse": "NMSE", "cosine": "1 - cosine"}
    return " ".join(
        f"{names[metric]}: {'not known' if ratio['value'] is None else format(ratio['value'], '.2f')}, "
        f"{agreement(ratio)['told']}."
        for metric, ratio in ratios.items()
    )


def _metrics(sums: PairSums) -> Array:
    """[Q, K, L, B, 5]: the three distances, 1 - CKA and squared MMD, as means over pairs."""
    distances = sums.means(DISTANCES)[:, HEADLINE]
    relations = sums.means(RELATIONS)
    both, rgb, other, mmd = (relations[..., k] for k in range(4))
    cka = both / np.sqrt(_known(rgb) * _known(other))
    return np.concatenate([distances, (1 - cka)[..., None], mmd[..., None]], axis=-1)


def _ratios(metrics_QKLBM: Array) -> Array:
    """High over low of the means over blocks."""
    mean = metrics_QKLBM.mean(axis=2)
    return mean[:, :, 1] / _known(mean[:, :, 0])


def _known(values: Array) -> Array:
    """What can be divided by."""
    return np.where(values > 1e-20, values, np.nan)


def _bands(metrics_QLBM: Array) -> dict[str, Any]:
    mean = metrics_QLBM.mean(axis=1)
    return {
        metric: {band: interval(mean[:, b, m]) for b, band in enumerate(BANDS)} for m, metric in enumerate(ALL_METRICS)
    }


def _preparations(sums: PairSums) -> dict[str, Any]:
    """How much the headline hangs on whether features are centred and normalised."""
    found: dict[str, Any] = {}
    distances = sums.means(DISTANCES)
    for a, preparation in enumerate(PREPARATIONS):
        ratios = _ratios(distances[:, a])[:, INFRARED]
        each = {metric: interval(ratios[:, m]) for m, metric in enumerate(METRICS)}
        found[preparation] = {metric: ratio | agreement(ratio) for metric, ratio in each.items()}
    return found


def _energy(sums: PairSums, comparisons: Sequence[str]) -> dict[str, Any]:
    """High over low of the squared norms themselves: what raw MSE follows."""
    relations = sums.means(RELATIONS).mean(axis=2)
    rgb, other = relations[..., 4], relations[..., 5]
    found = {"rgb": interval(rgb[:, INFRARED, 1] / _known(rgb[:, INFRARED, 0]))}
    return found | {name: interval(other[:, k, 1] / _known(other[:, k, 0])) for k, name in enumerate(comparisons)}


def _curves(
    sums: PairSums, comparisons: Sequence[str], blocks: Sequence[int], radii: Sequence[float]
) -> dict[str, Any]:
    """Of each radius: NMSE (energy of the difference over RGB's) and 1 - cosine of the spectra, mean over blocks."""
    energies = sums.means(CURVES)
    difference, rgb, other = (energies[..., k] for k in range(3))
    # Standardised features have next to nothing at r = 0.
    seen = slice(1, None)
    nmse = (difference / _known(rgb))[..., seen]
    cosine = 1 - ((rgb + other - difference) / (2 * np.sqrt(_known(rgb) * _known(other))))[..., seen]
    share = (rgb / _known(rgb.sum(axis=-1, keepdims=True)))[:, INFRARED, :, seen]

    def lines(values_QR: Array) -> list[dict[str, float | None]]:
        return [interval(values_QR[:, r], 4) for r in range(values_QR.shape[1])]

    return {
        "radius": [float(f"{radius:.4g}") for radius in radii[seen]],
        "energy_share_rgb": lines(share.mean(axis=1)),
        "mean": {
            name: {"nmse": lines(nmse[:, k].mean(axis=1)), "cosine": lines(cosine[:, k].mean(axis=1))}
            for k, name in enumerate(comparisons)
        },
        "infrared_by_block": {
            str(block): {"nmse": lines(nmse[:, INFRARED, n]), "cosine": lines(cosine[:, INFRARED, n])}
            for n, block in enumerate(blocks)
        },
    }


def _part(sums: PairSums) -> dict[str, Any]:
    metrics = _metrics(sums)[:, INFRARED]
    if sums.pairs < LEAST_PAIRS:
        metrics = metrics[:1]
    mean = metrics.mean(axis=1)
    ratios = mean[:, 1] / _known(mean[:, 0])
    return {
        "pairs": sums.pairs,
        "ratios": {metric: interval(ratios[:, m]) for m, metric in enumerate(ALL_METRICS)},
        "bands": _bands(metrics),
    }
