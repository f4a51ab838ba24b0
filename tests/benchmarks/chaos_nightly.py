"""Nights in which actors, workers, nodes, the driver and the head die at random and the bucket fails, while one reads.

Three days of logs; each night is `jobs/mine_nightly.py` as its scheduler runs it: started again, as by KubeRay's
backoff, until it ends well, on a new head where the head was killed. The store lies on an S3 server of this machine
whose requests fail (`--faults`, a share; 0 for a folder instead). A reader searches throughout: a search that fails, or
that loses a scene that it has seen, is an unreadable moment. Prints one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from system.errors import StoreError
from system.pipelines.config import MineConfig
from system.pipelines.mine import plan_only
from system.store.filters import SceneFilter
from system.store.location import StoreLocation
from system.store.schema import QUARANTINE, SCENES
from system.store.search import SearchConfig, search_scenes
from tests.benchmarks.jobs_under_test import ROOT
from tests.benchmarks.kill_drill import TwoNodes, kill
from tests.benchmarks.real_corpus import write_rig_corpus
from tests.s3 import Faults, s3_bucket

TARGETS = ("actor", "worker", "node", "driver", "head")
_DAYS = 3


class Reader(threading.Thread):
    """Searches and counts until it is stopped; `failed` says when and how a search failed."""

    def __init__(self, location: StoreLocation) -> None:
        super().__init__(daemon=True)
        self._location, self._done = location, threading.Event()
        self.searches, self.failed, self._most = 0, list[str](), 0

    def run(self) -> None:
        while not self._done.wait(0.5):
            try:
                if self._location.marker() is None or not self._location.has_table(SCENES):
                    continue
                rows = self._location.dataset(SCENES).count_rows()
                found = search_scenes(self._location, None, SceneFilter(), SearchConfig(top=5))
            except Exception as error:  # noqa: BLE001 - whatever a reader would have met
                self.failed.append(f"{type(error).__name__}: {error}"[:300])
                continue
            self.searches += 1
            if rows < self._most:
                self.failed.append(f"{rows} scenes after {self._most}")
            self._most = max(self._most, rows)
            if len(found) > rows:
                self.failed.append(f"{len(found)} results of {rows} scenes")

    def stop(self) -> None:
        self._done.set()
        self.join(60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--logs", type=int, default=8, help="logs of six cameras a day")
    parser.add_argument("--seconds", type=float, default=12.0, help="length of each")
    parser.add_argument("--faults", type=float, default=0.02, help="share of requests of each kind that fail")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit-s", type=float, default=7200.0)
    print(json.dumps(measure(parser.parse_args())))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Nights on one store after another until enough was killed; the counts over all stores."""
    faults, rng, made = Faults(), random.Random(arguments.seed), Counter[str]()
    totals: Counter[str] = Counter()
    failed: list[str] = []
    began_s, stores, starts, searches = time.monotonic(), 0, 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        days = [str(datetime.now(UTC).date() - timedelta(days=ago)) for ago in range(_DAYS - 1, -1, -1)]
        for k, day in enumerate(days):
            write_rig_corpus(folder / "logs" / day, arguments.logs, arguments.seconds, seed=1000 * k)
        bucket = s3_bucket(faults=faults) if arguments.faults else nullcontext(str(folder))
        with bucket as root:
            faults.unavailable = faults.cut = faults.lost = faults.slow = arguments.faults
            cluster = TwoNodes(folder)
            try:
                while made.total() < arguments.kills:
                    location = StoreLocation.parse(f"{root}/store{stores}")
                    stores += 1
                    reader = Reader(location)
                    reader.start()
                    for day in days:
                        while True:
                            starts += 1
                            left = arguments.kills - made.total()
                            if _night(cluster, folder, location.uri, day, left, made, rng) == 0:
                                break
                            if time.monotonic() - began_s > arguments.limit_s:
                                raise SystemExit(f"not done after {arguments.limit_s} s: {dict(made)}")
                    reader.stop()
                    searches += reader.searches
                    failed += reader.failed
                    totals.update(_judge(folder / "logs", location, days))
                    print(f"store {stores}: {dict(made)}, {dict(totals)}", file=sys.stderr, flush=True)
            finally:
                cluster.stop()
    return {
        "kills": made.total(),
        "kills_by_target": dict(made),
        "request_faults": dict(faults.seen),
        **{name: totals[name] for name in ("lost", "duplicated", "expected", "quarantined")},
        "unreadable_moments": len(failed),
        "unreadable": failed[:5],
        "searches": searches,
        "stores": stores,
        "driver_starts": starts,
        "seconds": round(time.monotonic() - began_s, 1),
    }


def _night(
    cluster: TwoNodes, folder: Path, store: str, day: str, kills: int, made: Counter[str], rng: random.Random
) -> int:
    """One start of a night, with things killed around it until it ends; its exit code."""
    config = folder / "nightly.toml"
    config.write_text(f'logs = ["{folder}/logs/{{date}}"]\nstore = "{store}"\n', "utf-8")
    command = [sys.executable, str(ROOT / "jobs" / "mine_nightly.py"), "--config", str(config), "--night", day]
    with (folder / "job.log").open("ab") as log:
        job = subprocess.Popen(command, cwd=ROOT, env=cluster.env, stdout=log, stderr=log)
    while True:
        try:
            return job.wait(timeout=rng.uniform(3, 14))
        except subprocess.TimeoutExpired:
            pass
        if kills <= 0:
            continue
        # The target that was killed least so far, so that all kinds are met.
        target = min(TARGETS, key=lambda name: (made[name], rng.random()))
        if target == "head":
            cluster.kill_head()
            job.send_signal(signal.SIGKILL)  # its Pod goes with the head's
            job.wait(30)
        elif not kill(target, cluster, job, rng):
            continue
        made[target] += 1
        kills -= 1
        print(f"killed {target}", file=sys.stderr, flush=True)


def _judge(logs: Path, location: StoreLocation, days: list[str]) -> Counter[str]:
    """Compare the store with the scenes that the logs hold."""
    nowhere = MineConfig(logs=tuple(str(logs / day) for day in days), store=os.devnull + "-no-store")
    expected = {window.scene_id for chunk in plan_only(nowhere).chunks for window in chunk.windows}
    rows = location.dataset(SCENES).to_table(columns=["scene_id"])["scene_id"].to_pylist()
    bad = location.dataset(QUARANTINE).to_table(columns=["scene_id"], filter="level = 'scene'")["scene_id"].to_pylist()
    if not rows:
        raise StoreError(f"{location.uri}: no scene after {len(days)} nights")
    return Counter(
        expected=len(expected),
        lost=len(expected - set(rows) - set(bad)),
        duplicated=len(rows) - len(set(rows)),
        quarantined=len(bad),
    )


if __name__ == "__main__":
    main()
