"""A contact sheet of pairs: RGB, infrared, and the edges of both on each other, with what was measured.

Where the edges of RGB (red) and infrared (cyan) lie on each other they are white; a coloured fringe is a shift.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

PANEL_WIDTH = 300
_LINE_PX, _GAP_PX, _COLUMNS = 16, 10, 2
_BACK, _INK, _BOX, _IGNORED = (24, 24, 27), (228, 228, 231), (250, 204, 21), (113, 113, 122)
_JPEG_QUALITY = 88


@dataclass(frozen=True)
class SheetCell:
    """One pair as drawn: `strip` is a JPEG of its three panels, `lines` what is written under it."""

    strip: bytes
    lines: tuple[str, ...]


def draw_strip(
    rgb_HWC: NDArray[np.uint8],
    infrared_HWC: NDArray[np.uint8],
    boxes_xyxy: NDArray[np.float32],
    is_ignored: NDArray[np.bool_],
) -> bytes:
    """The three panels of a pair as a JPEG; boxes, in pixels of the pictures, are drawn on the first two."""
    height, width = rgb_HWC.shape[:2]
    size = PANEL_WIDTH, max(1, round(height * PANEL_WIDTH / width))
    small = [
        cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8) for image in (rgb_HWC, infrared_HWC)
    ]
    panels = [Image.fromarray(small[0]), Image.fromarray(stretched(small[1]))]
    for panel in panels:
        _draw_boxes(ImageDraw.Draw(panel), boxes_xyxy * (PANEL_WIDTH / width), is_ignored)
    panels.append(Image.fromarray(edge_overlay(small[0], small[1])))
    strip = Image.new("RGB", (3 * PANEL_WIDTH, size[1]))
    for k, panel in enumerate(panels):
        strip.paste(panel, (k * PANEL_WIDTH, 0))
    return _jpeg(strip)


def stretched(image_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """For the eye only: infrared often fills a part of its range, and would be black on a sheet."""
    low, high = np.percentile(image_HWC, (0.5, 99.5))
    scaled = (image_HWC.astype(np.float32) - low) / max(float(high - low), 1.0)
    return (np.clip(scaled, 0, 1) * 255).astype(np.uint8)


def edge_overlay(rgb_HWC: NDArray[np.uint8], infrared_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Edges of RGB in red and of infrared in cyan, uint8 [H, W, 3]."""
    red, cyan = (_edges(image) for image in (rgb_HWC, infrared_HWC))
    return np.stack([red, cyan, cyan], axis=2)


def draw_sheet(title: str, cells: Sequence[SheetCell]) -> bytes:
    """All cells under a title, as a JPEG."""
    font = ImageFont.load_default(13)
    strips = [Image.open(io.BytesIO(cell.strip)) for cell in cells]
    heights = [strip.height + _LINE_PX * len(cell.lines) for strip, cell in zip(strips, cells, strict=True)]
    rows = [heights[k : k + _COLUMNS] for k in range(0, len(heights), _COLUMNS)]
    cell_width = 3 * PANEL_WIDTH + _GAP_PX
    title_lines = title.split("\n")
    top = _GAP_PX + (_LINE_PX + 2) * len(title_lines)
    sheet = Image.new(
        "RGB", (_GAP_PX + cell_width * _COLUMNS, top + _GAP_PX + sum(max(row) + _GAP_PX for row in rows)), _BACK
    )
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(title_lines):
        draw.text((_GAP_PX, _GAP_PX + number * (_LINE_PX + 2)), line, fill=_INK, font=font)
    y = top + _GAP_PX
    for k, row in enumerate(rows):
        for column in range(len(row)):
            n = k * _COLUMNS + column
            x = _GAP_PX + column * cell_width
            sheet.paste(strips[n], (x, y))
            for number, line in enumerate(cells[n].lines):
                draw.text((x, y + strips[n].height + number * _LINE_PX), line, fill=_INK, font=font)
        y += max(row) + _GAP_PX
    return _jpeg(sheet)


def _draw_boxes(draw: ImageDraw.ImageDraw, boxes: NDArray[np.float32], is_ignored: NDArray[np.bool_]) -> None:
    for (x1, y1, x2, y2), ignored in zip(boxes.tolist(), is_ignored.tolist(), strict=True):
        draw.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=_IGNORED if ignored else _BOX)


def _edges(image_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Gradient magnitude over the mean around, so that a dark street's edges are seen beside a lamp's."""
    grey = cv2.GaussianBlur(cv2.cvtColor(image_HWC, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 0.8)
    magnitude = cv2.magnitude(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    around = cv2.GaussianBlur(magnitude, (0, 0), 12)
    strength = magnitude / (around + 0.3 * float(around.mean()) + 1e-6)
    return (np.clip(strength / 4, 0, 1) * 255).astype(np.uint8)


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()
