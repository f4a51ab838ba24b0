"""One night: find, mine, label, rank, tag, maintain, compare.

Every step may be repeated. What is mined is decided by the scenes that the store holds, which night is due by the
records of the runs, and which content a log had by the table `logs`. What dies anywhere leaves less for the next start.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import date
from functools import partial
from typing import Any

from system.pipelines import metrics
from system.pipelines.config import MineConfig
from system.pipelines.mine import describe_model, mine_fleet, plan_only, rank_new
from system.pipelines.mining_progress import MiningProgress
from system.pipelines.nightly.budget import BudgetMeter
from system.pipelines.nightly.comparing import compare_nights
from system.pipelines.nightly.config import NightlyConfig
from system.pipelines.nightly.due import Due, due
from system.pipelines.nightly.figures import night_figures
from system.pipelines.nightly.finding import Arrival, NightLogs, find_logs
from system.pipelines.nightly.judging import Judged, judge_logs
from system.pipelines.nightly.label_night import label_night, load_label_rules
from system.pipelines.nightly.outcome import NightResult, night_alerts
from system.pipelines.nightly.records import FIRST_DAY, NIGHT_LOGS, one_a_day, runs_of_night, write_night
from system.pipelines.plan import Listing
from system.pipelines.result import MiningResult
from system.report.log_lines import bind_log_ids
from system.store.lease import Lease, wait_for_dead_holder
from system.store.location import StoreLocation
from system.store.log_versions import drop_mined, read_log_versions, versions_of_night, write_log_versions
from system.store.maintain import maintain_held, tag_version
from system.store.runs import NIGHT_OF, RunRecord, new_run_id, write_run
from system.store.tables import ModelRow, check_model, open_for_writing


def plan_night(config: NightlyConfig, night: date | None, since: date | None, now_ns: int) -> dict[str, Any]:
    """What `run_night` would find. Writes nothing; raises as it."""
    todo, location, model = due(config, night, since, now_ns), StoreLocation.parse(config.store), _model(config)
    check_model(location, model)
    logs = find_logs(config.logs, todo.days, config.mine.log_format)
    judged = _judge(config, location, model, todo, logs, now_ns)
    again = {change.arrival.name for change in judged.changed}
    plan = plan_only(_mining(config, logs), _listing(logs, judged.current))
    return {
        "night": todo.day.isoformat(),
        "days": [todo.days[0].isoformat(), todo.days[-1].isoformat()],
        **plan.figures(),
        "new_logs": len(judged.new),
        "reuploaded_logs": len(again),
        "empty_places": logs.empty,
        "missed_nights": [day.isoformat() for day in todo.missed],
        "dry_run": True,
    }


def run_night(
    config: NightlyConfig,
    progress: MiningProgress,
    should_stop: Callable[[], bool],
    night: date | None = None,
    since: date | None = None,
    now_ns: int | None = None,
) -> NightResult:
    """Do a night.

    Args:
        should_stop: asked as by `mine_fleet`; once true, the night ends after the batch in hand, without ranking. A
            budget that is used up while no batch comes for two minutes ends it so too: ranking would wait for the same
            nodes.
    Raises:
        ConfigError, DataError: a value of the user's; a bucket or folder that is not there or may not be listed.
        LeaseError: another job writes to this store. StoreError: it cannot be written, or clocks disagree.
    """
    started_s, now_ns = time.perf_counter(), time.time_ns() if now_ns is None else now_ns
    meter = BudgetMeter(config.budget)
    location, model = StoreLocation.parse(config.store), _model(config)
    check_model(location, model)
    if config.labels.enabled:
        load_label_rules(config)  # a wrong file is told now and not after hours of mining
    wait_for_dead_holder(location)
    todo = due(config, night, since, now_ns)
    bind_log_ids(night=todo.day.isoformat())
    progress.phase(f"night {todo.day}: looking at {todo.days[0]} to {todo.days[-1]}")
    logs = find_logs(config.logs, todo.days, config.mine.log_format)
    judged = _judge(config, location, model, todo, logs, now_ns)
    for place in logs.empty:
        progress.note(f"{place}: nothing is there yet")
    mining, run_id = _mining(config, logs), new_run_id()
    remarks = {
        NIGHT_OF: todo.day.isoformat(),
        NIGHT_LOGS: list(config.logs),
        FIRST_DAY: todo.days[0].isoformat(),
    }
    with Lease(location, run_id) as lease:
        open_for_writing(location, model)
        # Before anything is dropped, so that the next night knows of one that dies from here on.
        figures = MiningResult(run_id, model.model_id).as_json()
        report = {**remarks, "figures": figures, "config": mining.model_dump(mode="json")}
        write_run(location, RunRecord(run_id, model.model_id, "running", time.time_ns(), None, None, report))
        _remember(config, location, model, judged, lease, progress)
    # Whatever ends the mining, both are asked: the meter counts each time.
    mined = mine_fleet(
        mining,
        progress,
        lambda: bool(meter.is_spent()) | should_stop(),
        _listing(logs, judged.current),
        remarks,
        keep_days=None,
        run_id=run_id,
    )
    meter.is_spent()
    result = NightResult(
        todo.day, mined, logs=logs, missed=todo.missed, days=todo.days, version_tag=f"night-{todo.day}"
    )
    is_asked_to_stop = should_stop() or mined.stalled
    result.budget_spent = meter.spent if mined.stopped else None
    if mined.deferred and config.budget.scenes is not None:
        result.budget_spent = f"{config.budget.scenes} scenes"
    result.before = one_a_day(todo.past, model.model_id, todo.day, config.compare.nights)
    runs = runs_of_night(todo.runs, model.model_id, todo.day, config.logs)
    run_ids = result.run_ids = [*runs, mined.run_id]
    result.made_up = sorted({run.report[NIGHT_OF] for run in todo.runs if run.run_id in runs} - {todo.day.isoformat()})
    if result.made_up:
        progress.note(f"the night did not end on {', '.join(result.made_up)}; its scenes are labelled and counted here")
    if config.labels.enabled and not is_asked_to_stop:
        progress.phase("labelling")
        runs = runs_of_night(todo.runs, model.model_id, todo.day, config.logs, to_label=True)
        if owed := sorted({run.report[NIGHT_OF] for run in todo.runs if run.run_id in set(runs) - set(run_ids)}):
            progress.note(f"scenes of the night of {', '.join(owed)} have no labels yet; they are labelled here")
        to_label = [*runs, mined.run_id]
        result.labels, result.label_faults = label_night(config, location, todo.day, to_label, judged.current)
    with Lease(location, mined.run_id, on_beat=partial(metrics.lease_renewed, mined.run_id)) as lease:
        if config.rank and not is_asked_to_stop:
            progress.phase("ranking")
            rank_new(location, model.model_id, config.mine, lease)
        lease.check()
        tag_version(location, result.version_tag)
        if config.maintenance.enabled and not is_asked_to_stop:
            progress.phase("maintaining the store")
            # Ranking has brought the indices up to date.
            is_indexed = config.rank or not mined.committed
            steps = config.maintenance.steps
            result.maintained = maintain_held(location, steps, with_indices=not is_indexed).figures()
            tag_version(location, result.version_tag)
        progress.phase("comparing with the last nights")
        result.figures = night_figures(location, model.model_id, run_ids)
        for day in (*result.made_up, todo.day.isoformat()):
            result.arrived += versions_of_night(location, model.model_id, day)
        result.compared = compare_nights(result.figures, [r.figures for r in result.before], config.alerts)
        result.alerts = [*night_alerts(config, result, judged, now_ns), *result.compared.alerts]
        result.cost, result.seconds = meter.cost, time.perf_counter() - started_s
        lease.check()
        labelled = not (config.labels.enabled and is_asked_to_stop)
        write_night(location, mined.run_id, todo.days, result.left, result.figures, labelled)
    return result


def _model(config: NightlyConfig) -> ModelRow:
    return describe_model(_mining(config, NightLogs()))


def _mining(config: NightlyConfig, logs: NightLogs) -> MineConfig:
    """The mining of a night: its places, and the scenes that the budget allows."""
    values = config.mine.model_dump() | {
        "logs": tuple(logs.places) or config.logs,
        "store": config.store,
        "limit": config.budget.scenes,
        "rank": config.rank,
    }
    return MineConfig.parse(values, "mine")


def _listing(logs: NightLogs, current: list[Arrival]) -> Listing:
    return Listing(logs.recognised, logs.skipped, [*(arrival.ref for arrival in current), *logs.bad])


def _judge(
    config: NightlyConfig, location: StoreLocation, model: ModelRow, todo: Due, logs: NightLogs, now_ns: int
) -> Judged:
    known = read_log_versions(location, model.model_id, {arrival.ref.log_id for arrival in logs.arrivals})
    again = config.reuploaded == "mine_again"
    return judge_logs(logs.arrivals, known, model.model_id, todo.day, todo.newest, now_ns, again)


def _remember(
    config: NightlyConfig,
    location: StoreLocation,
    model: ModelRow,
    judged: Judged,
    lease: Lease,
    progress: MiningProgress,
) -> None:
    """Drop what was mined of logs that have another content now, then remember the contents of all.

    In this order: killed between, the same is dropped again, of which nothing has been mined yet.
    """
    for change in judged.changed:
        ref, before = change.arrival.ref, change.before
        told = f"{change.arrival.name}: has another content than what was mined"
        if config.reuploaded == "tell":
            progress.note(f"{told}; left alone (reuploaded = tell)")
            continue
        lease.check()
        first, last = min(ref.t_start_ns, before.t_start_ns), max(ref.t_end_ns, before.t_end_ns)
        dropped = drop_mined(location, model.model_id, ref.source, ref.log_id, first, last)
        progress.note(f"{told}; its {dropped} scenes are mined again")
    lease.check()
    write_log_versions(location, judged.versions)
