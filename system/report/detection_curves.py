"""How a detector stands, as a picture: precision and recall, misses and false alarms, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from system.infrared.matching import Matches, precision_recall
from system.infrared.miss_rate import FPPI_POINTS, miss_rate_curve

_COLORS = ("#4477aa", "#cc6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#000000", "#ee8866", "#99ddff")


def detection_curves(matches: Mapping[str, Matches], calibration: Mapping[str, Any] | None, file: Path) -> None:
    """Write curves at an overlap of 0.5, one line for each name (a class, or a subset of KAIST)."""
    figure = Figure(figsize=(13.5 if calibration else 9.2, 4.0), layout="constrained")
    axes: Sequence[Any] = figure.subplots(1, 3 if calibration else 2)
    for k, (name, found) in enumerate(matches.items()):
        if not found.truths_N.sum():
            continue
        color = _COLORS[k % len(_COLORS)]
        precision, recall = precision_recall(found, 0)
        axes[0].plot(np.append(0, recall), np.append(precision[:1], precision), color=color, label=name)
        fppi, missed = miss_rate_curve(found)
        axes[1].plot(np.append(1e-4, fppi), np.append(1, missed), color=color, label=name)
    axes[0].set(title="precision and recall", xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes[1].set(title="misses and false alarms", xlabel="false alarms a picture", ylabel="miss rate")
    axes[1].set(xscale="log", yscale="log", xlim=(5e-4, 20), ylim=(5e-3, 1.1))
    for point in FPPI_POINTS:
        axes[1].axvline(point, color="0.88", linewidth=0.8, zorder=0)
    axes[0].legend(frameon=False, fontsize="small")
    if calibration:
        bins = calibration["bins"]
        axes[2].plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
        axes[2].plot([b["mean_score"] for b in bins], [b["precision"] for b in bins], "o-", color=_COLORS[0])
        axes[2].set(title="calibration", xlabel="mean score", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    figure.savefig(file, dpi=110)
