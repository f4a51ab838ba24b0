"""Progress of a mining run on a terminal or in a log."""

from __future__ import annotations

from system.pipelines.plan import MiningPlan
from system.report.console import ConsoleProgress


class MiningProgress(ConsoleProgress):
    """`system.pipelines.mine.Progress` on the console."""

    def planned(self, plan: MiningPlan) -> None:
        """Say what was recognised and why, and what there is to do."""
        for found in plan.recognised:
            self.note(f"{found.uri}: {found.reader} ({found.why})")
        for skipped in plan.skipped:
            self.note(f"{skipped.uri}: skipped ({skipped.why})")
        for bad in plan.bad_logs:
            self.note(f"{bad.uri}: quarantined ({bad.code}: {bad.message})", "warning", log_uri=bad.uri, code=bad.code)
        for bad in plan.unread_logs:
            self.note(f"{bad.uri}: left for the next run ({bad.code}: {bad.message})", "warning", log_uri=bad.uri)
        for log in plan.repeated_logs:
            self.note(f"{log}: repeats scenes of a log that was found before; they are mined once")
        logs = ", ".join(f"{count} of {source}" for source, count in sorted(plan.logs_by_source.items()))
        self.note(
            f"{plan.found} scenes in {sum(plan.logs_by_source.values())} logs ({logs}): {plan.todo} to mine, "
            f"{plan.already} in the store, {plan.quarantined_before + len(plan.bad_logs)} in quarantine"
            + (f", {len(plan.unread_logs)} that the storage keeps back" if plan.unread_logs else "")
            + (f", {plan.deferred} beyond --limit" if plan.deferred else "")
        )
        self.expect(plan.todo)
