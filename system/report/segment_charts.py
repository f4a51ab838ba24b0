"""How a segmenter stands, as a picture: overlap of each class with its interval, and which classes it mixes up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure


def segment_charts(figures: Mapping[str, Any], file: Path) -> None:
    """Write both charts of what `segment_figures` told, and what the masks are that it was judged by."""
    classes = list(figures["classes"])
    side = 3.2 + 0.45 * len(classes)
    figure = Figure(figsize=(2 * side, side), layout="constrained")
    bars, matrix = figure.subplots(1, 2)
    rows = [figures["classes"][name]["iou"] for name in classes]
    for k, row in enumerate(rows):
        if row["value"] is not None:
            bars.barh(k, row["value"], color="#4477aa")
            bars.plot([row["low"], row["high"]], [k, k], color="#222222")
    bars.set(title="intersection over union", xlim=(0, 100), yticks=range(len(classes)), yticklabels=classes)
    bars.invert_yaxis()
    counts = np.asarray(figures["confusion"], float)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    matrix.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(shares.shape):
        ink = "white" if shares[row, column] > 0.5 else "black"
        matrix.text(column, row, f"{100 * shares[row, column]:.0f}", ha="center", va="center", color=ink, fontsize=8)
    matrix.set(title="found, % of the pixels of each class", xticks=range(len(classes)), yticks=range(len(classes)))
    matrix.set_xticklabels(classes, rotation=45, ha="right")
    matrix.set_yticklabels(classes)
    figure.suptitle(f"judged by {figures['masks']}", fontsize=9)
    figure.savefig(file, dpi=110)
