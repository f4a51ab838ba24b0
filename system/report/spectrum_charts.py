"""Inline SVG drawings of a spectral analysis; colours come from the page's classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

Interval = Mapping[str, float | None]
_WIDTH = 520


def line_chart(
    radii: Sequence[float], lines: Mapping[str, Sequence[Interval]], label: str, names: Mapping[str, int]
) -> Markup:
    """Divergence against radius, one line a comparison with its interval as a band; the bands' radii are shaded.

    Args:
        names: comparison to the number of its colour.
    """
    height, left, right, top, bottom = 300, 46, 8, 10, 36
    reach = max(radii)
    shown = [point for line in lines.values() for point in line if point["value"] is not None]
    ceiling = _nice(max([float(point["high"] or point["value"] or 0) for point in shown], default=1.0))

    def x(radius: float) -> float:
        return left + (_WIDTH - left - right) * radius / reach

    def y(value: float) -> float:
        return height - bottom - (height - top - bottom) * min(value, ceiling) / ceiling

    parts = [
        f'<rect class="band-low" x="{x(0):.1f}" y="{top}" width="{x(0.25) - x(0):.1f}" '
        f'height="{height - top - bottom}"/>',
        f'<rect class="band-high" x="{x(0.75):.1f}" y="{top}" width="{x(reach) - x(0.75):.1f}" '
        f'height="{height - top - bottom}"/>',
        f'<text class="tick" x="{x(0.125):.1f}" y="{top + 11}" text-anchor="middle">low</text>',
        f'<text class="tick" x="{(x(0.75) + x(reach)) / 2:.1f}" y="{top + 11}" text-anchor="middle">high</text>',
        *_axis(left, _WIDTH - right, y, ceiling),
    ]
    ticks = [0, 0.25, 0.5, 0.75, 1.0, *([1.25] if reach > 1.3 else [])]
    parts += [
        f'<text class="tick" x="{x(tick):.1f}" y="{height - bottom + 14}" text-anchor="middle">{tick:g}</text>'
        for tick in ticks
    ]
    parts.append(
        f'<text class="tick" x="{(left + _WIDTH - right) / 2:.0f}" y="{height - 4}" text-anchor="middle">'
        "radius of the spatial frequency</text>"
    )
    for name, line in sorted(lines.items(), key=lambda item: item[0] == "infrared"):
        known = [(r, p) for r, p in zip(radii, line, strict=True) if p["value"] is not None]
        if all(p["low"] is not None for _, p in known):
            upper = [f"{x(r):.1f},{y(float(p['high'] or 0)):.1f}" for r, p in known]
            lower = [f"{x(r):.1f},{y(float(p['low'] or 0)):.1f}" for r, p in reversed(known)]
            parts.append(f'<polygon class="area c{names[name]}" points="{" ".join(upper + lower)}"/>')
        points = " ".join(f"{x(r):.1f},{y(float(p['value'] or 0)):.1f}" for r, p in known)
        parts.append(
            f'<polyline class="line c{names[name]}{" ours" if name == "infrared" else ""}" points="{points}">'
            f"<title>{escape(name)}</title></polyline>"
        )
    return _svg(height, label, parts)


def band_bars(blocks: Sequence[int], low: Sequence[Interval], high: Sequence[Interval], label: str) -> Markup:
    """Two bars a block, low and high band, with their intervals."""
    height, left, right, top, bottom = 210, 46, 6, 8, 32
    ceiling = _nice(max([float(p["high"] or p["value"] or 0) for p in (*low, *high)], default=1.0))
    step = (_WIDTH - left - right) / max(1, len(blocks))

    def y(value: float) -> float:
        return height - bottom - (height - top - bottom) * max(0.0, min(value, ceiling)) / ceiling

    parts = _axis(left, _WIDTH - right, y, ceiling)
    # Many blocks: as many numbers as fit.
    every = max(1, math.ceil(len(blocks) / 18))
    for n, block in enumerate(blocks):
        for k, (band, points) in enumerate((("low", low), ("high", high))):
            point = points[n]
            value = float(point["value"] or 0)
            start, wide = left + step * (n + 0.12 + 0.38 * k), step * 0.38
            parts.append(
                f'<rect class="bar {band}" x="{start:.1f}" y="{y(value):.1f}" width="{wide:.1f}" '
                f'height="{y(0) - y(value):.1f}"><title>block {block}, {band}: {value:.4g}</title></rect>'
            )
            parts.append(_whisker(start + wide / 2, point, y))
        if n % every == 0:
            parts.append(
                f'<text class="tick" x="{left + step * (n + 0.5):.1f}" y="{height - bottom + 14}" '
                f'text-anchor="middle">{block}</text>'
            )
    parts.append(
        f'<text class="tick" x="{(left + _WIDTH - right) / 2:.0f}" y="{height - 3}" text-anchor="middle">block</text>'
    )
    return _svg(height, label, parts)


def ratio_dots(
    rows: Mapping[str, Interval], label: str, marks: Mapping[str, float], names: Mapping[str, int]
) -> Markup:
    """One row a comparison: its ratio and interval on a logarithmic axis; 1 and the paper's value are marked."""
    left, right, row_height, top = 108, 56, 26, 26
    height = top + row_height * len(rows) + 22
    ends = [
        float(value)
        for row in rows.values()
        for value in (row["low"], row["high"], row["value"])
        if value is not None and value > 0
    ]
    # Estimates without bias may divide by next to nothing: what lies outside is cut off.
    ends = [min(max(end, 0.05), 20.0) for end in ends] + [1.0, *marks.values()]
    low, high = math.log(min(ends) * 0.85), math.log(max(ends) * 1.15)

    def x(value: float) -> float:
        share = (math.log(max(value, 1e-9)) - low) / (high - low)
        return left + (_WIDTH - left - right) * min(max(share, 0.0), 1.0)

    parts = []
    for name, value in marks.items():
        parts.append(
            f'<line class="mark" x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{top - 6}" y2="{height - 20}"/>'
            f'<text class="tick" x="{x(value):.1f}" y="{top - 11}" text-anchor="middle">{escape(name)}</text>'
        )
    for n, (name, row) in enumerate(rows.items()):
        middle = top + row_height * (n + 0.5)
        is_ours = " ours" if name == "infrared" else ""
        parts.append(
            f'<text class="row{is_ours}" x="{left - 10}" y="{middle + 4:.1f}" text-anchor="end">{escape(name)}</text>'
        )
        ratio = row["value"]
        if ratio is None or ratio <= 0:
            parts.append(f'<text class="tick" x="{left}" y="{middle + 4:.1f}">not known</text>')
            continue
        if row["low"] is not None and row["high"] is not None:
            parts.append(
                f'<line class="reach c{names[name]}" x1="{x(max(row["low"], 1e-9)):.1f}" x2="{x(row["high"]):.1f}" '
                f'y1="{middle:.1f}" y2="{middle:.1f}"/>'
            )
        parts.append(
            f'<circle class="dot c{names[name]}" cx="{x(ratio):.1f}" cy="{middle:.1f}" r="{5 if is_ours else 4}"/>'
            f'<text class="figure{is_ours}" x="{_WIDTH - right + 8}" y="{middle + 4:.1f}">{ratio:.2f}</text>'
        )
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if low < math.log(tick) < high]
    parts += [
        f'<text class="tick" x="{x(tick):.1f}" y="{height - 6}" text-anchor="middle">{tick:g}</text>' for tick in ticks
    ]
    return _svg(height, label, parts)


def _whisker(x: float, point: Interval, y: Callable[[float], float]) -> str:
    if point["low"] is None or point["high"] is None:
        return ""
    return f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{y(point["low"]):.1f}" y2="{y(point["high"]):.1f}"/>'


def _axis(left: float, right: float, y: Callable[[float], float], ceiling: float) -> list[str]:
    parts = []
    for k in range(5):
        value = ceiling * k / 4
        parts.append(
            f'<line class="grid" x1="{left}" x2="{right}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
            f'<text class="tick" x="{left - 5}" y="{y(value) + 3.5:.1f}" text-anchor="end">{value:.3g}</text>'
        )
    return parts


def _nice(value: float) -> float:
    """The next round number: what an axis ends at."""
    if not value > 0:
        return 1.0
    power = 10 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if value <= factor * power * 1.0001)


def _svg(height: float, label: str, parts: Sequence[Any]) -> Markup:
    return Markup(
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{escape(label)}">'
        f"{''.join(map(str, parts))}</svg>"
    )
