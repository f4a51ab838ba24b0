"""How well pairs that drifted apart are registered: infrared pictures of a real corpus are moved by known amounts.

Each pair's infrared picture is moved by a random translation, up to a drift in both directions, and the pair registered
by `register_pair`. The error is the distance from what was injected, so it includes the corpus's
own misalignment. Prints one JSON object: for each drift the median and the 90th percentile of the error in pixels, the
share of pairs left at exactly zero and of those that are more than half a patch wrong.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from system.backbones.loading import DINOV2
from system.backbones.vit import load_vit, vit_facts
from system.freqkd.distiller import DistillConfig, teacher_features
from system.freqkd.registration import register_pair
from system.pairs.pixels import read_pair
from system.pairs.registry import open_pairs
from system.pairs.resize import fit_pair
from system.training.freqkd_arms import drift_shifts, drifted


def accuracy(found_N2: NDArray[np.int64], injected_N2: NDArray[np.int64], patch: int) -> dict[str, float]:
    """Figures of one drift."""
    error_px = np.linalg.norm(found_N2 - injected_N2, axis=1)
    return {
        "median_px": round(float(np.median(error_px)), 2),
        "p90_px": round(float(np.percentile(error_px, 90)), 2),
        "share_at_zero": round(float((found_N2 == 0).all(axis=1).mean()), 3),
        "share_wrong": round(float((error_px > patch / 2).mean()), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", required=True, help="a folder, or a COCO file with file_name2")
    parser.add_argument("--height", type=int, default=238)
    parser.add_argument("--width", type=int, default=322)
    parser.add_argument("--count", type=int, default=40, help="pairs, evenly over the corpus")
    parser.add_argument("--drifts", type=int, nargs="+", default=[0, 4, 8, 14, 28])
    parser.add_argument("--tower", default=DINOV2)
    parser.add_argument("--blocks", type=int, nargs="+", default=list(DistillConfig().blocks))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = load_vit(arguments.tower)
    patch = vit_facts(model).patch
    corpus = open_pairs(arguments.pairs).pairs
    count = min(arguments.count, len(corpus))
    chosen = [corpus[int(k)] for k in np.linspace(0, len(corpus) - 1, count)]
    pixels = [fit_pair(read_pair(pair), (arguments.height, arguments.width)) for pair in chosen]
    shifts = {drift: drift_shifts(drift, arguments.seed, count) for drift in arguments.drifts}
    found: dict[int, list[tuple[int, int]]] = {drift: [] for drift in arguments.drifts}
    for number, pair in enumerate(pixels):
        rgb = torch.tensor(pair.rgb_HWC)
        ours = [f[0] for f in teacher_features(model, rgb[None], arguments.blocks)]
        for drift in arguments.drifts:
            moved = torch.tensor(drifted(pair.infrared_HWC[None], shifts[drift][number : number + 1])[0])
            theirs = [f[0] for f in teacher_features(model, moved[None], arguments.blocks)]
            shift = register_pair(rgb, moved, ours, theirs, patch)
            found[drift].append((shift.dy_px, shift.dx_px))
    figures: dict[str, Any] = {"pairs": count, "height": arguments.height, "width": arguments.width}
    figures["drifts"] = {
        str(drift): accuracy(np.array(found[drift]), shifts[drift], patch) for drift in arguments.drifts
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
