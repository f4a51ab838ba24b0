"""How the peers read a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BATCH = 16


def decoded(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] of a size, (H, W), by Pillow."""
    with Image.open(path) as picture:
        picture.draft("RGB", size[::-1])
        return np.asarray(picture.convert("RGB").resize(size[::-1], Image.Resampling.BICUBIC)).copy()
