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
    """masks_BHV: bool, as rfft2 lays frequencies, V = W // 2 + 1. shell_HV: int64, the shell of each of them.

    count_V: how many of the whole spectrum's frequencies a column stands for. radii_R: of shells. size: H, W.
    """

    masks_BHV: Tensor
    shell_HV: Tensor
    count_V: Tensor
    radii_R: Tensor
    size: tuple[int, int]


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
    down = torch.fft.fftfreq(height, 1 / height, dtype=torch.float64)
    right = torch.fft.rfftfreq(width, 1 / width, dtype=torch.float64)
    cycles_HV = (down[:, None].square() + right[None, :].square()).sqrt()
    unit = min(height // 2, width // 2)
    shell_HV = cycles_HV.round().long()
    is_own_mirror = (right == 0) | (2 * right == width)
    return RadialBands(
        masks_BHV=torch.stack([cycles_HV <= LOW_RADIUS * unit, cycles_HV >= HIGH_RADIUS * unit]),
        shell_HV=shell_HV,
        count_V=torch.where(is_own_mirror, 1.0, 2.0),
        radii_R=torch.arange(int(shell_HV.max()) + 1) / unit,
        size=(height, width),
    )


def spectrum_of(features_NCHW: Tensor) -> Tensor:
    """The half spectrum that belongs to real features, [N, C, H, V]."""
    return torch.fft.rfft2(features_NCHW, norm="ortho")


def prepare(features_NCHW: Tensor, preparation: Preparation) -> Tensor:
    """Features as they are compared, float32."""
    features_NCHW = features_NCHW.float()
    if preparation == "raw":
        return features_NCHW
    if preparation == "centred":
        return features_NCHW - features_NCHW.mean(dim=(2, 3), keepdim=True)
    return standardise(features_NCHW)


def band_maps(spectrum_NCHV: Tensor, bands: RadialBands) -> list[Tensor]:
    """The part of a map in each band, [N, C, H, W], from its spectrum."""
    masks = bands.masks_BHV.to(spectrum_NCHV.device)
    return [torch.fft.irfft2(spectrum_NCHV * mask_HV, s=bands.size, norm="ortho") for mask_HV in masks]


def band_distances(teacher_NCHW: Tensor, student_NCHW: Tensor) -> Tensor:
    """How far two maps of one band are apart, [N, M].

    mse: mean squared difference over channels and places. nmse: squared difference over the teacher's squared norm.
    cosine: 1 - cosine of the two maps, each as one vector of all channels and places.
    """
    difference = (teacher_NCHW - student_NCHW).square()
    energy_N = teacher_NCHW.square().sum(dim=(1, 2, 3))
    nearness_N = torch.nn.functional.cosine_similarity(teacher_NCHW.flatten(1), student_NCHW.flatten(1), eps=1e-12)
    return torch.stack(
        [
            difference.mean(dim=(1, 2, 3)),
            difference.sum(dim=(1, 2, 3)) / energy_N.clamp_min(1e-30),
            1 - nearness_N,
        ],
        dim=1,
    )


def shell_energies(teacher_NCHV: Tensor, student_NCHV: Tensor, bands: RadialBands) -> Tensor:
    """Energy in every shell of two spectra's difference, of the teacher's and of the student's, [N, R, 3].

    nmse at a radius is the first over the second; the sums of all shells are the maps' own squared norms (Parseval).
    """
    shells = bands.shell_HV.to(teacher_NCHV.device).flatten()
    count_V = bands.count_V.to(teacher_NCHV.device)
    found = []
    for spectrum in (teacher_NCHV - student_NCHV, teacher_NCHV, student_NCHV):
        power_NP = ((spectrum.real.square() + spectrum.imag.square()).sum(dim=1) * count_V).flatten(1)
        found.append(power_NP.new_zeros(len(power_NP), len(bands.radii_R)).index_add_(1, shells, power_NP))
    return torch.stack(found, dim=2)
