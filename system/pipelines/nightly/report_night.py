"""Run a night, write its page and its summary, and tell whoever wants to know."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date
from typing import Any

from system.pipelines.mining_progress import MiningProgress
from system.pipelines.nightly.comparing import Alert
from system.pipelines.nightly.config import NightlyConfig
from system.pipelines.nightly.due import tonight
from system.pipelines.nightly.figures import NightFigures
from system.pipelines.nightly.night import run_night
from system.pipelines.nightly.outcome import NightResult
from system.pipelines.nightly.webhook import read_secret, send
from system.pipelines.run_report import scene_cards, write_page
from system.report.content import QuarantineRow, SceneCard
from system.report.night import LogRow, NightReport, NightRow, TagRow, render_night
from system.store.filters import SceneFilter, literal, literals
from system.store.location import StoreLocation
from system.store.log_versions import LogVersion
from system.store.runs import new_run_id, read_quarantine, read_run
from system.store.schema import SCENES

_MOST_FAULTS = 200


def report_and_tell(
    config: NightlyConfig,
    progress: MiningProgress,
    should_stop: Callable[[], bool],
    night: date | None = None,
    since: date | None = None,
) -> NightResult:
    """A night with its report, and its summary to the webhook, also of a night that fails.

    Raises:
        ConfigError: the webhook's secret is not there, before anything is done; and as `run_night`, as all its errors.
        StoreError: the report cannot be written.
    """
    hook = config.webhook
    secret = b"" if hook is None else read_secret(hook)

    def tell(message: Mapping[str, Any], delivery: str) -> str | None:
        return None if hook is None else send(hook, secret, {"store": config.store, **message}, delivery)

    try:
        result = run_night(config, progress, should_stop, night, since)
        progress.phase("writing the report")
        result.report = _write(config, result)
    except Exception as error:
        failed = {
            "status": "failed",
            "night": str(night or tonight(config, time.time_ns())),
            "error": f"{type(error).__name__}: {error}",
        }
        if problem := tell(failed, f"failed-{new_run_id()}"):
            progress.note(f"webhook: {problem}")
        raise
    quiet = hook is not None and hook.only_alerts and not result.alerts
    problem = None if quiet else tell({"status": "finished", **result.as_json()}, result.mined.run_id)
    if problem is not None:
        progress.note(f"webhook: {problem}")
        result.alerts.append(Alert("webhook", problem))
    return result


def _write(config: NightlyConfig, result: NightResult) -> str:
    """Write night-DATE.html and .json and return where the page lies."""
    location = StoreLocation.parse(config.store)
    page = render_night(gather_night(config, location, result))
    place = None if config.report is None else config.report.rstrip("/")
    name = f"night-{result.day}"
    where = write_page(location, f"reports/{name}.html", page, None if place is None else f"{place}/{name}.html")
    result.report = where
    summary = json.dumps(result.as_json(), indent=2, default=str)
    write_page(location, f"reports/{name}.json", summary, None if place is None else f"{place}/{name}.json")
    return where


def gather_night(config: NightlyConfig, location: StoreLocation, result: NightResult) -> NightReport:
    """Everything that the page of a night shows."""
    run = read_run(location, result.mined.run_id)
    faults = [row for run_id in result.run_ids for row in read_quarantine(location, run_id)]
    before = {change.tag: change.before for change in result.compared.tags}
    shares = {tag: count / max(1, result.figures.scenes) for tag, count in result.figures.tags.items()}
    sentences = result.compared.sentences(result.figures)
    if result.made_up:
        sentences = [f"Scenes of {', '.join(result.made_up)} are among these: that night did not end.", *sentences]
    nights = [_row(str(record.day), record.figures) for record in reversed(result.before)]
    return NightReport(
        day=str(result.day),
        store=location.uri,
        model=f"{config.mine.tower} {config.mine.model or 'untrained'} ({run.model_id})",
        figures=result.as_json(),
        alerts=tuple((alert.code, alert.message) for alert in result.alerts),
        sentences=tuple(sentences),
        nights=(*nights, replace(_row(str(result.day), result.figures), is_tonight=True)),
        tags=tuple(TagRow(tag, share, before.get(tag)) for tag, share in shares.items()),
        late=tuple(map(_log, result.arrivals("late"))),
        reuploaded=tuple(map(_log, result.arrivals("reuploaded"))),
        quarantine=tuple(
            QuarantineRow(row["level"], row["uri"] or "", row["stage"], row["code"], row["message"])
            for row in faults[:_MOST_FAULTS]
        ),
        quarantine_total=len(faults),
        empty=tuple(result.logs.empty),
        skipped=tuple((skipped.uri, skipped.why) for skipped in result.logs.skipped[:_MOST_FAULTS]),
        cards=tuple(_cards(config, location, result)),
        weights=config.mine.hardness.model_dump(),
    )


def _cards(config: NightlyConfig, location: StoreLocation, result: NightResult) -> list[SceneCard]:
    """The hardest scenes that the night mined; two narrow columns are scanned for them."""
    run = read_run(location, result.mined.run_id)
    of_night = f"model_id = {literal(run.model_id)} AND run_id IN ({literals(result.run_ids)})"
    rows = location.dataset(SCENES).to_table(columns=["scene_id", "hardness"], filter=of_night).to_pylist()
    hardest = sorted(rows, key=lambda row: -(row["hardness"] or -1.0))[: config.mine.report_scenes]
    if not hardest:
        return []
    where = SceneFilter(scene_ids=tuple(row["scene_id"] for row in hardest), model_id=run.model_id)
    return scene_cards(location, run, len(hardest), with_pictures=True, where=where)


def _row(day: str, figures: NightFigures) -> NightRow:
    return NightRow(day, figures.scenes, figures.quarantine_share, figures.risk_mean)


def _log(version: LogVersion) -> LogRow:
    return LogRow(f"{version.source}/{version.log_id}", version.log_uri, version.day)
