"""Where in the spectrum two feature maps differ: radial bands, distances within them, and radial curves.

A frequency's radius is its distance from zero in cycles over the map, divided by min(H // 2, W // 2); the low band is
r <= 0.25, the high band r >= 0.75, corners (r > 1) included. Features are compared in three preparations, because the
mean over places lies at r = 0, dominates the raw low band and is much the same in both modalities:

    raw           as the block gives them
    centred       less the mean over places of each channel: without r = 0
    standardised  centred, then every place divided by its norm over channels: what the losses of FreqKD compare

Legend: N pictures, C channels, H x W tokens, B = 2 bands (low, high), M = 3 metrics, R shells of equal radius.
Source: FreqKD, arXiv 2606.11572.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from system.errors import ConfigError
from system.freqkd.losses import standardise

Preparation = Literal["raw", "centred", "standardised"]
PREPARATIONS: tuple[Preparation, ...] = get_args(Preparation)
BANDS = ("low", "high")
METRICS = ("mse", "nmse", "cosine")
LOW_RADIUS, HIGH_RADIUS = 0.25, 0.75
LEAST_TOKENS = 8


@dataclass(frozen=True, eq=False)
class RadialBands:
    """masks_BHW: bool, as fft2 lays frequencies. shell_HW: int64, the shell of each of them. radii_R: of shells."""

    masks_BHW: Tensor
    shell_HW: Tensor
    radii_R: Tensor


def radial_bands(height: int, width: int) -> RadialBands:
    """Bands and shells of a map.

    Raises:
        ConfigError: too few tokens a side to have bands.
    """
    if min(height, width) < LEAST_TOKENS:
        raise ConfigError(
            f"feature maps of {height}x{width} tokens: expected at least {LEAST_TOKENS} a side to tell low from high "
            "frequencies; use larger pictures"
        )
    down, right = (torch.fft.fftfreq(side, 1 / side, dtype=torch.float64) for side in (height, width))
    cycles_HW = (down[:, None].square() + right[None, :].square()).sqrt()
    unit = min(height // 2, width // 2)
    radius_HW = cycles_HW / unit
    shell_HW = cycles_HW.round().long()
    return RadialBands(
        masks_BHW=torch.stack([radius_HW <= LOW_RADIUS, radius_HW >= HIGH_RADIUS]),
        shell_HW=shell_HW,
        radii_R=torch.arange(int(shell_HW.max()) + 1) / unit,
    )


def prepare(features_NCHW: Tensor, preparation: Preparation) -> Tensor:
    """Features as they are compared, float32."""
    features_NCHW = features_NCHW.float()
    if preparation == "raw":
        return features_NCHW
    if preparation == "centred":
        return features_NCHW - features_NCHW.mean(dim=(2, 3), keepdim=True)
    return standardise(features_NCHW)


def band_maps(spectrum_NCHW: Tensor, bands: RadialBands) -> list[Tensor]:
    """The part of a map in each band, [N, C, H, W] real, from its `fft2(norm="ortho")`."""
    # The masks are symmetric about zero, so what they keep of a real map's spectrum is that of a real map.
    masks = bands.masks_BHW.to(spectrum_NCHW.device)
    return [torch.fft.ifft2(spectrum_NCHW * mask_HW, norm="ortho").real for mask_HW in masks]


def band_distances(teacher_NCHW: Tensor, student_NCHW: Tensor) -> Tensor:
    """How far two maps of one band are apart, [N, M].

    mse: mean squared difference over channels and places. nmse: squared difference over the teacher's squared norm.
    cosine: 1 - cosine over channels, mean over places.
    """
    difference = (teacher_NCHW - student_NCHW).square()
    energy_N = teacher_NCHW.square().sum(dim=(1, 2, 3))
    nearness_NHW = torch.nn.functional.cosine_similarity(teacher_NCHW, student_NCHW, dim=1, eps=1e-12)
    return torch.stack(
        [
            difference.mean(dim=(1, 2, 3)),
            difference.sum(dim=(1, 2, 3)) / energy_N.clamp_min(1e-30),
            1 - nearness_NHW.mean(dim=(1, 2)),
        ],
        dim=1,
    )


def shell_energies(teacher_NCHW: Tensor, student_NCHW: Tensor, bands: RadialBands) -> Tensor:
    """Energy in every shell of two spectra's difference, of the teacher's and of the student's, [N, R, 3].

    nmse at a radius is the first over the second; the sums of all shells are the maps' own squared norms (Parseval).
    """
    shells = bands.shell_HW.to(teacher_NCHW.device).flatten()
    found = []
    for spectrum in (teacher_NCHW - student_NCHW, teacher_NCHW, student_NCHW):
        power_NP = (spectrum.real.square() + spectrum.imag.square()).sum(dim=1).flatten(1)
        found.append(power_NP.new_zeros(len(power_NP), len(bands.radii_R)).index_add_(1, shells, power_NP))
    return torch.stack(found, dim=2)
