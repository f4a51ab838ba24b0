"""Mine the logs that are new since the last night."""

from __future__ import annotations

import signal
import threading
import time
from datetime import datetime
from typing import Annotated

import typer

from system.errors import ReconcileError
from system.pipelines.mining_progress import MiningProgress
from system.pipelines.nightly.config import load_nightly
from system.pipelines.nightly.night import plan_night
from system.pipelines.nightly.report_night import report_and_tell
from system.pipelines.ray_environment import leave_ray
from system.report.console import exit_with_code, print_figures

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


@app.command()
def main(
    config: Annotated[str, typer.Option(help="TOML file or URI that says what a night does.")],
    night: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Day of the night; today, if not given.")
    ] = None,
    since: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Look back at least to this day, whatever has been mined since."),
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Say what the night would find, and write nothing.")] = False,
) -> None:
    """Find the logs that are new since the last night, mine, label and rank them, tag the store's version, maintain the
    store, compare the night with the last ones and write a report.

    The same command every night, from cron, systemd or Kubernetes: a night that was missed, or that died, is made up
    for by the next one. A second run of a night commits nothing. SIGTERM, or a used-up budget, ends it after the batch
    in hand, or once none has come for two minutes.

    **Keys** of the configuration, all but the first two optional: `logs` (folders or URIs; `{date}` or
    `{date:%Y/%m/%d}` stands for a day), `store`, `timezone`, `since`, `late_days`, `reuploaded` (`mine_again` or
    `tell`), `rank`, `report`; tables `[mine]` (as the options of jobs/mine_fleet.py), `[labels]` (`enabled`, `rules`),
    `[budget]` (`hours`, `scenes`, `money`, `price_per_hour`), `[maintenance]` (`enabled`, `keep_days`,
    `orphan_days`), `[compare]` (`nights`), `[alerts]` (thresholds), `[webhook]` (`url`, `secret_env` or
    `secret_file`, `only_alerts`). `system/pipelines/nightly/config.py` explains each.

    The last line of stdout is one JSON object: found = committed + already + quarantined + left_for_next_night, all of
    scenes; seconds, version_tag, alerts, and more.

    Exit codes: 0 done, also with alerts or a used-up budget; 2 a wrong option or configuration; 3 a place that is not
    there or may not be listed; 4 the store: it is being written, cannot be, or its clock disagrees; 5 the model; 6 the
    counts do not add up, more than `mine.max_bad_share` is in quarantine, or the storage did not answer for scenes.
    """
    with exit_with_code():
        told = load_nightly(config)
        day = None if night is None else night.date()
        first = None if since is None else since.date()
        if dry_run:
            print_figures(plan_night(told, day, first, time.time_ns()))
            return
        stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        with MiningProgress() as progress:
            result = report_and_tell(told, progress, stop.is_set, day, first)
        print(f"report: {result.report}")
        print_figures(result.as_json())
        leave_ray()
        if result.mined.problem is not None:
            raise ReconcileError(result.mined.problem)


if __name__ == "__main__":
    app()
