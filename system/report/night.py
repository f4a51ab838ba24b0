"""Render a night as one self-contained HTML file, without any script."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from system.report.charts import bars_svg, birds_eye_svg
from system.report.content import QuarantineRow, SceneCard
from system.report.html import card_functions, csp_hash, page_environment, style_sheet


@dataclass(frozen=True)
class NightRow:
    """A night beside others; shares and risks in [0, 1], None where unknown."""

    day: str
    scenes: int
    quarantine_share: float
    risk_mean: float | None
    is_tonight: bool = False


@dataclass(frozen=True)
class TagRow:
    """Share of scenes with a tag, in [0, 1]; before: over the nights before, None where there are none."""

    tag: str
    share: float
    before: float | None


@dataclass(frozen=True)
class LogRow:
    """A log that arrived; day: of its partition, or ""."""

    name: str
    where: str
    day: str


@dataclass(frozen=True)
class NightReport:
    """All of a night's page. figures: as the job prints them. nights: oldest first, tonight last."""

    day: str
    store: str
    model: str
    figures: dict[str, Any]
    alerts: tuple[tuple[str, str], ...]
    sentences: tuple[str, ...]
    nights: tuple[NightRow, ...]
    tags: tuple[TagRow, ...]
    late: tuple[LogRow, ...]
    reuploaded: tuple[LogRow, ...]
    quarantine: tuple[QuarantineRow, ...]
    quarantine_total: int
    empty: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    cards: tuple[SceneCard, ...]
    weights: dict[str, float]


def render_night(report: NightReport) -> str:
    """The page. Every text is escaped; a Content-Security-Policy allows this file's own style only."""
    style = style_sheet()
    return (
        page_environment()
        .get_template("night.html.j2")
        .render(
            report=report,
            style=style,
            style_hash=csp_hash(style),
            birds_eye=birds_eye_svg,
            bars=bars_svg([(row.day, float(row.scenes)) for row in report.nights], "scenes"),
            **card_functions(),
        )
    )
