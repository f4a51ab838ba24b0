"""What mining counts for Prometheus, and what dashboard and alerts ask of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from system.pipelines import metrics
from system.store.lease import Lease
from system.store.location import StoreLocation
from tests.prometheus import MONITORING, tool

RUNBOOK = MONITORING.parent / "README.md"


class Meter:
    """Stands where Ray's own would."""

    def __init__(self, told: list[tuple[str, float, dict[str, str]]], name: str) -> None:
        self._told, self._name = told, name

    def inc(self, value: float, tags: dict[str, str] | None = None) -> None:
        assert value > 0, "Ray refuses to add nothing"
        self._told.append((self._name, value, tags or {}))

    def set(self, value: float, tags: dict[str, str]) -> None:
        self._told.append((self._name, value, tags))

    observe = inc


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float, dict[str, str]]]:
    found: list[tuple[str, float, dict[str, str]]] = []
    monkeypatch.setattr(metrics, "_ray_runs", lambda: True)
    monkeypatch.setattr(metrics, "_metric", lambda name: Meter(found, name))
    monkeypatch.setattr(metrics, "_gauges", metrics._Gauges())
    return found


def queries() -> list[str]:
    dashboard = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return found + [rule["expr"] for rule in alerts()]


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((MONITORING / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run([tool("promtool"), *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_where_no_ray_runs_nothing_is_counted_and_ray_is_not_imported():
    code = (
        "import sys; from system.pipelines import metrics as m; m.began('r', 3, 1.0); m.committed('r', 1, 2, 0.1, 2); "
        "m.quarantined([{'level': 'scene', 'code': 'c'}]); m.lease_renewed('r', True); assert 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_faults_are_counted_by_level_and_code(told):
    faults = [{"level": "scene", "code": "a"}, {"level": "frame", "code": "a"}, {"level": "frame", "code": "a"}]
    metrics.quarantined(faults)
    name = "nightminer_quarantined"
    assert told == [(name, 1, {"level": "scene", "code": "a"}), (name, 2, {"level": "frame", "code": "a"})]


def test_a_commit_tells_its_time_its_scenes_and_what_is_left(told):
    metrics.began("r", 9, 1.0)
    metrics.committed("r", 4, 0, 0.5, 5)
    metrics.ended("r")
    last = {name: value for name, value, _ in told}
    assert last["nightminer_backlog_scenes"] == 5
    assert ("nightminer_scenes", 4, {"stage": "commit"}) in told
    assert ("nightminer_commit_seconds", 0.5, {}) in told
    assert not [value for name, value, _ in told if name == "nightminer_images"], "no picture, nothing to add"


def test_a_gauge_is_said_again_until_its_run_is_over(told, monkeypatch):
    monkeypatch.setattr(metrics, "_REPEAT_S", 0.01)
    metrics.began("r", 9, 1.0)
    deadline_s = time.monotonic() + 10
    while told.count(("nightminer_backlog_scenes", 9, {"run_id": "r"})) < 3 and time.monotonic() < deadline_s:
        time.sleep(0.01)
    metrics.ended("r")
    said = told.count(("nightminer_backlog_scenes", 9, {"run_id": "r"}))
    assert said >= 3
    lease = told.count(("nightminer_lease_beat_timestamp_seconds", 1.0, {"run_id": "r"}))
    while told.count(("nightminer_lease_beat_timestamp_seconds", 1.0, {"run_id": "r"})) < lease + 2:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    assert told.count(("nightminer_backlog_scenes", 9, {"run_id": "r"})) == said, "it goes on with the lease alone"
    metrics.lease_renewed("r", False)
    while metrics._gauges._thread is not None:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_a_lease_tells_of_each_heartbeat_and_of_its_end(tmp_path):
    beats: list[bool] = []
    with Lease(StoreLocation.parse(str(tmp_path)), "r", heartbeat_s=0.01, on_beat=beats.append):
        deadline_s = time.monotonic() + 10
        while len(beats) < 2 and time.monotonic() < deadline_s:
            time.sleep(0.01)
    assert beats[:2] == [True, True] and beats[-1] is False and beats.count(False) == 1


def test_dashboard_and_alerts_ask_for_every_figure_that_we_count_and_for_no_other():
    suffix = {"Counter": "_total", "Gauge": "", "Histogram": "_bucket"}
    counted = {f"ray_{name}{suffix[kind]}" for name, (kind, _, _) in metrics.METRICS.items()}
    asked = {name for query in queries() for name in re.findall(r"ray_nightminer_\w+", query)}
    assert asked == counted


def test_each_alert_has_its_place_in_the_runbook():
    headings = re.findall(r"^### (Nightminer\w+)$", RUNBOOK.read_text(encoding="utf-8"), re.MULTILINE)
    assert headings == [rule["alert"] for rule in alerts()]
    for rule in alerts():
        assert rule["annotations"]["runbook"] == f"cluster/README.md#{rule['alert'].lower()}"


def test_rules_and_configurations_are_what_prometheus_takes(tmp_path):
    promtool("check", "rules", MONITORING / "alerts.yml")
    promtool("check", "config", MONITORING / "prometheus.yml")
    config = yaml.safe_load((MONITORING / "prometheus-kubernetes.yml").read_text(encoding="utf-8"))
    for job in config["scrape_configs"]:
        del job["kubernetes_sd_configs"]  # Debian's build does not know them
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (tmp_path / "alerts.yml").symlink_to(MONITORING / "alerts.yml")
    promtool("check", "config", tmp_path / "prometheus.yml")


def test_each_alert_fires_when_it_should_and_is_silent_otherwise():
    promtool("test", "rules", MONITORING / "alerts_test.yml")
    tested = re.findall(r"alertname: (\w+)", (MONITORING / "alerts_test.yml").read_text(encoding="utf-8"))
    assert {rule["alert"] for rule in alerts()} <= set(tested)
