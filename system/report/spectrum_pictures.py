"""Feature maps of a pair's bands as pictures: three principal components, shared by both modalities, as colours.

Legend: H x W pixels, h x w tokens, C channels.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_QUALITY = 82
# Of the components' values: beyond, colours are cut off.
_SHOWN = (0.01, 0.99)


def draw_bands(pictures_2HWC: NDArray[np.uint8], maps: Sequence[NDArray[np.floating]]) -> list[bytes]:
    """JPEGs: RGB, then its map in each band; infrared, then its maps.

    Args:
        pictures_2HWC: RGB and infrared. maps: of each band, [2, C, h, w].
    """
    coloured = [_colours(band) for band in maps]
    size = pictures_2HWC.shape[2], pictures_2HWC.shape[1]
    rows = []
    for side in range(2):
        rows.append(_jpeg(Image.fromarray(pictures_2HWC[side])))
        rows += [_jpeg(Image.fromarray(band[side]).resize(size, Image.Resampling.NEAREST)) for band in coloured]
    return rows


def _colours(map_2CHW: NDArray[np.floating]) -> NDArray[np.uint8]:
    """[2, h, w, 3]: equal colours mean equal features, in either picture."""
    places = np.moveaxis(map_2CHW, 1, -1).astype(np.float64)
    flat = places.reshape(-1, places.shape[-1])
    # About zero, which is what both bands of centred features have as their mean.
    _, axes = np.linalg.eigh(flat.T @ flat)
    values = places @ axes[:, ::-1][:, :3]
    low, high = np.quantile(values.reshape(-1, 3), _SHOWN, axis=0)
    return (np.clip((values - low) / np.maximum(high - low, 1e-12), 0, 1) * 255).round().astype(np.uint8)


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    return buffer.getvalue()
