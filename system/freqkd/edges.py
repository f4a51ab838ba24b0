"""How well the edges of two pictures agree for every translation between them, whatever light each was taken in.

Heat and light share edges, but neither their sign nor their strength. So an edge counts by its strength against its
surroundings, and by its orientation without a sign (cosine and sine of twice the angle). The correlation is whitened in
part: wholly, frequencies without edges would speak as loud as those with.

Legend: H x W pixels, S, T translations down and to the right.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

_BLUR_PX, _SURROUNDINGS_PX = 1.5, 15.0
# Agreement within so many pixels counts as agreement.
_TOLERANCE_PX = 1.5
# 0 is plain correlation, 1 phase correlation.
_WHITENING = 0.6


def edge_agreement(rgb_HWC: Tensor, infrared_HWC: Tensor, down: int, right: int) -> Tensor:
    """Correlation of edges when the RGB picture is moved by (-down..down, -right..right) pixels, float32.

    Args:
        rgb_HWC, infrared_HWC: of one size, in any number of channels.
    Returns:
        [2 down + 1, 2 right + 1], the middle for no translation; 0 throughout where a picture has no edge.
    """
    first, second = _edges(rgb_HWC), _edges(infrared_HWC)
    size = [first.shape[1] + down, first.shape[2] + right]
    cross = (torch.fft.rfft2(first, s=size).conj() * torch.fft.rfft2(second, s=size)).sum(dim=0)
    cross = cross / (cross.abs() ** _WHITENING + 1e-12)
    agreement = torch.fft.irfft2(cross * _low_pass(size, _TOLERANCE_PX, cross.device), s=size)
    return agreement.roll((down, right), (0, 1))[: 2 * down + 1, : 2 * right + 1]


def _edges(picture_HWC: Tensor) -> Tensor:
    """[3, H, W]: strength, and strength times cosine and sine of twice the orientation; fading towards the border."""
    grey_HW = _blurred(picture_HWC.float().mean(dim=2), _BLUR_PX)
    along_y, along_x = torch.gradient(grey_HW)
    energy = along_x.square() + along_y.square()
    strength = energy.sqrt()
    surroundings = _blurred(strength, _SURROUNDINGS_PX)
    strength = strength / (surroundings + 0.1 * surroundings.mean() + 1e-6)
    turned = torch.stack([along_x.square() - along_y.square(), 2 * along_x * along_y]) / energy.clamp_min(1e-12)
    edges = torch.cat([strength[None], strength * turned])
    window = torch.outer(*(torch.hann_window(side, periodic=False, device=edges.device) for side in grey_HW.shape))
    return (edges - edges.mean(dim=(1, 2), keepdim=True)) * window


def _blurred(values_HW: Tensor, sigma_px: float) -> Tensor:
    height, width = values_HW.shape
    for axis, side in enumerate((height, width)):
        reach = min(math.ceil(3 * sigma_px), side - 1)
        offsets = torch.arange(-reach, reach + 1, device=values_HW.device)
        kernel = torch.exp(-0.5 * (offsets / sigma_px) ** 2)
        shape = [1, 1, 1, 1]
        shape[2 + axis] = len(kernel)
        margin = (0, 0, reach, reach) if axis == 0 else (reach, reach, 0, 0)
        padded = F.pad(values_HW[None, None], margin, mode="replicate")
        values_HW = F.conv2d(padded, (kernel / kernel.sum()).view(shape))[0, 0]
    return values_HW


def _low_pass(size: list[int], sigma_px: float, device: torch.device) -> Tensor:
    """What a Gaussian blur is among the frequencies of `rfft2`."""
    rows, columns = torch.fft.fftfreq(size[0], device=device), torch.fft.rfftfreq(size[1], device=device)
    return torch.exp(-2 * (math.pi * sigma_px) ** 2 * (rows[:, None] ** 2 + columns[None, :] ** 2))
