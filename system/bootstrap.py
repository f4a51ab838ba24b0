"""Draws of pictures, from which all intervals over pictures are made. Legend: N pictures, B draws."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def draw_pictures(count: int, rounds: int, seed: int) -> NDArray[np.floating]:
    """How often each bootstrap draw of as many pictures holds each of them, [B, N]; the same for the same arguments."""
    if not count:
        return np.zeros((rounds, 0))
    rng = np.random.default_rng(seed)
    return rng.multinomial(count, np.full(count, 1 / count), size=rounds).astype(float)
