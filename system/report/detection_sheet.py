"""Infrared pictures with what a detector found and what is there, as a sheet to look at.

Objects are drawn in green, detections in yellow with class and score, what a cell is about in red.
Legend: H x W pixels.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from system.infrared.detections import Detections, Truth

_WIDTH, _LINE_PX, _GAP_PX, _COLUMNS = 400, 16, 10, 3
_BACK, _INK = (24, 24, 27), (228, 228, 231)
_TRUE, _FOUND, _MARKED, _IGNORED = (74, 222, 128), (250, 204, 21), (248, 113, 113), (113, 113, 122)
_QUALITY = 88


@dataclass(frozen=True, eq=False)
class DetectionCell:
    """One picture, uint8 [H, W] or [H, W, 3], and what is drawn on it. marked: boxes that the cell is about."""

    picture: NDArray[np.uint8]
    found: Detections | None = None
    truth: Truth | None = None
    lines: tuple[str, ...] = ()
    marked: tuple[tuple[float, ...], ...] = field(default=())


def draw_detections(cell: DetectionCell, classes: Sequence[str], width: int | None = None) -> Image.Image:
    """The picture with its boxes, scaled to a width; at its own size, if none is given."""
    height, own_width = cell.picture.shape[:2]
    factor = 1.0 if width is None else width / own_width
    image = Image.fromarray(stretched(cell.picture)).convert("RGB")
    if width is not None:
        image = image.resize((width, max(1, round(height * factor))))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(11)
    if cell.truth is not None:
        for box, ignored in zip(cell.truth.boxes_xyxy, cell.truth.is_ignored, strict=True):
            draw.rectangle(_corners(box, factor), outline=_IGNORED if ignored else _TRUE)
    if cell.found is not None:
        for box, score, label in zip(cell.found.boxes_xyxy, cell.found.scores, cell.found.labels, strict=True):
            x1, y1, x2, y2 = _corners(box, factor)
            draw.rectangle((x1, y1, x2, y2), outline=_FOUND)
            draw.text((x1 + 1, max(0.0, y1 - 12)), f"{classes[label]} {score:.2f}", fill=_FOUND, font=font)
    for marked in cell.marked:
        draw.rectangle(_corners(np.asarray(marked), factor), outline=_MARKED, width=2)
    return image


def detection_sheet(title: str, cells: Sequence[DetectionCell], classes: Sequence[str]) -> bytes:
    """All cells under a title, as a JPEG."""
    images = [draw_detections(cell, classes, _WIDTH) for cell in cells]
    return picture_sheet(title, images, [cell.lines for cell in cells])


def picture_sheet(
    title: str,
    images: Sequence[Image.Image],
    lines: Sequence[tuple[str, ...]],
    columns: int = _COLUMNS,
    legend: Sequence[tuple[str, tuple[int, int, int]]] = (),
) -> bytes:
    """Pictures of one width under a title and the names of a legend in their colours, lines under each, as a JPEG."""
    font = ImageFont.load_default(13)
    tall = [image.height + _LINE_PX * len(told) for image, told in zip(images, lines, strict=True)]
    rows = [tall[k : k + columns] for k in range(0, len(tall), columns)]
    width = max((image.width for image in images), default=_WIDTH)
    top = 2 * _GAP_PX + _LINE_PX * (2 if legend else 1)
    across = max(1, min(columns, len(images)))
    size = (_GAP_PX + across * (width + _GAP_PX), top + sum(max(row) + _GAP_PX for row in rows))
    sheet = Image.new("RGB", size, _BACK)
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP_PX, _GAP_PX), title, fill=_INK, font=font)
    x_px = float(_GAP_PX)
    for name, color in legend:
        draw.text((x_px, _GAP_PX + _LINE_PX), name, fill=color, font=font)
        x_px += draw.textlength(name, font=font) + _GAP_PX
    y = top
    for k, row in enumerate(rows):
        for column in range(len(row)):
            n, x = k * columns + column, _GAP_PX + column * (width + _GAP_PX)
            sheet.paste(images[n], (x, y))
            for number, line in enumerate(lines[n]):
                draw.text((x, y + images[n].height + number * _LINE_PX), line[:64], fill=_INK, font=font)
        y += max(row) + _GAP_PX
    return jpeg(sheet)


def jpeg(image: Image.Image) -> bytes:
    """The picture as a JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def _corners(box: NDArray[np.floating], factor: float) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (float(value) * factor for value in box)
    return x1, y1, max(x1, x2), max(y1, y2)


def stretched(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """For the eye only: infrared often fills a part of its range."""
    low, high = np.percentile(picture, (0.5, 99.5))
    return (np.clip((picture.astype(np.float32) - low) / max(float(high - low), 1.0), 0, 1) * 255).astype(np.uint8)
