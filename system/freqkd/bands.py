"""Low and high spatial-frequency bands of feature maps, for any height and width.

    reference   the published mask: frequencies -r .. r-1 of each axis. Not symmetric about zero, so the inverse is
                complex before its real part is taken, and filtering twice is not filtering once
    symmetric   frequencies -r .. r of each axis: the smallest symmetric rectangle that holds the published one
    radial      the ellipse inside that rectangle

with r = max(1, int(size * cutoff / 2)) for each axis, so that all three end at the same frequency of an axis for the
same cutoff. The latter two are exact projectors; they are computed as two small matrix products with an orthonormal
cosine and sine basis of the low frequencies, where no product has more than H x W columns and no complex number occurs.

Legend: B pictures, C channels, H x W tokens, K, L coefficients of the rows' and the columns' basis.
Source: FreqKD, arXiv 2606.11572.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from system.errors import ConfigError

BandShape = Literal["reference", "symmetric", "radial"]


@dataclass(frozen=True, eq=False)
class LowBand:
    """An orthogonal projector onto low frequencies: rows_HK (coefficients * mask_KL) columns_WL^T.

    rows_HK, columns_WL: orthonormal columns. mask_KL: which products of the two belong to the band, None for all.
    """

    rows_HK: Tensor
    columns_WL: Tensor
    mask_KL: Tensor | None


def low_radius(size: int, cutoff: float) -> int:
    """r of the legend above: the highest frequency of an axis that is called low, in cycles over the axis.

    Raises:
        ConfigError: the cutoff is out of range.
    """
    if not 0 < cutoff <= 1:
        raise ConfigError(f"cutoff {cutoff}: expected a share of each frequency axis, above 0 and at most 1")
    return max(1, int(size * cutoff / 2))


def reference_mask(height: int, width: int, cutoff: float) -> Tensor:
    """The published rectangle, bool [H, W], with frequency zero at [H // 2, W // 2]."""
    mask_HW = torch.zeros(height, width, dtype=torch.bool)
    down, right = low_radius(height, cutoff), low_radius(width, cutoff)
    rows = slice(max(0, height // 2 - down), height // 2 + down)
    mask_HW[rows, max(0, width // 2 - right) : width // 2 + right] = True
    return mask_HW


@lru_cache(maxsize=64)
def low_band(
    height: int, width: int, cutoff: float, shape: BandShape, dtype: torch.dtype, device: torch.device
) -> LowBand:
    """The projector of a `symmetric` or `radial` band; kept, since every step asks for the same."""
    down, right = low_radius(height, cutoff), low_radius(width, cutoff)
    rows_HK, frequency_K = _basis(height, down)
    columns_WL, frequency_L = _basis(width, right)
    mask_KL = None
    if shape == "radial":
        # In whole numbers: the edge belongs to the ellipse whatever the rounding.
        squared = frequency_K[:, None] ** 2 * right**2 + frequency_L[None, :] ** 2 * down**2
        mask_KL = (squared <= down**2 * right**2).to(device=device, dtype=dtype)
    return LowBand(rows_HK.to(device=device, dtype=dtype), columns_WL.to(device=device, dtype=dtype), mask_KL)


def split_bands(features_BCHW: Tensor, cutoff: float, shape: BandShape) -> tuple[Tensor, Tensor]:
    """Split feature maps into their low and high spatial-frequency parts.

    Args:
        features_BCHW: real, any float dtype, with any leading axes; H and W in tokens.
        cutoff: share of each frequency axis called low, in (0, 1].
    Returns:
        (low_BCHW, high_BCHW), float32 or, for float64, float64. They add up to the input.
    Raises:
        ConfigError: cutoff out of range.
    """
    features_BCHW = features_BCHW if features_BCHW.dtype == torch.float64 else features_BCHW.float()
    height, width = features_BCHW.shape[-2:]
    with torch.autocast(features_BCHW.device.type, enabled=False):
        if shape == "reference":
            mask_HW = reference_mask(height, width, cutoff).to(features_BCHW.device)
            spectrum = torch.fft.fftshift(torch.fft.fft2(features_BCHW, norm="ortho"), dim=(-2, -1))
            return _inverse(spectrum * mask_HW), _inverse(spectrum * ~mask_HW)
        band = low_band(height, width, cutoff, shape, features_BCHW.dtype, features_BCHW.device)
        coefficients = band.rows_HK.T @ features_BCHW @ band.columns_WL
        if band.mask_KL is not None:
            coefficients = coefficients * band.mask_KL
        low = band.rows_HK @ coefficients @ band.columns_WL.T
        return low, features_BCHW - low


def _inverse(spectrum: Tensor) -> Tensor:
    return torch.fft.ifft2(torch.fft.ifftshift(spectrum, dim=(-2, -1)), norm="ortho").real


def _basis(size: int, radius: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of frequencies 0..radius, orthonormal, [size, K] in float64, and the frequency of each."""
    place = torch.arange(size, dtype=torch.float64)
    columns, frequencies = [], []
    for frequency in range(min(radius, size // 2) + 1):
        # Whole numbers of turns removed first: the angle stays exact for large sizes.
        angle = 2 * math.pi * ((place * frequency) % size) / size
        columns.append(angle.cos())
        frequencies.append(frequency)
        if frequency and 2 * frequency != size:
            columns.append(angle.sin())
            frequencies.append(frequency)
    basis = torch.stack(columns, dim=1)
    return basis / basis.norm(dim=0), torch.tensor(frequencies)
