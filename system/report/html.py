"""Render a run as one self-contained HTML file: no script from elsewhere, no font, no request."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from system.report.charts import birds_eye_svg, histogram_svg
from system.report.content import CardPicture, RunReport, SceneCard

_TEMPLATES = Path(__file__).with_name("templates")
_FLAG_WORDS = {
    "no_pictures": "no pictures: ranked by risk alone",
    "no_ego": "the ego's motion is not known",
    "no_agents": "other road users are not known",
    "no_calibration": "a camera without calibration: a stated pinhole was taken",
    "time_assumed": "the log carries no time: a stated rate was taken",
    "rig_assumed": "a stated camera rig was taken",
    "ego_size_unknown": "the ego's size is not known, hence no encounters",
    "ego_reference_assumed": "the log does not say where the ego's box lies: its centre was taken",
}
_RISK_SOURCES = {
    "tracks": "physics of the tracks",
    "ego": "the ego's own motion",
    "head": "the trained risk head",
}


_INFRARED = {"ir", "lwir", "infrared", "thermal"}


def page_environment() -> Environment:
    """Where templates are rendered: every text is escaped, a name that is not given is an error."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["jpeg"] = _data_uri
    environment.filters["as_seen"] = lambda pictures: sorted(pictures, key=_place)
    environment.filters["clock"] = _clock
    environment.filters["percent"] = lambda value: "not known" if value is None else f"{100 * value:.0f} %"
    environment.filters["flag"] = lambda flag: _FLAG_WORDS.get(flag, flag.replace("_", " "))
    return environment


def style_sheet() -> str:
    return (_TEMPLATES / "report.css").read_text(encoding="utf-8")


def card_functions() -> dict[str, Callable[..., Any]]:
    """What scene_card.html.j2 calls."""
    return {
        "components": _components,
        "risk_source": lambda card: _RISK_SOURCES.get(card.risk_source or "", "not known"),
    }


def render_report(report: RunReport) -> str:
    """The page. Every text is escaped; a Content-Security-Policy allows this file's own script and style only."""
    style = style_sheet()
    script = (_TEMPLATES / "report.js").read_text(encoding="utf-8")
    return (
        page_environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            style=style,
            script=script,
            style_hash=csp_hash(style),
            script_hash=csp_hash(script),
            birds_eye=birds_eye_svg,
            histogram=histogram_svg,
            by_code=Counter(row.code for row in report.quarantine).most_common(),
            tag_counts=Counter(tag for card in report.cards for tag, _ in card.tags).most_common(),
            slowest=max((stage.seconds for stage in report.stages), default=1.0) or 1.0,
            **card_functions(),
        )
    )


def _components(card: SceneCard, weights: dict[str, float]) -> list[tuple[str, float | None, str, float]]:
    """(name, rank, what was measured, weight) of the three components of hardness."""
    risk = "no ego motion in this log" if card.risk is None else f"{card.risk:.3f}"
    ambiguity = "no ego motion in this log" if card.ambiguity_m is None else f"{card.ambiguity_m:.1f} m"
    rarity = "no pictures, or no other log to compare with" if card.rarity is None else f"distance {card.rarity:.3f}"
    return [
        ("Risk", card.risk_rank, risk, weights.get("risk", 0.0)),
        ("Ambiguity", card.ambiguity_rank, ambiguity, weights.get("ambiguity", 0.0)),
        ("Rarity", card.rarity_rank, rarity, weights.get("rarity", 0.0)),
    ]


def _place(picture: CardPicture) -> tuple[bool, bool, int, str]:
    """Where a picture stands: colour first, front above back, left to right, as its camera's name says."""
    words = set(re.split(r"[^a-z]+", picture.camera.lower()))
    side = 0 if "left" in words else 2 if "right" in words else 1
    return bool(words & _INFRARED), bool(words & {"back", "rear"}), side, picture.camera


def _data_uri(picture: CardPicture) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(picture.jpeg).decode()


def csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _clock(t_ns: int) -> str:
    """A date where the log has one, else seconds from its start."""
    seconds = t_ns / 1e9
    if seconds < 1e8:
        return f"{seconds:.1f} s"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S") + f".{int(t_ns // 10**8 % 10)} UTC"
