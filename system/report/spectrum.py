"""Render a spectral analysis as one self-contained HTML file: no script, no font, no request."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from system.report.spectrum_charts import band_bars, line_chart, ratio_dots

_TEMPLATES = Path(__file__).with_name("templates")
METRIC_NAMES = {"mse": "MSE", "nmse": "NMSE", "cosine": "1 - cosine", "cka": "1 - CKA", "mmd": "MMD²"}


@dataclass(frozen=True)
class SpectrumExample:
    """title: which pair. jpegs: RGB, its low and high band, infrared, its low and high band."""

    title: str
    jpegs: tuple[bytes, ...]


def render_spectrum(result: Mapping[str, Any], examples: Sequence[SpectrumExample], example_block: int) -> str:
    """The page, from what `analyze_spectrum` writes as JSON. Every text is escaped."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["jpeg"] = lambda data: "data:image/jpeg;base64," + base64.b64encode(data).decode()
    environment.filters["interval"] = _interval
    environment.filters["figure"] = lambda value: "not known" if value is None else f"{value:.3g}"
    style = (_TEMPLATES / "report.css").read_text("utf-8") + (_TEMPLATES / "spectrum.css").read_text("utf-8")
    return environment.get_template("spectrum.html.j2").render(
        result=result,
        examples=examples,
        example_block=example_block,
        style=style,
        style_hash="sha256-" + base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        metrics=METRIC_NAMES,
        headline=("mse", "nmse", "cosine"),
        colours={name: n for n, name in enumerate(result["ratios"])},
        line_chart=line_chart,
        band_bars=band_bars,
        ratio_dots=ratio_dots,
        reading=_reading(result),
        least_pairs=result["least_pairs"],
    )


def _interval(interval: Mapping[str, float | None]) -> str:
    value, low, high = (interval[key] for key in ("value", "low", "high"))
    if value is None:
        return "not known"
    if low is None or high is None:
        return f"{value:.3g}"
    return f"{value:.3g} ({low:.3g} to {high:.3g})"


def _reading(result: Mapping[str, Any]) -> list[str]:
    """What the controls tell of the gap, in sentences, from the figures alone."""
    controls = [name for name in result["ratios"] if name != "infrared"]
    told = []
    for metric in ("nmse", "cosine"):
        sides = {
            word: [name for name in controls if _beside(result["ratio_against_controls"][name][metric]) == word]
            for word in ("below", "level", "above")
        }
        words = {
            "below": "is less tilted to the high band than",
            "level": "cannot be told from",
            "above": "is more tilted to the high band than",
        }
        clauses = [f"{words[side]} {', '.join(names)}" for side, names in sides.items() if names]
        if clauses:
            told.append(f"By {METRIC_NAMES[metric]}, the gap {'; '.join(clauses)}.")
    for band in ("low", "high"):
        gap = result["bands"]["infrared"]["nmse"][band]["value"]
        beside = {name: result["bands"][name]["nmse"][band]["value"] for name in controls}
        known = {name: value for name, value in beside.items() if value is not None}
        if known and gap is not None:
            worst = max(known, key=lambda name: known[name])
            told.append(
                f"In the {band} band infrared differs by NMSE {gap:.2f}; the strongest control there, {worst}, by "
                f"{known[worst]:.2f}."
            )
    spread = {name: row["mmd"]["low"]["value"] for name, row in result["bands"].items()}
    others = {name: value for name, value in spread.items() if name != "infrared" and value is not None}
    if others and spread["infrared"] is not None:
        worst = max(others, key=lambda name: others[name])
        told.append(
            f"Wherever they lie, low-band features of infrared are spread differently by MMD² "
            f"{spread['infrared']:.3f}; of the controls, {worst} by {others[worst]:.3f} at most."
        )
    return told


def _beside(ratio: Mapping[str, float | None]) -> str:
    low, high = ratio["low"], ratio["high"]
    if low is None or high is None:
        return ""
    return "above" if low > 1 else "below" if high < 1 else "level"
