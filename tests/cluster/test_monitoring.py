"""What the dashboard shows of a real run, as a real Prometheus tells it."""

from __future__ import annotations

import json
import time
from pathlib import Path

from tests.cluster.conftest import Head, free_port
from tests.cluster.jobs import run_job
from tests.plain_logs import write_plain_log
from tests.prometheus import MONITORING, running_prometheus, tool


def test_every_query_of_the_dashboard_has_data_while_logs_are_mined(head: Head, tmp_path: Path):
    tool("prometheus")
    for number in range(8):
        write_plain_log(tmp_path / "logs", f"log-{number}", seconds=32.0, seed=number)
    for picture in (tmp_path / "logs" / "log-3" / "images").iterdir():
        picture.write_bytes(b"")
    dashboard = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))
    queries = {
        (panel["title"], target["legendFormat"]): target["expr"].replace("$__rate_interval", "10s")
        for panel in dashboard["panels"]
        for target in panel["targets"]
    }
    nodes = head.folder / "prom_metrics_service_discovery.json"
    arguments = ["--logs", tmp_path / "logs", "--store", tmp_path / "store", "--max-bad-share", "1"]
    with running_prometheus(tmp_path, free_port(), nodes) as prometheus:
        start_s = time.time()
        done = run_job("mine_fleet", *arguments, env=head.env)
        assert done.code == 0, done.stderr
        values = {name: prometheus.values(query, start_s) for name, query in queries.items()}
        rules = prometheus.ask("rules")["groups"]
        commits = 'ray_nightminer_scenes_total{stage="commit"}'
        seen = {
            stage: max(prometheus.values(f'sum(ray_nightminer_scenes_total{{stage="{stage}"}})', start_s), default=0)
            for stage in ("read", "forward", "write", "commit")
        }
        told = prometheus.values(commits, start_s)
    assert {name for name, found in values.items() if not found} == set()
    figures = done.figures
    assert figures["committed"] == 56 and figures["quarantined"] == 8, figures
    assert min(values[("Backlog", "{{run_id}}")]) <= figures["committed"]
    # Prometheus may miss what a driver counted in its last second; never may it see more.
    assert 0 < max(told) <= figures["committed"]
    assert 0 < seen["commit"] <= seen["write"] <= 56 and seen["read"] > 0, seen
    assert max(values[("Quarantine by code", "{{level}} {{code}}")]) > 0
    assert 0 <= min(values[("Lease age", "{{run_id}}")]) < 60
    faulty = [rule for group in rules for rule in group["rules"] if rule["health"] != "ok"]
    assert not faulty, "each alert can be computed from what there is"
