"""How much of the bare detector's speed prediction keeps: predicted images a second / bare batched images a second.

Both with the same detector, threads, batches and pictures, in one run: the bare detector is measured before and after,
on pictures that are already decoded and resized, and the mean of the two counts. Prediction reads, detects and writes;
its first batch, which waits for the model to load, is left out. Prints one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from system.infrared.detector import Detector
from system.pairs.files import list_pictures
from system.pairs.pixels import read_infrared
from system.pairs.resize import fit_picture
from tests.benchmarks.jobs_under_test import run_job

_BATCH = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", nargs="+", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--bare-s", type=float, default=30.0, help="how long the bare detector runs, twice")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    detector = Detector.load(arguments.model)
    uris = list_pictures(arguments.images)[: 8 * _BATCH]
    mapping = detector.config.mapping
    pictures = [fit_picture(read_infrared(uri, mapping).pixels_HW, detector.size) for uri in uris]
    batches = [pictures[k : k + _BATCH] for k in range(0, len(pictures), _BATCH)]

    def bare_images_per_s() -> float:
        detector.detect(batches[0])
        images, started_s = 0, time.perf_counter()
        while time.perf_counter() - started_s < arguments.bare_s:
            batch = batches[images // _BATCH % len(batches)]
            detector.detect(batch)
            images += len(batch)
        return images / (time.perf_counter() - started_s)

    before = bare_images_per_s()
    with tempfile.TemporaryDirectory() as folder:
        options = ["--model", arguments.model, "--out", str(Path(folder) / "out"), "--draw", "0"]
        options += ["--actors", "1", "--actor-threads", "1", "--batch-size", str(_BATCH)]
        for uri in arguments.images:
            options += ["--images", uri]
        predicted = run_job("predict_infrared", *options)
    after = bare_images_per_s()
    rate = (predicted["images"] - _BATCH) / (predicted["seconds"] - predicted["first_result_s"])
    print(
        json.dumps(
            {
                "efficiency": round(rate / ((before + after) / 2), 3),
                "predicted_images_per_s": round(rate, 3),
                "bare_before_after": [round(before, 3), round(after, 3)],
                "images": predicted["images"],
                "seconds": predicted["seconds"],
                "first_result_s": predicted["first_result_s"],
            }
        )
    )


if __name__ == "__main__":
    main()
