"""Label the scenes of logs: the same windows and ids as mining, from their metadata alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from system.errors import DataError
from system.labels.labelling import SceneLabels, label_scene
from system.labels.rules import LabelRules
from system.logs.registry import read_log
from system.logs.windows import WindowConfig, cut_window
from system.miner.taxonomy import Taxonomy
from system.pipelines.config import MineConfig
from system.pipelines.plan import MiningPlan, plan_mining
from system.report.console import ConsoleProgress
from system.store.ids import IdSet


@dataclass
class LabelledLogs:
    """rows: the scenes that could be labelled. faults: (log, why) of the others. plan: what was found."""

    rows: list[SceneLabels] = field(default_factory=list)
    faults: list[tuple[str, str]] = field(default_factory=list)
    plan: MiningPlan = field(default_factory=MiningPlan)


def label_logs(
    logs: tuple[str, ...],
    windows: WindowConfig,
    rules: LabelRules,
    taxonomy: Taxonomy,
    given: Mapping[str, Mapping[str, bool]],
    given_by: str = "given",
    progress: ConsoleProgress | None = None,
) -> LabelledLogs:
    """Label every scene window of some logs.

    Args:
        given: scene or log id -> tag -> present, from the user.
    Raises:
        ConfigError, FormatError: as `plan_mining`. DataError: `given` names an id that is in none of the logs.
    """
    plan = plan_mining(MineConfig(logs=logs, store="unused", windows=windows), IdSet(), IdSet())
    return label_planned(plan, windows, rules, taxonomy, given, given_by, progress)


def label_planned(
    plan: MiningPlan,
    windows: WindowConfig,
    rules: LabelRules,
    taxonomy: Taxonomy,
    given: Mapping[str, Mapping[str, bool]],
    given_by: str = "given",
    progress: ConsoleProgress | None = None,
) -> LabelledLogs:
    """Label the scenes that a plan has to do. Arguments and errors as of `label_logs`."""
    done, tags = LabelledLogs(plan=plan), frozenset(taxonomy.names)
    done.faults += [(bad.uri, f"{bad.code}: {bad.message}") for bad in plan.unlisted]
    unused = set(given)
    if progress is not None:
        for found in plan.recognised:
            progress.note(f"{found.uri}: {found.reader} ({found.why})")
        for skipped in plan.skipped:
            progress.note(f"{skipped.uri}: skipped ({skipped.why})")
        progress.expect(plan.todo)
    newest, log = None, None
    for chunk in plan.chunks:
        before = len(done.rows)
        for window in chunk.windows:
            try:
                if window.log != newest:
                    newest, log = None, read_log(window.log)
                    newest = window.log
                assert log is not None
                ids = (window.log.log_id, window.scene_id)
                own = {tag: value for key in ids for tag, value in given.get(key, {}).items()}
                unused -= {*ids}
                done.rows.append(label_scene(cut_window(log, window, windows), log.ego, rules, own, given_by, tags))
            except DataError as error:
                done.faults.append((window.log.uri, str(error)))
        if progress is not None:
            progress.advanced(len(done.rows) - before, 0, 0)
    if unused:
        some = ", ".join(sorted(unused)[:3])
        raise DataError("unknown_id", f"{len(unused)} of the given ids are in none of the logs, e.g. {some}")
    return done
