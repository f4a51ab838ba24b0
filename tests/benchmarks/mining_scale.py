"""What a scene costs, and what the driver takes, when the corpus grows 16 times. Prints one JSON object.

The cost is wall-clock time a scene from the model's first call to the end of the stream, so that starting Ray and the
model, which a small corpus pays for as a large one, does not flatter the large one; that of the whole job is given too.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks.jobs_under_test import run_job
from tests.benchmarks.real_corpus import write_rig_corpus


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logs", type=int, default=4, help="logs of six cameras in the small corpus")
    parser.add_argument("--seconds", type=float, default=12.0, help="length of each")
    parser.add_argument("--factor", type=int, default=16)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        small = _mine(Path(folder) / "small", arguments.logs, arguments.seconds)
        large = _mine(Path(folder) / "large", arguments.logs * arguments.factor, arguments.seconds)
    figures = {
        f"cost_ratio_{arguments.factor}x": round(_cost_s(large) / _cost_s(small), 3),
        f"driver_memory_ratio_{arguments.factor}x": round(large["driver_peak_mb"] / small["driver_peak_mb"], 3),
        f"job_cost_ratio_{arguments.factor}x": round(_job_cost_s(large) / _job_cost_s(small), 3),
        "scenes": [small["committed"], large["committed"]],
        "images": [small["images"], large["images"]],
        "seconds": [small["seconds"], large["seconds"]],
        "cost_s_per_scene": [round(_cost_s(small), 3), round(_cost_s(large), 3)],
        "driver_peak_mb": [small["driver_peak_mb"], large["driver_peak_mb"]],
    }
    print(json.dumps(figures))


def _mine(folder: Path, num_logs: int, seconds: float) -> dict[str, Any]:
    corpus = write_rig_corpus(folder / "corpus", num_logs, seconds)
    return run_job("mine_fleet", "--logs", str(corpus), "--store", str(folder / "store"))


def _cost_s(figures: dict[str, Any]) -> float:
    stages = figures["stages"]
    return (stages["stream"] - stages["first_forward"]) / figures["committed"]


def _job_cost_s(figures: dict[str, Any]) -> float:
    return figures["seconds"] / figures["committed"]


if __name__ == "__main__":
    main()
