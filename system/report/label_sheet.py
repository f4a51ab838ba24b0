"""Infrared pictures with their classes painted on, as they are and as a segmenter says, as a sheet to look at.

Legend: H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from system.pairs.masks import IGNORED, PSEUDO
from system.report.detection_sheet import picture_sheet, stretched

_WIDTH, _COLUMNS = 360, 2
# Of classes after the background, over and over.
_COLORS = (
    (250, 204, 21),
    (96, 165, 250),
    (74, 222, 128),
    (248, 113, 113),
    (192, 132, 252),
    (45, 212, 191),
    (251, 146, 60),
    (244, 114, 182),
)
_IGNORED = (113, 113, 122)


@dataclass(frozen=True, eq=False)
class LabelCell:
    """A picture uint8 [H, W], what is there and what was found, uint8 [H, W] each, and lines under it."""

    picture_HW: NDArray[np.uint8]
    truth_HW: NDArray[np.uint8]
    found_HW: NDArray[np.uint8]
    lines: tuple[str, ...] = ()


def painted(picture_HW: NDArray[np.uint8], labels_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture with the colour of each class over it, uint8 [H, W, 3]; the background stays as it is."""
    grey = np.repeat(stretched(picture_HW)[..., None], 3, axis=2).astype(np.float32)
    colors = np.array([(0, 0, 0)] + [_COLORS[k % len(_COLORS)] for k in range(254)] + [_IGNORED], np.float32)
    share = np.where(labels_HW == 0, 0.0, np.where(labels_HW == IGNORED, 0.4, 0.6))[..., None]
    return (grey * (1 - share) + colors[labels_HW] * share).astype(np.uint8)


def label_sheet(title: str, cells: Sequence[LabelCell], classes: Sequence[str], masks: str) -> bytes:
    """All cells, truth on the left and what was found on the right, as a JPEG.

    classes: the background first. masks: what the truth is; pseudo-masks are not called truth.
    """
    images = []
    for cell in cells:
        strip = np.concatenate(
            [painted(cell.picture_HW, cell.truth_HW), painted(cell.picture_HW, cell.found_HW)], axis=1
        )
        height = max(1, round(2 * _WIDTH * strip.shape[0] / strip.shape[1]))
        images.append(Image.fromarray(strip).resize((2 * _WIDTH, height)))
    legend = [(name, _COLORS[k % len(_COLORS)]) for k, name in enumerate(classes[1:])]
    left = PSEUDO if masks.startswith(PSEUDO) else "truth"
    told = f"{title}: {left} on the left, found on the right"
    return picture_sheet(told, images, [cell.lines for cell in cells], _COLUMNS, [*legend, ("ignored", _IGNORED)])
