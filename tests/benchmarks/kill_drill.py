"""Kill actors, workers, a node and the driver at random moments of mining; count what is lost or there twice.

A head and a second node run on this machine. The job runs as its user runs it; whenever the driver is among the killed
it is started again, as its scheduler would. A store that is complete before enough kills were made is checked and
followed by a fresh one. Prints one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from system.pipelines.config import MineConfig
from system.pipelines.mine import plan_only
from system.store.location import StoreLocation
from system.store.schema import QUARANTINE, SCENES
from tests.benchmarks.jobs_under_test import ROOT
from tests.benchmarks.real_corpus import write_rig_corpus

TARGETS = ("actor", "worker", "node", "driver")


class TwoNodes:
    """A head without work of its own to lose, and a second node that can be killed and comes back."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self._env = {**os.environ, "RAY_AUTH_MODE": "disabled"}
        self._second: subprocess.Popen[bytes] | None = None
        self._head = self._start_head()
        self.start_second()

    @property
    def env(self) -> dict[str, str]:
        return {**self._env, "RAY_ADDRESS": self.address}

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [str(Path(sys.executable).with_name("ray")), "start", *arguments, "--block", "--num-cpus=2"]
        command += ["--object-store-memory", str(512 * 1024**2), "--disable-usage-stats"]
        with (self._folder / "ray.log").open("ab") as log:
            process = subprocess.Popen(command, env=self._env, stdout=log, stderr=log)
        time.sleep(6)
        return process

    def _start_head(self) -> subprocess.Popen[bytes]:
        return self._start("--head", "--port", self.address.split(":")[1], "--include-dashboard=false")

    def kill_head(self) -> None:
        """SIGKILL everything of the head, and with it what the second node knows; both start anew."""
        for node in (self._head, self._second):
            if node is not None:
                for process in (*_children(node.pid), psutil.Process(node.pid)):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
                node.wait(30)
        self._head = self._start_head()
        self.start_second()

    def start_second(self) -> None:
        self._second = self._start("--address", self.address)

    def kill_second(self) -> bool:
        """SIGKILL the raylet of the second node, then start it anew."""
        assert self._second is not None
        raylets = [p for p in _children(self._second.pid) if p.name() == "raylet"]
        for raylet in raylets:
            raylet.kill()
        self._second.terminate()
        self._second.wait(30)
        self.start_second()
        return bool(raylets)

    def stop(self) -> None:
        for process in (self._second, self._head):
            if process is not None:
                process.terminate()
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--logs", type=int, default=24, help="logs of six cameras in the corpus")
    parser.add_argument("--seconds", type=float, default=12.0, help="length of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit-s", type=float, default=3600.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = write_rig_corpus(folder / "corpus", arguments.logs, arguments.seconds)
        cluster = TwoNodes(folder)
        try:
            figures = drill(cluster, corpus, folder, arguments.kills, random.Random(arguments.seed), arguments.limit_s)
        finally:
            cluster.stop()
    print(json.dumps(figures))


def drill(
    cluster: TwoNodes, corpus: Path, folder: Path, kills: int, rng: random.Random, limit_s: float
) -> dict[str, Any]:
    """Mine with kills until `kills` were made and the store at hand is complete; the counts over all stores."""
    made: Counter[str] = Counter()
    started_s, stores, starts = time.monotonic(), 0, 0
    totals: Counter[str] = Counter()
    while made.total() < kills:
        store = folder / f"store{stores}"
        stores += 1
        while True:
            starts += 1
            code = _run_with_kills(cluster, corpus, store, kills - made.total(), made, rng)
            if code == 0:
                break
            if time.monotonic() - started_s > limit_s:
                raise SystemExit(f"not done after {limit_s} s: {dict(made)}")
        totals.update(judge(corpus, store))
        print(f"store {stores}: {dict(made)} kills so far, {dict(totals)}", file=sys.stderr, flush=True)
    return {
        "kills": made.total(),
        "kills_by_target": dict(made),
        "lost": totals["lost"],
        "duplicated": totals["duplicated"],
        "expected": totals["expected"],
        "quarantined": totals["quarantined"],
        "stores": stores,
        "driver_starts": starts,
        "seconds": round(time.monotonic() - started_s, 1),
    }


def _run_with_kills(
    cluster: TwoNodes, corpus: Path, store: Path, kills: int, made: Counter[str], rng: random.Random
) -> int:
    """One start of the job, with things killed around it until it ends; its exit code."""
    command = [sys.executable, str(ROOT / "jobs" / "mine_fleet.py"), "--logs", str(corpus), "--store", str(store)]
    with (store.parent / "job.log").open("ab") as log:
        job = subprocess.Popen(command, cwd=ROOT, env=cluster.env, stdout=log, stderr=log)
    left = kills
    while True:
        try:
            return job.wait(timeout=rng.uniform(3, 14))
        except subprocess.TimeoutExpired:
            pass
        if left <= 0:
            continue
        # The target that was killed least so far, so that all four kinds are met.
        target = min(TARGETS, key=lambda name: (made[name], rng.random()))
        if kill(target, cluster, job, rng):
            made[target] += 1
            left -= 1
            print(f"killed {target}", file=sys.stderr, flush=True)


def kill(target: str, cluster: TwoNodes, job: subprocess.Popen[bytes], rng: random.Random) -> bool:
    """SIGKILL one process; False where there is none of the kind at this moment."""
    if target == "driver":
        job.send_signal(signal.SIGKILL)
        job.wait(30)
        return True
    if target == "node":
        return cluster.kill_second()
    titles = ("ForwardActor",) if target == "actor" else ("_read", "write_scenes", "_rank", "_index")
    found = [p for p in psutil.process_iter(["cmdline"]) if _is_worker(p.info["cmdline"], titles)]
    if not found:
        return False
    try:
        rng.choice(found).kill()
    except psutil.NoSuchProcess:
        return False
    return True


def _is_worker(cmdline: list[str] | None, titles: tuple[str, ...]) -> bool:
    title = " ".join(cmdline or ())
    return title.startswith("ray::") and any(word in title for word in titles)


def judge(corpus: Path, store: Path) -> Counter[str]:
    """Compare the store with the scenes that the logs hold."""
    nothing_there = str(store.parent / "no store")
    plan = plan_only(MineConfig(logs=(str(corpus),), store=nothing_there))
    expected = {window.scene_id for chunk in plan.chunks for window in chunk.windows}
    location = StoreLocation.parse(str(store))
    rows = location.dataset(SCENES).to_table(columns=["scene_id"])["scene_id"].to_pylist()
    bad = location.dataset(QUARANTINE).to_table(columns=["scene_id"], filter="level = 'scene'")["scene_id"].to_pylist()
    return Counter(
        expected=len(expected),
        lost=len(expected - set(rows) - set(bad)),
        duplicated=len(rows) - len(set(rows)),
        quarantined=len(bad),
    )


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


if __name__ == "__main__":
    main()
