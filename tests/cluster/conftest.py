"""One Ray head for the whole session; jobs run against it as their users run them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from serve.ray_environment import RAY_SERVE_ENVIRONMENT
from system.pipelines.ray_environment import leave_ray
from tests.cluster.jobs import ROOT

RAY = str(Path(sys.executable).with_name("ray"))


@dataclass(frozen=True)
class Head:
    """A running head: where drivers connect, where jobs are submitted, and where Ray writes, its list of nodes too."""

    address: str
    dashboard: str
    env: dict[str, str]
    folder: Path


@pytest.fixture(scope="session")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    port, dashboard, agent = free_port(), free_port(), free_port()
    # No tokens on a cluster that lives for a test; the environment's own choice must not leak in either.
    env = {**os.environ, "RAY_AUTH_MODE": "disabled", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    env |= RAY_SERVE_ENVIRONMENT
    env["PYTHONPATH"] = f"{ROOT}:{env.get('PYTHONPATH', '')}"  # Serve's proxy imports its guard from the checkout
    # Ray makes its workers polite; beside the unit tests they would then hardly run.
    env["RAY_worker_niceness"] = "0"
    env["RAY_metrics_report_interval_ms"] = "2000"  # 10 s is longer than some runs here
    # In /tmp/ray, clusters overwrite each other's list of nodes for Prometheus. Short, since sockets lie there.
    folder = Path(tempfile.mkdtemp(prefix="nm-", dir="/tmp"))
    command = [RAY, "start", "--head", "--block", f"--port={port}", f"--dashboard-port={dashboard}"]
    command += [f"--temp-dir={folder}"]
    # Its default port may be that of another cluster on this machine; without its agent no job can be submitted.
    command += [f"--dashboard-agent-listen-port={agent}"]
    command += ["--num-cpus=2", f"--object-store-memory={512 * 1024**2}", "--disable-usage-stats"]
    log = tmp_path_factory.mktemp("ray") / "head.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=env, stdout=output, stderr=output)
    try:
        _wait_for(dashboard, process, log)
        address = f"127.0.0.1:{port}"
        yield Head(address, f"http://127.0.0.1:{dashboard}", {**env, "RAY_ADDRESS": address}, folder)
    finally:
        leave_ray()  # where tests called jobs in this process
        process.terminate()
        process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + 90
    while time.monotonic() < deadline_s:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            break
        time.sleep(0.2)
    raise RuntimeError(f"the Ray head did not come up:\n{log.read_text()[-3000:]}")
