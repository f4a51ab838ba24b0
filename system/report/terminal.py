"""Tables for a terminal; in a log they come out as plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.markup import escape
from rich.table import Table

from system.report.content import SceneCard


def hardest_table(cards: Sequence[SceneCard]) -> Table:
    """The hardest scenes, one a line."""
    table = Table(title="Hardest scenes", title_justify="left", expand=False)
    for name in ("#", "hardness", "risk", "ambig.", "rarity"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("log", overflow="fold", max_width=34)
    table.add_column("why", overflow="fold", min_width=30)
    for card in cards:
        ranks = (card.hardness, card.risk_rank, card.ambiguity_rank, card.rarity_rank)
        table.add_row(str(card.rank), *map(_percent, ranks), escape(f"{card.source}/{card.log_id}"), escape(card.why))
    return table


def results_table(results: Sequence[Mapping[str, Any]]) -> Table:
    """Search results, best first."""
    table = Table(title=f"{len(results)} scenes", title_justify="left")
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("risk", justify="right", no_wrap=True)
    table.add_column("scene", no_wrap=True)
    table.add_column("log", overflow="fold", max_width=34)
    table.add_column("why", overflow="fold", min_width=30)
    for row in results:
        score, risk = (("-" if row[key] is None else f"{row[key]:.3f}") for key in ("score", "risk"))
        log = escape(f"{row['source']}/{row['log_id']}")
        table.add_row(score, risk, row["scene_id"], log, escape(row["why"]))
    return table


def runs_table(runs: Sequence[Any]) -> Table:
    """All runs of a store, newest first; rows as of `system.store.runs.RunRecord`."""
    table = Table(title="Runs", title_justify="left")
    columns = ("run", "status", "started (UTC)", "found", "committed", "already", "quarantined", "pictures", "seconds")
    for name in columns:
        table.add_column(name, justify="left" if name in columns[:3] else "right", no_wrap=True)
    for run in runs:
        figures = run.report.get("figures", {})
        started = datetime.fromtimestamp(run.started_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")
        counts = [str(figures.get(key, "-")) for key in ("found", "committed", "already", "quarantined", "images")]
        table.add_row(run.run_id, run.status, started, *counts, f"{figures.get('seconds', 0):.1f}")
    return table


def quarantine_table(faults: Sequence[Mapping[str, Any]], total: int) -> Table:
    """Faults with what was expected and what was found."""
    shown = f", the first {len(faults)} of them" if total > len(faults) else ""
    table = Table(title=f"Quarantine: {total} faults{shown}", title_justify="left")
    for name in ("level", "stage", "code"):
        table.add_column(name, no_wrap=True)
    table.add_column("what", overflow="fold")
    for fault in faults:
        table.add_row(fault["level"], fault["stage"], fault["code"], escape(fault["message"]))
    return table


def _percent(rank: float | None) -> str:
    return "-" if rank is None else f"{100 * rank:.0f} %"


def label_table(counts: Mapping[str, Mapping[str, int]], rules_of: Mapping[str, Mapping[str, int]]) -> Table:
    """How many scenes each tag is known for, and which rules said so how often."""
    table = Table(title="Labels", title_justify="left")
    table.add_column("tag", no_wrap=True)
    for name in ("present", "absent", "unknown"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("rules", overflow="fold")
    for tag, count in counts.items():
        rules = ", ".join(f"{rule} {n}" for rule, n in rules_of[tag].items())
        table.add_row(tag, *(str(count[name]) for name in ("present", "absent", "unknown")), escape(rules))
    return table


def disagreements_table(pairs: Sequence[Mapping[str, int | str]]) -> Table:
    """Two rules that label the same scenes: how often they agree; the first counts."""
    table = Table(title="Scenes that two rules label", title_justify="left")
    for name in ("tag", "first", "second"):
        table.add_column(name, no_wrap=True)
    columns = ("both_present", "only_first", "only_second", "both_absent")
    for name in columns:
        table.add_column(name.replace("_", " "), justify="right")
    for pair in pairs:
        table.add_row(*(escape(str(pair[name])) for name in ("tag", "first", "second", *columns)))
    return table


def evaluation_table(title: str, figures: Mapping[str, Any]) -> Table:
    """Figures with their intervals, then each tag's average precision by method."""
    table = Table(title=title, title_justify="left")
    table.add_column("figure", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("95 %", no_wrap=True)
    for name, figure in figures.items():
        if isinstance(figure, Mapping) and "low" in figure:
            table.add_row(name, _number(figure["value"]), f"{_number(figure['low'])} to {_number(figure['high'])}")
    for tag, row in figures["tags"].items():
        scores = ", ".join(f"{key.removeprefix('ap_')} {_number(row[key]['value'])}" for key in row if key[:3] == "ap_")
        why = "" if row["judged"] else " (not judged)"
        table.add_row(f"AP {tag}", f"{row['present']} of {row['present'] + row['absent']}", scores + why)
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def study_table(result: Mapping[str, Any]) -> Table:
    """What each arm of an interference study did to the head and to its siblings; changes in percent."""
    arms = result["arms"]
    siblings = list(next(iter(arms.values()))["siblings"])
    table = Table(title=f"upgrades of head {result['head']}", title_justify="left")
    table.add_column("arm", no_wrap=True)
    table.add_column("largest change of a sibling's answer", justify="right")
    for column in (*(f"{head} worse by" for head in siblings), f"{result['head']} better by"):
        table.add_column(column, justify="right")
    for arm, row in arms.items():
        figures = [row["siblings"][head]["drop"] for head in siblings] + [row["head_metric_gain"]]
        table.add_row(arm, f"{row['max_abs_change']:.3g}", *(_change(figure) for figure in figures))
    return table


def _change(figure: Mapping[str, float | None]) -> str:
    mean, low, high = (figure[key] for key in ("mean", "low", "high"))
    if mean is None or low is None or high is None:
        return "-"
    return f"{100 * mean:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def parts_table(plan: Any) -> Table:
    """What each part of a planned cluster bears; rows as of `system.pipelines.cluster_plan.ClusterPlan`."""
    in_time = "in time" if plan.is_in_time else "NOT in time"
    title = f"{plan.nodes:,} nodes for {plan.hours:g} h, {in_time}; busy: {plan.bound}; money {plan.money:,.2f}"
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.caption = f"first to give out: {plan.breaks_first}, at {plan.scales:,g} times this night"
    for name in ("part", "needed", "bears", "load"):
        table.add_column(name, justify="left" if name == "part" else "right", no_wrap=True)
    for part in sorted(plan.parts, key=lambda part: -part.load):
        table.add_row(part.name, part.need, part.bears, f"{part.load:.1%}")
    return table
