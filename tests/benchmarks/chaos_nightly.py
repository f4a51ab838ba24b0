"""Nights in which actors, workers, nodes, the driver and the head die at random and the bucket fails, while one reads.

Three days of logs; each night is `jobs/mine_nightly.py` as its scheduler runs it: started again, as by KubeRay's
backoff, until it ends well, on a new head where the head was killed. Logs and store lie on an S3 server of this machine
whose requests fail (`--faults`, a share; 0 for a folder instead), but not while it is filled or judged. A reader
searches throughout: a search that fails, or that loses a scene that it has seen, is an unreadable moment. Prints one
JSON object as its last line; `done` is false where time ran out first, and what was killed until then is counted all
the same.

A short one: --kills 10 --logs 6 --cameras 1 --pause-s 2 6
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec

from system.errors import NightminerError
from system.store.filters import SceneFilter
from system.store.location import StoreLocation
from system.store.schema import SCENES
from system.store.search import SearchConfig, search_scenes
from tests.benchmarks import kill_drill
from tests.benchmarks.jobs_under_test import ROOT
from tests.benchmarks.kill_drill import Attacker, TwoNodes, add_corpus_options, judge, print_figures, summary
from tests.benchmarks.real_corpus import RIG, write_rig_corpus
from tests.s3 import Faults, s3_bucket

TARGETS = (*kill_drill.TARGETS, "head")
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
                self.look()
            except Exception as error:  # noqa: BLE001 - whatever a reader would have met
                self.failed.append(f"{type(error).__name__}: {error}"[:300])

    def look(self) -> None:
        """One search, where there is a store. Counted after it: meanwhile a night may have committed."""
        if self._location.marker() is None or not self._location.has_table(SCENES):
            return
        found = search_scenes(self._location, None, SceneFilter(), SearchConfig(top=5))
        rows = self._location.dataset(SCENES).count_rows()
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    add_corpus_options(parser, logs=8)
    parser.add_argument("--faults", type=float, default=0.02, help="share of requests of each kind that fail")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit-s", type=float, default=7200.0)
    print_figures(measure(parser.parse_args()))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Nights on one store after another until enough was killed; the counts over all stores."""
    faults, totals, problem = Faults(), Counter[str](), None
    failed: list[str] = []
    began_s, stores, searches, is_complete = time.monotonic(), 0, 0, True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        days = [str(datetime.now(UTC).date() - timedelta(days=ago)) for ago in range(_DAYS - 1, -1, -1)]
        for k, day in enumerate(days):
            cameras = RIG[: arguments.cameras]
            write_rig_corpus(folder / "logs" / day, arguments.logs, arguments.seconds, seed=1000 * k, cameras=cameras)
        bucket = s3_bucket(faults=faults) if arguments.faults else nullcontext(str(folder))
        with bucket as place:
            if arguments.faults:
                fsspec.filesystem("s3").put(f"{folder}/logs", f"{place}/logs", recursive=True)
            logs = [f"{place}/logs/{day}" for day in days]
            cluster = TwoNodes(folder)
            until_s, rng = began_s + arguments.limit_s, random.Random(arguments.seed)
            attacker = Attacker(cluster, TARGETS, arguments.kills, rng, tuple(arguments.pause_s), until_s)
            try:
                while is_complete and not attacker.is_done:
                    location = StoreLocation.parse(f"{place}/store{stores}")
                    reader = Reader(location)
                    reader.start()
                    _fail(faults, arguments.faults)
                    try:
                        is_complete = all(_finish_night(attacker, folder, place, location.uri, day) for day in days)
                        reader.stop()
                        _fail(faults, 0.0)
                        if is_complete:
                            stores += 1
                            totals.update(judge(logs, location))
                            told = f"store {stores}: {dict(attacker.made)}, {dict(totals)}"
                            print(told, file=sys.stderr, flush=True)
                    except NightminerError as error:
                        is_complete, problem = False, str(error)
                    finally:
                        reader.stop()
                        searches += reader.searches
                        failed += reader.failed
            finally:
                cluster.stop()
    return summary(attacker, totals, is_complete, problem) | {
        "request_faults": dict(faults.seen),
        "unreadable_moments": len(failed),
        "unreadable": failed[:5],
        "searches": searches,
        "stores": stores,
        "seconds": round(time.monotonic() - began_s, 1),
    }


def _finish_night(attacker: Attacker, folder: Path, place: str, store: str, day: str) -> bool:
    """Whether the night of a day ended well before time ran out. Errors as of `Attacker.finish`."""
    config = folder / "nightly.toml"
    config.write_text(f'logs = ["{place}/logs/{{date}}"]\nstore = "{store}"\n', "utf-8")
    command = [sys.executable, str(ROOT / "jobs" / "mine_nightly.py"), "--config", str(config), "--night", day]
    return attacker.finish(command, folder / "job.log")


def _fail(faults: Faults, share: float) -> None:
    faults.unavailable = faults.cut = faults.lost = faults.slow = share


if __name__ == "__main__":
    main()
