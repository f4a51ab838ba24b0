"""How much of the bare model's speed mining keeps: mined images a second / bare forward images a second.

Both with the same model, threads and pictures, in one run: the bare forward is measured before and after mining, on
scenes that are already decoded, and the mean of the two counts. Prints one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.jobs_under_test import ROOT, run_job
from tests.benchmarks.real_corpus import write_rig_corpus


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logs", type=int, default=16, help="logs of six cameras")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each")
    parser.add_argument("--bare-s", type=float, default=30.0, help="how long the bare forward runs, twice")
    parser.add_argument("--tower", default="packaged")
    parser.add_argument("--actor-threads", type=int, default=1)
    parser.add_argument("--actors", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        corpus = write_rig_corpus(Path(folder) / "corpus", arguments.logs, arguments.seconds)
        bare = [sys.executable, "-m", "tests.benchmarks.bare_forward", "--logs", str(corpus)]
        bare += [
            "--seconds",
            str(arguments.bare_s),
            "--tower",
            arguments.tower,
            "--threads",
            str(arguments.actor_threads),
        ]

        def bare_images_per_s() -> float:
            done = subprocess.run(bare, cwd=ROOT, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.stderr.write(done.stderr)
                raise SystemExit("the bare forward failed")
            return json.loads(done.stdout.strip().splitlines()[-1])["images_per_s"]

        before = bare_images_per_s()
        mined = run_job(
            "mine_fleet", "--logs", str(corpus), "--store", str(Path(folder) / "store"), "--tower", arguments.tower,
            "--actors", str(arguments.actors), "--actor-threads", str(arguments.actor_threads),
        )  # fmt: skip
        after = bare_images_per_s()
    bare_rate = (before + after) / 2 * arguments.actors
    stages = mined["stages"]
    # From the model's first call to the last commit: loading it is counted in `efficiency_with_start` only.
    steady_rate = mined["images"] / (stages["stream"] - stages["first_forward"])
    figures = {
        "efficiency": round(steady_rate / bare_rate, 3),
        "efficiency_with_start": round(mined["images"] / mined["seconds"] / bare_rate, 3),
        "mined_images_per_s": round(steady_rate, 1),
        "bare_images_per_s": round(bare_rate, 1),
        "bare_before_after": [round(before, 1), round(after, 1)],
        "images": mined["images"],
        "seconds": mined["seconds"],
        "stages": stages,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
