"""What kills a job's processes at random ends, kills nothing else, and counts what it did."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import psutil
import pytest

from system.errors import NightminerError
from tests.benchmarks import chaos_nightly, kill_drill
from tests.benchmarks.kill_drill import Attacker, TwoNodes, compare, summary
from tests.mined_store import mine_without_model
from tests.plain_logs import write_plain_log


def attacker(targets: tuple[str, ...] = ("driver",), kills: int = 0, seconds: float = 60.0, **cluster: Any) -> Attacker:
    nodes: Any = SimpleNamespace(env=dict(os.environ), processes=list, **cluster)
    return Attacker(nodes, targets, kills, random.Random(0), (0.0, 0.05), time.monotonic() + seconds)


def test_job_that_fails_by_itself_is_given_up_with_the_end_of_its_log(tmp_path):
    with pytest.raises(NightminerError, match=r"5 starts in a row failed .* with 2;[^$]*no such bucket"):
        attacker().finish(["sh", "-c", "echo no such bucket; exit 2"], tmp_path / "log")


def test_job_whose_driver_was_killed_is_started_again(tmp_path):
    # It hangs until it was started seven times: more often than it may fail by itself.
    command = ["sh", "-c", f"echo >> {tmp_path}/starts; [ $(wc -l < {tmp_path}/starts) -gt 6 ] || exec sleep 60"]
    attack = attacker(kills=6)
    assert attack.finish(command, tmp_path / "log")
    assert attack.is_done and attack.made == {"driver": 6} and attack.exit_codes == {-9: 6, 0: 1}
    assert summary(attack, attack.made, True, None)["driver_starts"] == 7


def test_job_that_hangs_ends_with_the_time(tmp_path):
    attack = attacker(seconds=0.3)
    assert not attack.finish(["sleep", "60"], tmp_path / "log")
    assert attack.exit_codes == {-9: 1} and not attack.made


def test_kind_that_is_not_there_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(kill_drill, "_LOOK_S", 0.05)
    killed = tmp_path / "killed"
    attack = attacker(("actor", "worker", "node"), kills=1, kill_second=lambda: killed.touch() is None)
    assert attack.finish(["sh", "-c", f"until [ -e {killed} ]; do sleep 0.1; done"], tmp_path / "log")
    assert attack.made == {"node": 1}


def test_worker_of_another_cluster_lives():
    shell = ["bash", "-c", "exec -a 'ray::MapBatches(_read)' sleep 60"]
    other = subprocess.Popen(shell)
    node = subprocess.Popen(["bash", "-c", f'{shell[0]} -c "{shell[2]}" & wait'])
    try:
        cluster = TwoNodes.__new__(TwoNodes)
        cluster._head, cluster._second = node, None
        until_s = time.monotonic() + 20
        while not kill_drill.kill("worker", cluster, other, random.Random(0)):
            assert time.monotonic() < until_s
        assert not kill_drill.kill("worker", cluster, other, random.Random(0))
        assert other.poll() is None and psutil.pid_exists(other.pid)
    finally:
        kill_drill.destroy(node)
        kill_drill.destroy(other)


def dies(process: psutil.Process, within_s: float = 10.0) -> bool:
    """A signal is not waited for by whoever sends it."""
    until_s = time.monotonic() + within_s
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > until_s:
            return False
        time.sleep(0.02)
    return True


def test_node_that_heeds_no_sigterm_is_killed_with_what_it_started(tmp_path):
    stubborn = "import signal, subprocess, time; signal.signal(15, signal.SIG_IGN);"
    stubborn += "print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE) as node:
        assert node.stdout is not None
        child = psutil.Process(int(node.stdout.readline()))
        kill_drill.end(node, grace_s=0.1)
    assert node.returncode == -9 and dies(child)


@pytest.mark.parametrize("code", ["time.sleep(60)", "pass"])
def test_what_a_node_that_ended_by_itself_or_at_once_had_started_is_killed(code):
    parent = f"import subprocess, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True); {code}"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as node:
        assert node.stdout is not None
        child = psutil.Process(int(node.stdout.readline()))
        if code == "pass":
            node.wait()
            kill_drill.destroy(node, [child])
        else:
            kill_drill.end(node)
    assert dies(child)


def test_process_that_outlives_sigkill_is_told_in_one_line(monkeypatch):
    monkeypatch.setattr(kill_drill, "_DEAD_S", 0.01)
    job: Any = SimpleNamespace(pid=7, kill=lambda: None, wait=Mock(side_effect=subprocess.TimeoutExpired("x", 0.01)))
    with pytest.raises(NightminerError, match="process 7 lives"):
        kill_drill.kill("driver", Mock(), job, random.Random(0))


def test_node_whose_raylet_is_not_to_be_seen_goes_on():
    cluster = TwoNodes.__new__(TwoNodes)
    with subprocess.Popen(["sleep", "60"]) as node:
        cluster._second = node
        assert not cluster.kill_second() and node.poll() is None
        kill_drill.destroy(node)


def test_quarantined_scene_is_lost():
    assert compare({"a", "b", "c"}, ["a", "a"], ["b"]) == {"expected": 3, "lost": 2, "duplicated": 1, "quarantined": 1}


def test_store_that_is_whole_lost_nothing(tmp_path):
    write_plain_log(tmp_path / "logs", "a")
    location = mine_without_model(tmp_path / "logs", tmp_path / "store")
    counts = kill_drill.judge([str(tmp_path / "logs")], location)
    assert counts["expected"] > 0 and counts["lost"] == counts["duplicated"] == counts["quarantined"] == 0


def test_commit_during_a_search_is_no_unreadable_moment(monkeypatch):
    rows = [0, 0]

    def search(*_: object) -> list[dict[str, Any]]:
        rows[0] = 5
        return [{}] * 5

    monkeypatch.setattr(chaos_nightly, "search_scenes", search)
    dataset = SimpleNamespace(count_rows=lambda: rows[0])
    location: Any = SimpleNamespace(marker=dict, has_table=lambda _: True, dataset=lambda _: dataset)
    reader = chaos_nightly.Reader(location)
    reader.look()
    assert (reader.searches, reader.failed) == (1, [])
    monkeypatch.setattr(chaos_nightly, "search_scenes", lambda *_: [])
    rows[0] = 4
    reader.look()
    assert reader.failed == ["4 scenes after 5"]
