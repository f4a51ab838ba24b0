"""How far a pair's infrared picture is translated against its RGB one, told from a frozen teacher and from edges.

The teacher's features of both pictures agree best near the true translation, but over a width of about a patch, and the
positions that a transformer knows draw the best place towards no translation. Edges agree within a pixel or two, but
also at wrong places. So both agreements are added up over whole pixels: features say where about, edges where.
A translation is taken as none where it is short or its evidence weak, so that aligned pairs stay as they are.

A measure of how well a corpus is aligned, without a model and to fractions of a pixel: `system.pairs.misalignment`.

Legend: C channels, H x W pixels, h x w tokens; S x T translations, down and to the right.
Measured: tests/benchmarks/registration_accuracy.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from system.errors import ModelError
from system.freqkd.edges import edge_agreement

# Raise whenever the same pictures would be registered otherwise.
REGISTRATION_VERSION = 2
MAX_SHIFT_TOKENS = 2.5
# Shorter than this, in tokens, a translation is none: about the accuracy of what is found.
_LEAST_TOKENS = 0.25
# Both agreements in their standard deviations over all translations tried; chosen on 40 training pairs of MSRS, where
# anything from 4 to 8 does as well.
_FEATURES_FOR_EDGES = 5.0
_LEAST_GAIN = 2.0


@dataclass(frozen=True)
class PictureShift:
    """Moving the RGB picture by (dy, dx) pixels, downwards and to the right, lays it onto the infrared picture.

    gain: of the agreement over that without a translation, in standard deviations over all translations tried.
    is_confident: dy and dx are exactly 0 if not.
    """

    dy_px: int
    dx_px: int
    gain: float
    is_confident: bool


def register_pair(
    rgb_HWC: Tensor,
    infrared_HWC: Tensor,
    teacher: Sequence[Tensor],
    student: Sequence[Tensor],
    patch: int,
    max_shift_tokens: float = MAX_SHIFT_TOKENS,
) -> PictureShift:
    """The translation that best aligns a pair, in pixels of the pictures that the model saw.

    Args:
        teacher: of the RGB picture, [C, h, w] for each block; student: the same model's of the infrared picture.
    Raises:
        ModelError: features differ in shape or are no numbers.
    """
    _refuse_misfit(teacher, student)
    whole = _reach(teacher[0], max_shift_tokens)
    down, right = (min(int(max_shift_tokens * patch), tokens * patch) for tokens in whole)
    features_ST = feature_agreement(teacher, student, *whole)
    size = [2 * tokens * patch + 1 for tokens in whole]
    fine_ST = F.interpolate(features_ST[None, None], size=size, mode="bicubic", align_corners=True)[0, 0]
    top, left = (tokens * patch - px for tokens, px in zip(whole, (down, right), strict=True))
    fine_ST = fine_ST[top : top + 2 * down + 1, left : left + 2 * right + 1]
    edges_ST = edge_agreement(rgb_HWC, infrared_HWC, down, right).to(fine_ST.device)
    score_ST = _standard(edges_ST) + _FEATURES_FOR_EDGES * _standard(fine_ST)
    row, column = divmod(int(score_ST.argmax()), score_ST.shape[1])
    dy_px, dx_px = row - down, column - right
    gain = float(score_ST[row, column] - score_ST[down, right])
    if gain < _LEAST_GAIN or (dy_px**2 + dx_px**2) ** 0.5 < _LEAST_TOKENS * patch + 0.5:
        return PictureShift(0, 0, gain, False)
    return PictureShift(dy_px, dx_px, gain, True)


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

    Pictures are padded to whole patches at the right and below; a patch there counts where its part of the picture
    does.
    """
    height, width = valid_HW.shape
    edges = (0, -width % patch, 0, -height % patch)
    valid_HW = F.pad(valid_HW[None, None].float(), edges, mode="replicate")[0, 0] > 0
    return valid_HW.unflatten(1, (-1, patch)).unflatten(0, (-1, patch)).all(dim=3).all(dim=1)


def feature_agreement(teacher: Sequence[Tensor], student: Sequence[Tensor], down: int, right: int) -> Tensor:
    """Mean cosine over overlap and blocks when the teacher's map is moved by (-down..down, -right..right) tokens.

    Each channel is first brought to mean 0 and variance 1 over places, in each modality by itself.
    Returns:
        [2 down + 1, 2 right + 1] float32.
    """
    theirs, ours = (_directions(features) for features in (teacher, student))
    height, width = theirs.shape[1:]
    score_ST = theirs.new_empty(2 * down + 1, 2 * right + 1)
    for dy in range(-down, down + 1):
        for dx in range(-right, right + 1):
            there = ours[:, max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)]
            here = theirs[:, max(0, -dy) : height + min(0, -dy), max(0, -dx) : width + min(0, -dx)]
            score_ST[dy + down, dx + right] = (there * here).sum(dim=0).mean()
    return score_ST / len(teacher)


def _directions(features: Sequence[Tensor]) -> Tensor:
    """All blocks' channels one after another, [sum of C, h, w]; each block has norm 1 at each place."""
    found = []
    for block in features:
        centred = block.float() - block.float().mean(dim=(1, 2), keepdim=True)
        scaled = centred / (centred.square().mean(dim=(1, 2), keepdim=True).sqrt() + 1e-6)
        found.append(F.normalize(scaled, dim=0))
    return torch.cat(found)


def _reach(features: Tensor, max_shift_tokens: float) -> tuple[int, int]:
    """Whole tokens to try down and to the right; at least half of the map always overlaps."""
    down, right = (min(int(-(-max_shift_tokens // 1)), side // 2) for side in features.shape[1:])
    return down, right


def _standard(values_ST: Tensor) -> Tensor:
    spread = values_ST.std(correction=0)
    return (values_ST - values_ST.mean()) / spread if spread > 1e-12 else torch.zeros_like(values_ST)


def _refuse_misfit(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> None:
    ours, theirs = ([list(features.shape) for features in side] for side in (student, teacher))
    if not teacher or ours != theirs or any(len(shape) != 3 for shape in ours):
        raise ModelError(f"features {theirs} of RGB and {ours} of infrared; expected [channels, rows, columns] alike")
    for side, maps in (("RGB", teacher), ("infrared", student)):
        if not all(bool(torch.isfinite(features).all()) for features in maps):
            raise ModelError(f"features of the {side} picture are NaN or infinite: look at it with jobs/check_pairs.py")
