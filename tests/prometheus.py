"""A real Prometheus for tests, on figures that something here exports."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

MONITORING = Path(__file__).parents[1] / "cluster" / "monitoring"


def tool(name: str) -> str:
    """The path of `prometheus` or `promtool`; skips, and says so, where it is not installed."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"needs {name}: apt-get install prometheus")
    return path


class Prometheus:
    """A running one."""

    def __init__(self, url: str) -> None:
        self._url = url

    def ask(self, path: str, **parameters: str | float) -> Any:
        """What its API calls `data`. Raises AssertionError: it refuses; its words are in the message."""
        url = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def values(self, expression: str, start_s: float, step_s: float = 1.0) -> list[float]:
        """All finite values of an expression since a moment, of all its series."""
        told = self.ask("query_range", query=expression, start=start_s, end=time.time(), step=step_s)
        return [v for series in told["result"] for _, text in series["values"] if math.isfinite(v := float(text))]


@contextmanager
def running_prometheus(folder: Path, port: int, nodes: Path) -> Iterator[Prometheus]:
    """With our configuration, but every 2 s (a busy node takes one to answer), and Ray's nodes listed elsewhere."""
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "2s", "evaluation_interval": "2s"}
    config["rule_files"] = [str(MONITORING / "alerts.yml")]
    (job,) = config["scrape_configs"]
    job["file_sd_configs"] = [{"files": [str(nodes)], "refresh_interval": "1s"}]
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [tool("prometheus"), f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}"]
    log = folder / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline_s = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(f"{url}/-/ready", timeout=2).close()
                break
            except OSError as error:
                if process.poll() is not None or time.monotonic() > deadline_s:
                    raise RuntimeError(f"Prometheus did not come up:\n{log.read_text()[-2000:]}") from error
                time.sleep(0.2)
        yield Prometheus(url)
    finally:
        process.terminate()
        process.wait(30)
