"""A cluster that grows and shrinks, seen by its benchmark in its own process: Ray's token is per process."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import pytest

from tests.cluster.jobs import ROOT


@pytest.mark.slow
def test_nodes_come_for_work_and_go_after_it_and_a_killed_one_loses_nothing() -> None:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tests.benchmarks.autoscaling", "--drawn", f"--port={port}"]
    command += ["--logs=12", "--nodes=3", "--limit-s=500"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.strip().splitlines()[-1])
    assert figures["nodes_at_start"] == 0 and figures["nodes_at_peak"] >= 2 and figures["nodes_after"] == 0
    assert figures["expected"] == 48 and figures["lost"] == figures["duplicated"] == figures["quarantined"] == 0
    assert figures["second_night_committed"] == figures["second_night_nodes_started"] == 0
    assert figures["idle_gpu_nodes_started"] == 0
