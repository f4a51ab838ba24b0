"""Measure some pairs with a model: what of every comparison, block and band is kept, in a few kilobytes a pair.

Legend: N pairs, K comparisons (infrared, then controls), L blocks, B bands, M metrics, R shells, A preparations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer

from system.backbones.vit import block_features, normalise, vit_facts
from system.freqkd.controls import Control
from system.freqkd.similarity import SIMILARITIES, relate, some_places
from system.freqkd.spectrum import (
    BANDS,
    METRICS,
    PREPARATIONS,
    RadialBands,
    band_distances,
    band_maps,
    prepare,
    shell_energies,
    spectrum_of,
)

# Places of a map that CKA and MMD are estimated from: their cost grows with the square.
PLACES = 256
# The last two: squared norms in the band.
RELATIONS = (*SIMILARITIES, "energy_rgb", "energy_other")
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
    a_pair = 4 * facts.width * len(blocks) * math.prod(bands.size) * (2 + len(controls))
    at_a_time = max(1, _MAX_FEATURE_BYTES // a_pair)
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
    features = [features_of(model, pictures, blocks) for pictures in (rgb_NHWC, *others)]
    shape = (len(rgb_NHWC), len(others), len(blocks), len(BANDS))
    distances = np.zeros((len(rgb_NHWC), len(PREPARATIONS), *shape[1:], len(METRICS)), np.float32)
    relations = np.zeros((*shape, len(RELATIONS)), np.float32)
    curves = np.zeros((*shape[:3], len(bands.radii_R), 3), np.float32)
    for n in range(len(blocks)):
        for a, preparation in enumerate(PREPARATIONS):
            # RGB first, then the others; of each, its spectrum and its map in each band.
            spectra = [spectrum_of(prepare(of_picture[n], preparation)) for of_picture in features]
            maps = [band_maps(spectrum, bands) for spectrum in spectra]
            for b in range(len(BANDS)):
                for k in range(len(others)):
                    distances[:, a, k, n, b] = band_distances(maps[0][b], maps[k + 1][b]).cpu()
                if preparation == "standardised":
                    relations[:, :, n, b] = _relations([of_picture[b] for of_picture in maps]).cpu()
            if preparation == "standardised":
                for k in range(len(others)):
                    curves[:, k, n] = shell_energies(spectra[0], spectra[k + 1], bands).cpu()
    return Measured(distances, relations, curves)


def features_of(model: VisionTransformer, images_NHWC: NDArray[np.uint8], blocks: Sequence[int]) -> list[torch.Tensor]:
    """Raw features of each block, [N, C, h, w]."""
    device = model.patch_embed.proj.weight.device
    pixels = torch.tensor(images_NHWC).to(device)
    return block_features(model, normalise(pixels, vit_facts(model)), blocks)


def _relations(maps: Sequence[torch.Tensor]) -> torch.Tensor:
    """[N, K, 6] of one band's maps, RGB's first."""
    places = [some_places(band_NCHW, PLACES) for band_NCHW in maps]
    energies = [band_NCHW.square().sum(dim=(1, 2, 3)) for band_NCHW in maps]
    pairs_NK2 = torch.stack([torch.stack([energies[0], energy], dim=1) for energy in energies[1:]], dim=1)
    return torch.cat([relate(places[0], places[1:]), pairs_NK2], dim=2)
