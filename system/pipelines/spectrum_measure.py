"""Measure some pairs with a model: what of every comparison, block and band is kept, in a few kilobytes a pair.

Legend: N pairs, K comparisons (infrared, then controls), L blocks, B bands, M metrics, R shells, A preparations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer

from system.backbones.vit import block_features, normalise, vit_facts
from system.freqkd.controls import Control
from system.freqkd.similarity import hsic, some_places, squared_bandwidth, squared_mmd
from system.freqkd.spectrum import (
    BANDS,
    METRICS,
    PREPARATIONS,
    RadialBands,
    band_distances,
    band_maps,
    prepare,
    shell_energies,
)

# Places of a map that CKA and MMD are estimated from: their cost grows with the square.
PLACES = 256
# HSIC of both, of RGB, of the other; squared MMD; squared norms of RGB and of the other.
RELATIONS = ("hsic", "hsic_rgb", "hsic_other", "mmd", "energy_rgb", "energy_other")
_MAX_FEATURE_BYTES = 192 << 20


@dataclass(frozen=True, eq=False)
class Measured:
    """distances: [N, A, K, L, B, M]. relations: [N, K, L, B, 6] as in RELATIONS. curves: [N, K, L, R, 3]."""

    distances: NDArray[np.float32]
    relations: NDArray[np.float32]
    curves: NDArray[np.float32]


@torch.no_grad()
def measure_pairs(
    model: VisionTransformer,
    rgb_NHWC: NDArray[np.uint8],
    infrared_NHWC: NDArray[np.uint8],
    numbers: Sequence[int],
    blocks: Sequence[int],
    controls: Sequence[Control],
    bands: RadialBands,
) -> Measured:
    """Compare RGB features with those of the infrared picture and of each control, on the model's device.

    Args:
        numbers: of the pairs, the seeds of noise.
    """
    facts = vit_facts(model)
    a_picture = 4 * facts.width * len(blocks) * bands.shell_HW.numel()
    at_a_time = max(1, _MAX_FEATURE_BYTES // a_picture)
    parts = []
    for k in range(0, len(rgb_NHWC), at_a_time):
        rgb, infrared = rgb_NHWC[k : k + at_a_time], infrared_NHWC[k : k + at_a_time]
        seeds = numbers[k : k + at_a_time]
        others = [infrared] + [
            np.stack([control.apply(picture, seed) for picture, seed in zip(rgb, seeds, strict=True)])
            for control in controls
        ]
        parts.append(_measure(model, rgb, others, blocks, bands))
    return Measured(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("distances", "relations", "curves"))
    )


def _measure(
    model: VisionTransformer,
    rgb_NHWC: NDArray[np.uint8],
    others: Sequence[NDArray[np.uint8]],
    blocks: Sequence[int],
    bands: RadialBands,
) -> Measured:
    ours = features_of(model, rgb_NHWC, blocks)
    shape = (len(rgb_NHWC), len(others), len(blocks), len(BANDS))
    distances = np.zeros((len(rgb_NHWC), len(PREPARATIONS), *shape[1:], len(METRICS)), np.float32)
    relations = np.zeros((*shape, len(RELATIONS)), np.float32)
    curves = np.zeros((*shape[:3], len(bands.radii_R), 3), np.float32)
    for k, pictures in enumerate(others):
        theirs = features_of(model, pictures, blocks)
        for block, (rgb, other) in enumerate(zip(ours, theirs, strict=True)):
            for a, preparation in enumerate(PREPARATIONS):
                spectra = [torch.fft.fft2(prepare(features, preparation), norm="ortho") for features in (rgb, other)]
                maps = list(zip(*(band_maps(spectrum, bands) for spectrum in spectra), strict=True))
                for b, (first, second) in enumerate(maps):
                    distances[:, a, k, block, b] = band_distances(first, second).cpu()
                    if preparation == "standardised":
                        relations[:, k, block, b] = _relations(first, second).cpu()
                if preparation == "standardised":
                    curves[:, k, block] = shell_energies(spectra[0], spectra[1], bands).cpu()
    return Measured(distances, relations, curves)


def features_of(model: VisionTransformer, images_NHWC: NDArray[np.uint8], blocks: Sequence[int]) -> list[torch.Tensor]:
    """Raw features of each block, [N, C, h, w]."""
    device = model.patch_embed.proj.weight.device
    pixels = torch.tensor(images_NHWC).to(device)
    return block_features(model, normalise(pixels, vit_facts(model)), blocks)


def _relations(rgb_NCHW: torch.Tensor, other_NCHW: torch.Tensor) -> torch.Tensor:
    rgb, other = some_places(rgb_NCHW, PLACES), some_places(other_NCHW, PLACES)
    # One width for all comparisons with a picture: their MMDs can then be compared.
    width = squared_bandwidth(rgb)
    return torch.stack(
        [
            hsic(rgb, other),
            hsic(rgb, rgb),
            hsic(other, other),
            squared_mmd(rgb, other, width),
            rgb_NCHW.square().sum(dim=(1, 2, 3)),
            other_NCHW.square().sum(dim=(1, 2, 3)),
        ],
        dim=1,
    )
