"""How far the infrared picture of a pair is translated against its RGB picture, told from a frozen teacher's features.

Legend: C channels, H x W pixels, h x w tokens, S shifts tried along an axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from system.errors import ModelError
from system.freqkd.losses import standardise

MAX_SHIFT_TOKENS = 3.0
_MIN_GAIN = 0.01


@dataclass(frozen=True)
class FeatureShift:
    """Moving the RGB picture by (dy, dx) tokens, downwards and to the right, lays it onto the infrared picture.

    gain: mean cosine of features there, less that without a shift. is_confident: it is clear; both are exactly 0 if not.
    """

    dy_tokens: float
    dx_tokens: float
    gain: float
    is_confident: bool


def estimate_token_shift(
    teacher: Sequence[Tensor], student: Sequence[Tensor], max_shift_tokens: float = MAX_SHIFT_TOKENS
) -> FeatureShift:
    """The translation that best aligns the teacher's features of both pictures.

    Args:
        teacher: of the RGB picture, [C, h, w] for each block; student: the same model's of the infrared picture.
    Raises:
        ModelError: shapes differ.
    """
    if [t.shape for t in teacher] != [s.shape for s in student] or not teacher:
        raise ModelError(f"features of {len(teacher)} and {len(student)} blocks: expected the same number and shapes")
    ours, theirs = (torch.cat([standardise(f[None].float())[0] for f in features]) for features in (student, teacher))
    reach = [min(round(max_shift_tokens), side // 2) for side in ours.shape[1:]]
    score = _cosines(theirs, ours, reach[0], reach[1]) / len(teacher)
    row, column = divmod(int(score.argmax()), score.shape[1])
    gain = float(score[row, column] - score[reach[0], reach[1]])
    if gain < _MIN_GAIN:
        return FeatureShift(0.0, 0.0, gain, False)
    dy = row - reach[0] + _peak(score[:, column], row)
    dx = column - reach[1] + _peak(score[row], column)
    return FeatureShift(dy, dx, gain, True)


def shift_picture(rgb_HWC: Tensor, dy_px: int, dx_px: int) -> tuple[Tensor, Tensor]:
    """Move a picture down and to the right; its edge is repeated where nothing is known.

    Returns:
        (shifted_HWC, valid_HW bool: whether a pixel comes from the picture).
    """
    height, width = rgb_HWC.shape[:2]
    rows = torch.arange(height, device=rgb_HWC.device) - dy_px
    columns = torch.arange(width, device=rgb_HWC.device) - dx_px
    moved = rgb_HWC[rows.clamp(0, height - 1)][:, columns.clamp(0, width - 1)]
    valid_HW = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))[None, :]
    return moved, valid_HW


def valid_tokens(valid_HW: Tensor, patch: int) -> Tensor:
    """Tokens that see known pixels alone, bool [h, w].

    Raises:
        ModelError: the patch does not divide the picture.
    """
    height, width = valid_HW.shape
    if height % patch or width % patch:
        raise ModelError(f"a mask of {height}x{width} pixels: expected multiples of the patch of {patch}")
    return valid_HW.unflatten(1, (-1, patch)).unflatten(0, (-1, patch)).all(dim=3).all(dim=1)


def _cosines(rgb: Tensor, infrared: Tensor, down: int, right: int) -> Tensor:
    """Mean cosine over the overlap for every whole shift of the RGB features, [2 down + 1, 2 right + 1]."""
    height, width = rgb.shape[1:]
    score = rgb.new_empty(2 * down + 1, 2 * right + 1)
    for dy in range(-down, down + 1):
        for dx in range(-right, right + 1):
            there = infrared[:, max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)]
            here = rgb[:, max(0, -dy) : height + min(0, -dy), max(0, -dx) : width + min(0, -dx)]
            score[dy + down, dx + right] = (there * here).sum(0).mean()
    return score


def _peak(scores: Tensor, place: int) -> float:
    """Where between its neighbours a parabola through three scores is highest, in -0.5..0.5."""
    if place in (0, len(scores) - 1):
        return 0.0
    before, at, after = (float(v) for v in scores[place - 1 : place + 2])
    bend = before - 2 * at + after
    return max(-0.5, min(0.5, 0.5 * (before - after) / bend)) if bend < 0 else 0.0
