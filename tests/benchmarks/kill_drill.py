"""Kill actors, workers, a node and the driver at random moments of mining; count what is lost or there twice.

A head and a second node run on this machine. The job runs as its user runs it; whenever the driver is among the killed
it is started again, as its scheduler would. A store that is complete before enough kills were made is checked and
followed by a fresh one. No log is corrupt, so a scene in quarantine is a lost one. Prints one JSON object as its last
line; `done` is false where time ran out first, and what was killed until then is counted all the same.
"""

from __future__ import annotations

import argparse
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
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from system.errors import NightminerError
from system.pipelines.config import MineConfig
from system.pipelines.mine import plan_only
from system.store.location import StoreLocation
from system.store.schema import QUARANTINE, SCENES
from tests.benchmarks.jobs_under_test import ROOT
from tests.benchmarks.real_corpus import RIG, write_rig_corpus

TARGETS = ("actor", "worker", "node", "driver")
_TITLES = {"actor": ("ForwardActor",), "worker": ("_read", "write_scenes", "_rank", "_index")}
# Ray says so once the GCS knows the node.
_STARTED = b"Ray runtime started."
_NODE_STARTS, _NODE_START_S = 3, 120.0
# Starts of the job that fail one after another with nothing killed meanwhile. One may, just after a head was killed.
_FAILED_STARTS = 5
# How long a process of the wanted kind is looked for; then the next kind is killed instead.
_LOOK_S = 15.0
_DEAD_S = 120.0
_TAIL_BYTES = 4000


class TwoNodes:
    """A head without work of its own to lose, and a second node that can be killed and comes back.

    Raises:
        NightminerError: a node does not start, or lives on though it was killed; also from what starts one anew.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self._env = {**os.environ, "RAY_AUTH_MODE": "disabled"}
        self._second: subprocess.Popen[bytes] | None = None
        # By the process that started them; those of one that has ended by itself cannot be asked for any more.
        self._started: dict[int, list[psutil.Process]] = {}
        self._head = self._start_head()
        try:
            self.start_second()
        except BaseException:
            self.stop()
            raise

    @property
    def env(self) -> dict[str, str]:
        return {**self._env, "RAY_ADDRESS": self.address}

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [str(Path(sys.executable).with_name("ray")), "start", *arguments, "--block", "--num-cpus=2"]
        command += ["--object-store-memory", str(512 * 1024**2), "--disable-usage-stats"]
        path = self._folder / "ray.log"
        for _ in range(_NODE_STARTS):
            with path.open("ab") as log:
                said_before = log.tell()
                process = subprocess.Popen(command, env=self._env, stdout=log, stderr=log)
            until_s = time.monotonic() + _NODE_START_S
            while process.poll() is None and time.monotonic() < until_s:
                self._started[process.pid] = _children(process.pid) or self._started.get(process.pid, [])
                if _STARTED in path.read_bytes()[said_before:]:
                    return process
                time.sleep(0.2)
            self._destroy(process)
        raise NightminerError(f"ray start {' '.join(arguments)} fails; the end of its log:\n{tail(path)}")

    def _start_head(self) -> subprocess.Popen[bytes]:
        return self._start("--head", "--port", self.address.split(":")[1], "--include-dashboard=false")

    def processes(self) -> list[psutil.Process]:
        """Whatever the two nodes have started; nothing of another cluster on this machine."""
        return [process for node in (self._head, self._second) if node is not None for process in _children(node.pid)]

    def kill_head(self) -> None:
        """SIGKILL everything of the head, and with it what the second node knows; both start anew."""
        for node in (self._head, self._second):
            if node is not None:
                self._destroy(node)
        self._head = self._start_head()
        self.start_second()

    def start_second(self) -> None:
        self._second = self._start("--address", self.address)

    def kill_second(self) -> bool:
        """SIGKILL the raylet of the second node, then start the node anew; False where none was killed.

        A node whose raylet is not there yet, or not to be seen, goes on.
        """
        assert self._second is not None
        raylets = [
            process for process in _children(self._second.pid) if _title(process).split(" ")[0].endswith("/raylet")
        ]
        if not raylets and self._second.poll() is None:
            return False
        for raylet in raylets:
            with suppress(psutil.NoSuchProcess):
                raylet.kill()
        self._end(self._second)
        self.start_second()
        return bool(raylets)

    def stop(self) -> None:
        """End both. One that lives on is told on stderr: the figures are still to be printed."""
        for node in (self._second, self._head):
            if node is not None:
                try:
                    self._end(node)
                except NightminerError as error:
                    print(error, file=sys.stderr, flush=True)

    def _end(self, node: subprocess.Popen[bytes]) -> None:
        end(node, started=self._started.pop(node.pid, ()))

    def _destroy(self, node: subprocess.Popen[bytes]) -> None:
        destroy(node, self._started.pop(node.pid, ()))


@dataclass
class Attacker:
    """Runs a job to its end while things are killed around it.

    kills: in all, of `targets`. pause_s: least and most seconds before a kill. until_s: of time.monotonic(), when all
    ends. made: kills by target. exit_codes: of the job, by how many of its starts ended with it.
    """

    cluster: TwoNodes
    targets: Sequence[str]
    kills: int
    rng: random.Random
    pause_s: tuple[float, float]
    until_s: float
    made: Counter[str] = field(default_factory=Counter)
    exit_codes: Counter[int] = field(default_factory=Counter)

    @property
    def is_done(self) -> bool:
        return self.made.total() >= self.kills

    def finish(self, command: Sequence[str], log: Path) -> bool:
        """Start a job until it ends well, as its scheduler would; False where time ran out first.

        Raises:
            NightminerError: it failed again and again with nothing killed; the end of its log is told.
        """
        failed = 0
        while time.monotonic() < self.until_s:
            before = self.made.total()
            code = self._start(command, log)
            if code == 0:
                return True
            failed = failed + 1 if self.made.total() == before else 0
            if failed == _FAILED_STARTS:
                told = f"{failed} starts in a row failed with nothing killed, the last with {code}"
                raise NightminerError(f"{told}; the end of its log:\n{tail(log)}")
        return False

    def _start(self, command: Sequence[str], log: Path) -> int:
        """One start, with things killed around it until it ends; its exit code."""
        with log.open("ab") as out:
            job = subprocess.Popen(command, cwd=ROOT, env=self.cluster.env, stdout=out, stderr=out)
        try:
            while job.poll() is None and time.monotonic() < self.until_s:
                with suppress(subprocess.TimeoutExpired):
                    job.wait(self.rng.uniform(*self.pause_s))
                if not self.is_done and (target := self._kill_one(job)):
                    self.made[target] += 1
                    print(f"killed {target}", file=sys.stderr, flush=True)
        finally:
            destroy(job)
        self.exit_codes[job.returncode] += 1
        return job.returncode

    def _kill_one(self, job: subprocess.Popen[bytes]) -> str | None:
        """Kill one of the kind that was killed least so far, of the next where there is none; None: the job ended."""
        for target in sorted(self.targets, key=lambda name: (self.made[name], self.rng.random())):
            until_s = time.monotonic() + _LOOK_S
            while job.poll() is None and time.monotonic() < until_s:
                if kill(target, self.cluster, job, self.rng):
                    return target
                time.sleep(self.rng.uniform(0.2, 1.0))
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    add_corpus_options(parser, logs=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit-s", type=float, default=3600.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = write_rig_corpus(
            folder / "corpus", arguments.logs, arguments.seconds, cameras=RIG[: arguments.cameras]
        )
        cluster = TwoNodes(folder)
        until_s = time.monotonic() + arguments.limit_s
        rng = random.Random(arguments.seed)
        try:
            figures = drill(Attacker(cluster, TARGETS, arguments.kills, rng, tuple(arguments.pause_s), until_s), corpus)
        finally:
            cluster.stop()
    print_figures(figures)


def add_corpus_options(parser: argparse.ArgumentParser, logs: int) -> None:
    """How much there is to mine, and how often something is killed meanwhile."""
    parser.add_argument("--logs", type=int, default=logs, help="how many (of a day, where there are days)")
    parser.add_argument("--seconds", type=float, default=12.0, help="length of each")
    parser.add_argument("--cameras", type=int, choices=range(1, len(RIG) + 1), default=len(RIG), help="of each")
    parser.add_argument(
        "--pause-s", type=float, nargs=2, default=(3.0, 14.0), metavar=("LEAST", "MOST"), help="before each kill"
    )


def drill(attacker: Attacker, corpus: Path) -> dict[str, Any]:
    """Mine with kills until enough were made and the store at hand is complete; the counts over all stores."""
    began_s, stores, totals, problem = time.monotonic(), 0, Counter[str](), None
    is_complete = True
    while is_complete and not attacker.is_done:
        store = corpus.parent / f"store{stores}"
        command = [sys.executable, str(ROOT / "jobs" / "mine_fleet.py"), "--logs", str(corpus), "--store", str(store)]
        try:
            is_complete = attacker.finish(command, corpus.parent / "job.log")
            if is_complete:
                stores += 1
                totals.update(judge([str(corpus)], StoreLocation.parse(str(store))))
                print(f"store {stores}: {dict(attacker.made)} kills, {dict(totals)}", file=sys.stderr, flush=True)
        except NightminerError as error:
            is_complete, problem = False, str(error)
    return summary(attacker, totals, is_complete, problem) | {
        "stores": stores,
        "seconds": round(time.monotonic() - began_s, 1),
    }


def summary(attacker: Attacker, totals: Counter[str], is_complete: bool, problem: str | None) -> dict[str, Any]:
    """What was killed and what it did. totals: of the stores that were judged, which one that is not done is not."""
    return {
        "done": is_complete,
        "problem": problem,
        "kills": attacker.made.total(),
        "kills_by_target": dict(attacker.made),
        **{name: totals[name] for name in ("lost", "duplicated", "expected", "quarantined")},
        "driver_starts": attacker.exit_codes.total(),
        "exit_codes": dict(attacker.exit_codes),
    }


def print_figures(figures: dict[str, Any]) -> None:
    """Raises SystemExit, with the figures printed: the job failed by itself."""
    print(json.dumps(figures))
    if figures["problem"] is not None:
        raise SystemExit(figures["problem"])


def kill(target: str, cluster: TwoNodes, job: subprocess.Popen[bytes], rng: random.Random) -> bool:
    """SIGKILL one process; False where there is none of the kind at this moment. A head takes the driver along."""
    if target == "driver":
        return _kill_job(job)
    if target == "head":
        if is_killed := _kill_job(job):
            cluster.kill_head()
        return is_killed
    if target == "node":
        return cluster.kill_second()
    found = [process for process in cluster.processes() if _is_worker(_title(process), _TITLES[target])]
    if not found:
        return False
    chosen = rng.choice(found)
    try:
        chosen.kill()
    except psutil.NoSuchProcess:
        return False
    _until_gone(chosen)
    return True


def _until_gone(process: psutil.Process) -> None:
    """A process that dies still has its title for a moment, and would be killed and counted again."""
    until_s = time.monotonic() + _LOOK_S
    while _title(process) and time.monotonic() < until_s:
        time.sleep(0.01)


def _kill_job(job: subprocess.Popen[bytes]) -> bool:
    """False where it ended by itself. Raises as `destroy`."""
    job.kill()
    return _exit_code(job) == -signal.SIGKILL


def _exit_code(killed: subprocess.Popen[bytes]) -> int:
    try:
        return killed.wait(_DEAD_S)
    except subprocess.TimeoutExpired as error:
        raise NightminerError(f"process {killed.pid} lives {_DEAD_S:g} s after SIGKILL") from error


def _is_worker(title: str, words: Sequence[str]) -> bool:
    return title.startswith("ray::") and any(word in title for word in words)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def end(process: subprocess.Popen[bytes], grace_s: float = 30.0, started: Iterable[psutil.Process] = ()) -> None:
    """SIGTERM; then SIGKILL to what is left of it and of what it started. Raises as `destroy`."""
    known = {*started, *(_children(process.pid) if process.poll() is None else ())}
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(grace_s)
    destroy(process, known)


def destroy(process: subprocess.Popen[bytes], started: Iterable[psutil.Process] = ()) -> None:
    """SIGKILL to a process and to all that it started.

    started: what is known of that; of a process that has ended, nothing else can be found.
    Raises:
        NightminerError: the process lives on.
    """
    is_running = process.poll() is None
    # psutil kills nothing that has got the number of another.
    for child in {*started, *(_children(process.pid) if is_running else ())}:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    if is_running:
        process.kill()
        _exit_code(process)


def tail(path: Path) -> str:
    return path.read_bytes()[-_TAIL_BYTES:].decode("utf-8", "replace")


def judge(logs: Sequence[str], location: StoreLocation) -> Counter[str]:
    """Compare the store with the scenes that the logs hold."""
    plan = plan_only(MineConfig(logs=tuple(logs), store=f"{location.uri}-none"))
    rows = location.dataset(SCENES).to_table(columns=["scene_id"])["scene_id"].to_pylist()
    bad = location.dataset(QUARANTINE).to_table(columns=["scene_id"], filter="level = 'scene'")["scene_id"].to_pylist()
    return compare({window.scene_id for chunk in plan.chunks for window in chunk.windows}, rows, bad)


def compare(expected: set[str], rows: Sequence[str], quarantined: Sequence[str]) -> Counter[str]:
    """expected: ids in the logs, which are all readable. rows, quarantined: ids in the store."""
    return Counter(
        expected=len(expected),
        lost=len(expected - set(rows)),
        duplicated=len(rows) - len(set(rows)),
        quarantined=len(quarantined),
    )


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


if __name__ == "__main__":
    main()
