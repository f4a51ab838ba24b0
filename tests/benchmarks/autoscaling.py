"""Mine real logs on a cluster that grows from no workers and shrinks again; lose nodes on the way, and mine again.

The first night begins without a node. Once there are several, the raylet of one is killed and another gets a spot
notice (`ray drain-node`). When the night is over the cluster must shrink to nothing, and a second night over the same
logs must find nothing to do. Then, with `--gpu-night`, eight scenes are mined into a new store with a logical GPU.
Prints one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from cluster.local_cluster import GPU_NODE, LocalCluster, LocalClusterConfig, LocalNode
from system.errors import NightminerError
from system.store.location import StoreLocation
from tests.benchmarks.jobs_under_test import ROOT
from tests.benchmarks.kill_drill import judge
from tests.benchmarks.real_corpus import real_pictures
from tests.plain_logs import write_plain_log

SPOT_NOTICE_S, SETTLE_S = 5, 5


class Watched:
    """A cluster that is looked at every second: how many nodes and model actors at most, and what is done to them."""

    def __init__(self, cluster: LocalCluster, limit_s: float) -> None:
        self._cluster, self._deadline_s = cluster, time.monotonic() + limit_s
        self.peak = self.actors_at_peak = self.actors_at_first = 0

    def look(self) -> list[LocalNode]:
        """The nodes that are there now."""
        if time.monotonic() > self._deadline_s:
            raise SystemExit(f"not done in time; nodes now:\n{self._cluster.status()}")
        nodes = [node for node in self._cluster.nodes() if node.state != "DEAD"]
        actors = self._cluster.workers("ForwardActor")
        self.actors_at_first = self.actors_at_first or actors
        self.peak, self.actors_at_peak = max(self.peak, len(nodes)), max(self.actors_at_peak, actors)
        return nodes

    def mine(self, corpus: Path, store: Path, options: Sequence[str], harm: Sequence[str] = ()) -> dict[str, Any]:
        """One night; each harm (`kill`, `drain`) is done once at least two nodes are there, one after the other."""
        command = [sys.executable, str(ROOT / "jobs" / "mine_fleet.py"), "--logs", str(corpus), "--store", str(store)]
        with (store.parent / "job.out").open("w+") as out, (store.parent / "job.err").open("w+") as err:
            env = {**os.environ, **self._cluster.driver_env()}
            job = subprocess.Popen([*command, *options], cwd=ROOT, env=env, stdout=out, stderr=err)
            left, before_s = list(harm), time.monotonic()
            try:
                while job.poll() is None:
                    time.sleep(1)
                    nodes = [node for node in self.look() if node.state == "ALIVE"]
                    is_due = len(nodes) >= 2 and time.monotonic() - before_s > SETTLE_S
                    is_working = is_due and self._cluster.workers("ForwardActor") > 1
                    if left and is_working and self._harm(left[0], nodes):
                        print(f"{left.pop(0)}: one of {len(nodes)} nodes", file=sys.stderr, flush=True)
                        before_s = time.monotonic()
            finally:
                job.kill()
            out.seek(0)
            err.seek(0)
            if job.returncode != 0:
                raise SystemExit(f"mining exited with {job.returncode}:\n{err.read()[-3000:]}")
            return json.loads(out.read().strip().splitlines()[-1]) | {"not_done_to_nodes": left}

    def wait_until_none(self) -> int:
        """How many nodes are left when there are none, or at the time limit of `look`."""
        while nodes := self.look():
            time.sleep(1)
        return len(nodes)

    def _harm(self, what: str, nodes: list[LocalNode]) -> bool:
        """Kill or drain the node that came last; False if it went by itself meanwhile."""
        node = nodes[-1]
        if what == "drain":
            with suppress(NightminerError):
                self._cluster.drain(node.node_id, SPOT_NOTICE_S)
                return True
            return False
        raylet = self._cluster.raylet(node.node_id)
        if raylet is None:
            return False
        with suppress(psutil.NoSuchProcess):
            raylet.kill()
            return True
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logs", type=int, default=72, help="of two cameras; one node alone makes an end of 20")
    parser.add_argument("--seconds", type=float, default=16.0, help="length of each")
    parser.add_argument("--nodes", type=int, default=4, help="at most so many, of two logical CPUs each")
    parser.add_argument("--drawn", action="store_true", help="drawn pictures in place of real ones, for a test")
    parser.add_argument("--gpu-night", action="store_true", help="mine once more, with a logical GPU")
    parser.add_argument("--port", type=int, default=6399)
    parser.add_argument("--limit-s", type=float, default=1200.0)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the cluster is stopped then too
    with tempfile.TemporaryDirectory(prefix="grow-") as name:
        folder = Path(name)
        corpus, pictures = folder / "corpus", [] if arguments.drawn else real_pictures()
        for k in range(arguments.logs):
            write_plain_log(corpus, f"log{k:05d}", seconds=arguments.seconds, pictures=pictures, seed=k)
        config = LocalClusterConfig(port=arguments.port, dashboard_port=0, cpu_nodes=arguments.nodes, idle_s=8)
        cluster = LocalCluster(folder / "ray")
        cluster.start(config)
        try:
            figures = measure(cluster, corpus, folder, arguments.nodes, arguments.gpu_night, arguments.limit_s)
        finally:
            cluster.stop()
    print(json.dumps(figures))


def measure(
    cluster: LocalCluster, corpus: Path, folder: Path, nodes: int, gpu_night: bool, limit_s: float
) -> dict[str, Any]:
    """The figures of the module's docstring. `lost` and `duplicated` compare the store with what the logs hold."""
    started_s, store, watched = time.monotonic(), folder / "store", Watched(cluster, limit_s)
    at_start = len(watched.look())
    first = watched.mine(corpus, store, ["--max-actors", str(max(1, 2 * nodes * 3 // 4))], harm=("kill", "drain"))
    first_s, peak = time.monotonic() - started_s, watched.peak
    after = watched.wait_until_none()
    idle_s = time.monotonic() - started_s - first_s
    num_before = len(cluster.nodes())
    second = watched.mine(corpus, store, ["--gpu", "--actors", "1"])
    started_in_second = cluster.nodes()[num_before:]
    idle_gpu_nodes = sum(node.kind == GPU_NODE for node in cluster.nodes())
    counts = judge([str(corpus)], StoreLocation.parse(str(store)))
    figures = {
        "nodes_at_start": at_start,
        "nodes_at_peak": peak,
        "nodes_after": after,
        "lost": counts["lost"],
        "duplicated": counts["duplicated"],
        "idle_gpu_nodes_started": idle_gpu_nodes,
        "expected": counts["expected"],
        "quarantined": counts["quarantined"],
        "actors_at_first": watched.actors_at_first,
        "actors_at_peak": watched.actors_at_peak,
        "nodes_killed_and_drained": 2 - len(first["not_done_to_nodes"]),
        "nodes_ever": num_before,
        "second_night_committed": second["committed"],
        "second_night_nodes_started": len(started_in_second),
        "first_night_s": round(first_s, 1),
        "until_no_node_s": round(idle_s, 1),
    }
    if gpu_night:
        third = watched.mine(corpus, folder / "gpu store", ["--gpu", "--actors", "1", "--limit", "8"])
        figures["gpu_night_committed"] = third["committed"]
        figures["gpu_night_gpu_nodes"] = sum(node.kind == GPU_NODE for node in cluster.nodes())
        watched.wait_until_none()
    return figures


if __name__ == "__main__":
    main()
