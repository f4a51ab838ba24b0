"""Small inline SVG drawings. Colours come from the page's CSS classes, so that they follow light and dark."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from markupsafe import Markup, escape

from system.report.birds_eye import BirdsEye, PlottedTrack

_SIZE = 300
_RINGS_M = (10, 25, 50)
_KINDS = ("ego", "pedestrian", "rider", "bicycle", "motorcycle", "large", "roadwork")


def birds_eye_svg(plot: BirdsEye) -> Markup:
    """The scene from above: the ego's heading points up, the most dangerous road user stands out."""
    points = [
        step for track in (plot.ego, *plot.agents) if track.kind == "ego" or track.is_worst for step in track.steps
    ]
    reach = float(np.clip(max(max(abs(x), abs(y)) for x, y, _ in points) + 8, 22, 60))
    scale = _SIZE / (2 * reach)
    ahead = max(x for x, _, _ in plot.ego.steps)
    # The ego starts in the lower part where it drives on, in the middle where it stands.
    centre_x = min(ahead / 2, reach * 0.6)

    def at(x: float, y: float) -> str:
        return f"{_SIZE / 2 - y * scale:.1f},{_SIZE / 2 - (x - centre_x) * scale:.1f}"

    parts = []
    for ring in _RINGS_M:
        if ring < reach * 1.6:
            cx, cy = at(0, 0).split(",")
            parts.append(f'<circle class="ring" cx="{cx}" cy="{cy}" r="{ring * scale:.1f}"/>')
            lx, ly = at(ring, 0).split(",")
            parts.append(f'<text class="ring-label" x="{lx}" y="{ly}" dx="3" dy="-2">{ring} m</text>')
    for track in sorted(plot.agents, key=lambda t: t.is_worst):
        parts.append(_track(track, at))
    parts.append(_track(plot.ego, at))
    label = f"Bird's-eye view: ego and {len(plot.agents)} road users within {reach:.0f} m"
    return Markup(
        f'<svg class="birds-eye" viewBox="0 0 {_SIZE} {_SIZE}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    )


def _track(track: PlottedTrack, at: Callable[[float, float], str]) -> str:
    kind = track.kind if track.kind in _KINDS else "vehicle"
    name = f"k-{kind}{' worst' if track.is_worst else ''}"
    way = " ".join(at(x, y) for x, y, _ in track.steps)
    trail = f'<polyline class="trail {name}" points="{way}"/>' if len(track.steps) > 1 else ""
    x, y, yaw = track.steps[-1] if track.kind != "ego" else track.steps[0]
    length, width = max(track.size[0], 0.8), max(track.size[1], 0.8)
    cos, sin = np.cos(yaw), np.sin(yaw)
    corners = [(length / 2, width / 2), (length / 2, -width / 2), (-length / 2, -width / 2), (-length / 2, width / 2)]
    box = " ".join(at(x + cos * a - sin * b, y + sin * a + cos * b) for a, b in corners)
    return f'{trail}<polygon class="box {name}" points="{box}"/>'


def histogram_svg(values: Sequence[float], label: str, bins: int = 25) -> Markup:
    """How many scenes have which value in [0, 1]."""
    counts, _ = np.histogram(np.asarray(values, dtype=float), bins=bins, range=(0, 1))
    top = max(1, int(counts.max(initial=0)))
    width, height = 300, 90
    step = width / bins
    bars = "".join(
        f'<rect x="{k * step + 0.5:.1f}" y="{height - 14 - 72 * c / top:.1f}" width="{step - 1:.1f}" '
        f'height="{72 * c / top:.1f}"><title>{k / bins:.2f} to {(k + 1) / bins:.2f}: {c} scenes</title></rect>'
        for k, c in enumerate(counts)
    )
    axis = "".join(
        f'<text x="{x * width:.0f}" y="{height - 2}" text-anchor="{anchor}">{x:g}</text>'
        for x, anchor in ((0, "start"), (0.5, "middle"), (1, "end"))
    )
    return Markup(
        f'<svg class="histogram" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="Histogram of {label} over {len(values)} scenes">{bars}{axis}</svg>'
    )


def bars_svg(values: Sequence[tuple[str, float]], label: str) -> Markup:
    """One bar a name, in their order, the last one standing out; at least 0 each."""
    top = max([value for _, value in values] + [1.0])
    width, height = 300, 90
    step = width / max(1, len(values))
    bars = "".join(
        f'<rect class="{"" if k == len(values) - 1 else "past"}" x="{(k + 0.5) * step - min(step - 2, 40) / 2:.1f}" '
        f'y="{height - 14 - 72 * value / top:.1f}" width="{min(step - 2, 40):.1f}" height="{72 * value / top:.1f}">'
        f"<title>{escape(name)}: {value:g}</title></rect>"
        for k, (name, value) in enumerate(values)
    )
    ends = [(0, values[0][0], "start"), (width, values[-1][0], "end")] if len(values) > 1 else []
    axis = "".join(f'<text x="{x}" y="{height - 2}" text-anchor="{at}">{escape(name)}</text>' for x, name, at in ends)
    return Markup(
        f'<svg class="histogram" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(label)} of {len(values)} nights">{bars}{axis}</svg>'
    )
