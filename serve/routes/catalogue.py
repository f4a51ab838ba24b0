"""What the store holds: tags, logs, runs, and the overview that a page begins with."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from serve.context import Ctx, Reader
from serve.filters_in_url import UrlFilters
from serve.models import LogCount, LogList, Overview, Run, RunList, TableTag, TagCount, TagList
from serve.problems import problem_docs
from serve.routes.search import passing, pinned_view
from system.store.detections import newest_classes
from system.store.filters import SceneFilter

router = APIRouter(prefix="/v1", tags=["catalogue"])
_ERRORS = problem_docs(401, 403, 404, 409, 422, 429, 503)
_MOST_LOGS = 2000
AsOf = Annotated[TableTag | None, Query()]
# Figures of a run that say nothing of the machine that it ran on.
_FIGURES = (
    "found", "committed", "already", "quarantined", "remaining", "deferred", "images", "seconds", "stopped",
    "driver_peak_mb",
)  # fmt: skip


@router.get("/overview", summary="What the store holds", responses=_ERRORS)
async def overview(context: Ctx, _: Reader, as_of: AsOf = None) -> Overview:
    """Counts, times, risks, and what this server can do."""
    store = context.services.store
    view = await pinned_view(context, as_of)
    logs = await context.run(store.logs, view, SceneFilter())
    bins, without_risk = await context.run(store.risk_histogram, view)
    return Overview(
        num_scenes=sum(log["count"] for log in logs),
        num_logs=len(logs),
        sources=sorted({log["source"] for log in logs}),
        cameras=await context.run(store.cameras, view),
        from_ns=min((log["from_ns"] for log in logs), default=None),
        to_ns=max((log["to_ns"] for log in logs), default=None),
        risk_histogram=bins,
        num_without_risk=without_risk,
        version=view.snapshot.version,
        model_id=view.model["model_id"],
        tower=view.model["tower"],
        detected_classes=list(await context.run(newest_classes, store.location)),
        has_detector=context.services.detector is not None,
        has_originals=context.settings.originals,
    )


@router.get("/tags", summary="Tags and how many scenes have them", responses=_ERRORS)
async def tags(where: UrlFilters, context: Ctx, _: Reader, as_of: AsOf = None) -> TagList:
    """Counts are of the scenes that pass the filters, so that chips can show what a further tag would leave."""
    store = context.services.store
    view = await pinned_view(context, as_of)
    chosen, _notes = await passing(where, context)
    counts = await context.run(store.column_counts, view, chosen)
    names = await context.run(store.tag_names)
    total = await context.run(store.count, view, chosen)
    listed = [TagCount(name=name, count=counts.get(name, 0)) for name in names]
    return TagList(tags=listed, total=total, version=view.snapshot.version)


@router.get("/logs", summary="Logs and how many of their scenes pass", responses=_ERRORS)
async def logs(where: UrlFilters, context: Ctx, _: Reader, as_of: AsOf = None) -> LogList:
    """In order of source and name."""
    view = await pinned_view(context, as_of)
    rows = await context.run(context.services.store.logs, view, (await passing(where, context))[0])
    return LogList(logs=[LogCount(**row) for row in rows[:_MOST_LOGS]], is_cut=len(rows) > _MOST_LOGS)


@router.get("/runs", summary="Runs of mining", responses=problem_docs(401, 403, 422, 429, 503))
async def runs(context: Ctx, _: Reader) -> RunList:
    """Newest first; `tag` is what `as_of` takes."""
    found, tags = await context.run(context.services.store.runs)
    listed = []
    for run in found:
        figures: dict[str, Any] = run.report.get("figures") or {}
        tag = f"run-{run.run_id}"
        listed.append(
            Run(
                run_id=run.run_id,
                model_id=run.model_id,
                status=run.status,
                started_ns=run.started_ns,
                ended_ns=run.ended_ns,
                table_version=run.table_version,
                tag=tag if tag in tags else None,
                figures={name: figures[name] for name in _FIGURES if name in figures},
                vector_index=run.report.get("vector_index") or figures.get("vector_index"),
            )
        )
    return RunList(runs=listed)
