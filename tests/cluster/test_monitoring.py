"""What the dashboard shows of a real run, as a real Prometheus tells it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import Head, free_port
from tests.cluster.jobs import run_job
from tests.plain_logs import write_plain_log
from tests.prometheus import MONITORING, running_prometheus, tool

# Where mining is fast, few logs are over between two looks of Prometheus; then more are tried.
NUM_LOGS = (6, 80)


# It counts what the head saw; beside other tests' runs that is more than its own.
@pytest.mark.slow
def test_every_query_of_the_dashboard_has_data_while_logs_are_mined(head: Head, tmp_path: Path):
    tool("prometheus")
    dashboard = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))
    queries = {
        (panel["title"], target["legendFormat"]): target["expr"].replace("$__rate_interval", "20s")
        for panel in dashboard["panels"]
        for target in panel["targets"]
    }
    nodes = head.folder / "prom_metrics_service_discovery.json"
    with running_prometheus(tmp_path, free_port(), nodes) as prometheus:
        for num_logs in NUM_LOGS:
            start_s = time.time()
            figures = _mine(tmp_path / f"{num_logs}", num_logs, head)
            values = {name: prometheus.values(query, start_s) for name, query in queries.items()}
            if all(values.values()):
                break
        seen = {
            stage: max(prometheus.values(f'sum(ray_nightminer_scenes_total{{stage="{stage}"}})', start_s), default=0)
            for stage in ("read", "forward", "write", "commit")
        }
        rules = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
    assert {name for name, found in values.items() if not found} == set()
    # Prometheus may miss what was counted in the last second; never may it see more.
    assert 0 < seen["commit"] <= figures["committed"] and seen["commit"] <= seen["write"] <= seen["forward"], seen
    backlog = values[("Backlog", "{{run_id}}")]
    assert max(backlog) == figures["found"]
    # One value a second; Ray would drop what is said at commits alone.
    assert len(backlog) > figures["stages"]["stream"] / 2
    assert max(values[("Quarantine by code", "{{level}} {{code}}")]) > 0
    assert 0 <= min(values[("Lease age", "{{run_id}}")]) < 60
    assert rules and {rule["health"] for rule in rules} == {"ok"}, rules


def _mine(folder: Path, num_logs: int, head: Head) -> dict[str, Any]:
    """Eight scenes a log, those of the first without a readable picture."""
    for number in range(num_logs):
        write_plain_log(folder / "logs", f"log-{number}", seconds=32.0, seed=number)
    for picture in (folder / "logs" / "log-0" / "images").iterdir():
        picture.write_bytes(b"")
    arguments = ["--logs", folder / "logs", "--store", folder / "store", "--max-bad-share", "1"]
    done = run_job("mine_fleet", *arguments, env={**head.env, "NIGHTMINER_LOGS": "json"})
    assert done.code == 0, done.stderr
    told = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    (bad,) = [line for line in told if line.get("log_id") == "log-0" and line["code"] == "empty_file"][:1]
    assert bad["run_id"] == done.figures["run_id"] and bad["level"] == "warning"
    assert done.figures["committed"] == 8 * (num_logs - 1) and done.figures["quarantined"] == 8, done.figures
    return done.figures
