"""What a night did, and what of it is worth a look."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from typing import Any

from system.pipelines.nightly.comparing import Alert, Comparison
from system.pipelines.nightly.config import NightlyConfig
from system.pipelines.nightly.figures import NightFigures
from system.pipelines.nightly.finding import NightLogs
from system.pipelines.nightly.judging import Judged
from system.pipelines.nightly.records import NightRecord
from system.pipelines.result import MiningResult
from system.store.log_versions import LogVersion

# A log that was recorded later than this after now has a wrong clock.
_FUTURE_LOG_S = 86_400


@dataclass
class NightResult:
    """What a night did.

    run_ids: of all runs of this night, and of nights that died before it. made_up: days of those nights.
    figures: of all that these runs committed. days: that were looked at.
    arrived: logs, or contents of logs, that this night was the first to see.
    alerts: those of the comparison and those of the night itself.
    """

    day: date
    mined: MiningResult
    run_ids: list[str] = field(default_factory=list)
    made_up: list[str] = field(default_factory=list)
    figures: NightFigures = field(default_factory=NightFigures)
    compared: Comparison = field(default_factory=Comparison)
    alerts: list[Alert] = field(default_factory=list)
    arrived: list[LogVersion] = field(default_factory=list)
    missed: list[date] = field(default_factory=list)
    logs: NightLogs = field(default_factory=NightLogs)
    before: list[NightRecord] = field(default_factory=list)
    days: list[date] = field(default_factory=list)
    budget_spent: str | None = None
    cost: float | None = None
    labels: str | None = None
    label_faults: int = 0
    maintained: dict[str, Any] | None = None
    version_tag: str = ""
    report: str = ""
    seconds: float = 0.0

    @property
    def left(self) -> int:
        """Scenes that the next night has to mine."""
        return self.mined.remaining + self.mined.deferred

    def arrivals(self, kind: str) -> list[LogVersion]:
        """Logs that were new, late or reuploaded tonight."""
        return [version for version in self.arrived if version.arrival == kind]

    def as_json(self) -> dict[str, Any]:
        """found = committed + already + quarantined + left_for_next_night."""
        mined = self.mined
        return {
            "night": self.day.isoformat(),
            "found": mined.found + mined.deferred,
            "committed": mined.committed,
            "already": mined.already,
            "quarantined": mined.quarantined,
            "left_for_next_night": self.left,
            "seconds": round(self.seconds, 3),
            "version_tag": self.version_tag,
            "alerts": [alert.as_json() for alert in self.alerts],
            "new_logs": len(self.arrivals("new")) + len(self.arrivals("late")),
            "late_logs": len(self.arrivals("late")),
            "reuploaded_logs": len(self.arrivals("reuploaded")),
            "missed_nights": [day.isoformat() for day in self.missed],
            "made_up_nights": self.made_up,
            "days": [self.days[0].isoformat(), self.days[-1].isoformat()],
            "budget_spent": self.budget_spent,
            "cost": self.cost,
            "labels": self.labels,
            "maintained": self.maintained,
            "run_id": mined.run_id,
            "report": self.report,
            "problem": mined.problem,
        }


def night_alerts(config: NightlyConfig, result: NightResult, judged: Judged, now_ns: int) -> list[Alert]:
    """What is worth a look of the night itself."""
    alerts, found = config.alerts, []
    if result.mined.problem is not None:
        found.append(Alert("problem", result.mined.problem))
    if alerts.missed_nights is not None and len(result.missed) >= alerts.missed_nights:
        told = f"no night ended on {', '.join(map(str, result.missed))}; "
        looked = [str(day) for day in result.missed if day in result.days]
        is_all = len(looked) == len(result.missed)
        whose = "their logs" if is_all else f"of these days, the logs of {', '.join(looked) or 'none'}"
        told += f"{whose} were looked at tonight"
        found.append(Alert("missed_nights", told, len(result.missed), alerts.missed_nights))
    if alerts.left_for_next_night is not None and result.left >= alerts.left_for_next_night:
        why = "it was told to stop" if result.mined.stopped else "the storage did not answer"
        why = f"the budget of {result.budget_spent} is used up" if result.budget_spent else why
        told = f"{result.left} scenes are left for the next night: {why}"
        found.append(Alert("left_for_next_night", told, result.left, alerts.left_for_next_night))
    if config.reuploaded == "tell" and judged.changed:
        names = ", ".join(change.arrival.name for change in judged.changed[:5])
        told = (
            f"{len(judged.changed)} logs have another content than what was mined of them, and were left alone: {names}"
        )
        found.append(Alert("reuploaded", told, len(judged.changed)))
    limit_ns = now_ns + _FUTURE_LOG_S * 1_000_000_000
    future = [arrival.name for arrival in judged.new if arrival.ref.t_end_ns > limit_ns]
    if future:
        told = f"{len(future)} logs were recorded after now; their recorders' clocks are wrong: {', '.join(future[:5])}"
        found.append(Alert("clock", told, len(future)))
    if result.logs.skipped:
        some = "; ".join(f"{skipped.uri}: {skipped.why}" for skipped in result.logs.skipped[:3])
        told = f"{len(result.logs.skipped)} places were skipped, which no reader knows: {some}"
        found.append(Alert("skipped", told, len(result.logs.skipped)))
    return found
