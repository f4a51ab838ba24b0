"""The line from contrast to logit for each tag of a tower whose contrasts are not CLIP's.

Over ordinary road pictures of several data sets, each weighing the same, a tag's contrast has a mean and a standard
deviation. The line puts the mean at logit -3. Where logit 0 lies depends on how well the tag tells labelled pictures
apart (area under the ROC curve), so that a tag which the tower cannot see is seldom claimed.
Prints lines to paste into taxonomy.toml, and one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from system.backbones.loading import load_tower
from system.backbones.preprocess import resize_for_tower
from system.backbones.runtime import choose_runtime
from system.miner.tags import embed_taxonomy
from system.miner.taxonomy import load_taxonomy

LOGIT_OF_MEAN = -3.0
# Standard deviations from the mean to logit 0, for a tag without labels and for one that the tower misses.
UNLABELLED, UNSEEN = 2.0, 3.0
# A tag that the tower sees is claimed on this share of ordinary pictures that lack it.
SEEN_FROM_ROC_AREA, FALSE_SHARE = 0.7, 0.05
MOST_PICTURES_OF_A_SET = 120
# What no single picture shows.
MOTION = {"pedestrian_crossing", "turning", "stopped_in_traffic", "close_lead", "hard_braking", "cut_in"}
# Labels of frames.csv that mean a tag, and those of the pictures that lack it in the same sets.
LABELS = {
    "night": ("night", "daytime"),
    "dusk": ("dusk", "daytime"),
    "fog": ("fog", "daytime"),
    "large_vehicle": ("truck;bus", "car"),
    "cyclist": ("bicyclist;bicycle", "car"),
    "motorcycle": ("motorcycle", "car"),
    "pedestrian": ("pedestrian", "car"),
    "many_pedestrians": ("many_pedestrians", "car"),
}


def roc_area(positive: NDArray[np.float32], negative: NDArray[np.float32]) -> float:
    """Share of (positive, negative) pairs in the right order, ties half."""
    order = positive[:, None] - negative[None]
    return float((order > 0).mean() + 0.5 * (order == 0).mean())


def weighted_quantile(values: NDArray[np.float32], weights: NDArray[np.float64], share: float) -> float:
    """The value below which `share` of the weight lies."""
    order = np.argsort(values)
    below = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(below, share * below[-1])])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tower", default="packaged")
    arguments = parser.parse_args()
    root = Path(os.environ["NIGHTMINER_DATA"])
    tower = load_tower(arguments.tower, choose_runtime(2, torch.cuda.is_available()))
    taxonomy = load_taxonomy()
    words = embed_taxonomy(tower, taxonomy, 1.0)

    def contrast(files: list[Path]) -> NDArray[np.float32]:
        pictures = [resize_for_tower(np.asarray(Image.open(f).convert("RGB")), tower.input_size) for f in files]
        pooled = tower.encode_images(torch.from_numpy(np.stack(pictures))).pooled_NE
        return (pooled @ (words.prompts_KE - words.opposites_KE).T).cpu().numpy()

    with (root / "frames" / "frames.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    of_frame = contrast([root / row["path"] for row in rows])
    tags = [set(row["tags"].split(";")) for row in rows]
    # Contrasts and labels of each set, but for one that is not ordinary.
    sets: list[tuple[NDArray[np.float32], list[set[str]]]] = []
    for name in sorted({row["dataset"] for row in rows} - {"dawn_fog"}):
        chosen = [k for k, row in enumerate(rows) if row["dataset"] == name]
        sets.append((of_frame[chosen], [tags[k] for k in chosen]))
    for folder in sorted((root / "driving").iterdir()):
        files = sorted(folder.glob("*/images/**/*.jpg")) + sorted(folder.glob("*/images/**/*.png"))
        if files:
            values = contrast(files[:: -(-len(files) // MOST_PICTURES_OF_A_SET)])
            sets.append((values, [set() for _ in values]))
    means = np.stack([values.mean(0) for values, _ in sets])
    squares = np.stack([(values**2).mean(0) for values, _ in sets])
    mean, deviation = means.mean(0), np.sqrt(squares.mean(0) - means.mean(0) ** 2)
    result: dict[str, dict[str, float]] = {}
    for k, name in enumerate(taxonomy.names):
        line: dict[str, float] = {}
        deviations = UNSEEN if name in MOTION else UNLABELLED
        positive = negative = of_frame[:0, k]
        if name in LABELS:
            with_it, without = (set(labels.split(";")) for labels in LABELS[name])
            is_positive = np.array([bool(with_it & t) for t in tags])
            is_negative = np.array([bool(without & t) for t in tags]) & ~is_positive
            positive, negative = of_frame[is_positive, k], of_frame[is_negative, k]
            line["roc_area"] = round(roc_area(positive, negative), 2)
            lacking = [values[[not with_it & t for t in labels], k] for values, labels in sets]
            share = np.concatenate([np.full(len(values), 1 / max(1, len(values))) for values in lacking])
            above_mean = (
                float(weighted_quantile(np.concatenate(lacking), share, 1 - FALSE_SHARE) - mean[k]) / deviation[k]
            )
            deviations = max(above_mean, 0.5) if line["roc_area"] >= SEEN_FROM_ROC_AREA else UNSEEN
        line["midpoint"] = round(float(mean[k] + deviations * deviation[k]), 3)
        line["scale"] = round(float(-LOGIT_OF_MEAN / (deviations * deviation[k])), 1)
        if len(positive):
            line["true_share"] = round(float((positive > line["midpoint"]).mean()), 2)
            line["false_share"] = round(float((negative > line["midpoint"]).mean()), 2)
        result[name] = line
        told = {key: value for key, value in line.items() if key not in ("midpoint", "scale")}
        print(
            f"{name:20s} calibration.{tower.name} = {{ midpoint = {line['midpoint']}, scale = {line['scale']} }}", told
        )
    print(json.dumps({"tower": tower.name, "tower_id": tower.tower_id, "sets": len(sets), "tags": result}))


if __name__ == "__main__":
    main()
