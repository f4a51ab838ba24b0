"""RGB pictures spoilt on purpose: what a divergence of RGB from RGB looks like that no modality explains.

shift:PX    moved to the right and down by PX pixels together (PX along the diagonal); the edge is repeated
blur:PX     Gaussian of that standard deviation, in pixels
noise:SD    Gaussian noise of that standard deviation, in grey levels of 255
grey        luminance, three times
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from system.errors import ConfigError
from system.freqkd.registration import shift_picture

DEFAULT_CONTROLS = ("shift:4", "shift:14", "blur:2", "noise:25", "grey")
_NEEDS_AMOUNT = ("shift", "blur", "noise")
# ITU-R BT.601.
_LUMINANCE = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Control:
    """name: as it was typed. kind: one of the above. amount: its PX or SD; 0 for grey."""

    name: str
    kind: str
    amount: float

    @classmethod
    def parse(cls, name: str) -> Control:
        """From what a user typed.

        Raises:
            ConfigError: no such control, or an amount that is no positive number.
        """
        kind, _, amount = name.partition(":")
        if kind == "grey" and not amount:
            return cls(name, kind, 0.0)
        if kind not in _NEEDS_AMOUNT:
            raise ConfigError(f"--controls {name}: expected shift:PX, blur:PX, noise:SD or grey")
        try:
            value = float(amount)
        except ValueError as error:
            raise ConfigError(f"--controls {name}: expected a number after {kind}:, e.g. {kind}:4") from error
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"--controls {name}: expected a number above 0 after {kind}:")
        if kind == "shift" and value < 1:
            raise ConfigError(f"--controls {name}: expected 1 pixel or more; pictures move by whole ones")
        return cls(name, kind, value)

    def apply(self, rgb_HWC: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
        """The spoilt picture, uint8 [H, W, 3]; the same seed gives the same noise."""
        if self.kind == "shift":
            along = self.amount / math.sqrt(2)
            moved, _ = shift_picture(
                torch.tensor(rgb_HWC), round(along), round(math.sqrt(self.amount**2 - round(along) ** 2))
            )
            return moved.numpy()
        if self.kind == "blur":
            return _blurred(rgb_HWC, self.amount)
        if self.kind == "noise":
            noise = np.random.default_rng(seed).normal(0.0, self.amount, rgb_HWC.shape)
            return np.clip(rgb_HWC + noise, 0, 255).round().astype(np.uint8)
        grey = (rgb_HWC @ np.array(_LUMINANCE)).round().astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)


def _blurred(rgb_HWC: NDArray[np.uint8], deviation_px: float) -> NDArray[np.uint8]:
    reach = max(1, math.ceil(3 * deviation_px))
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation_px) ** 2)
    taps /= taps.sum()
    values = rgb_HWC.astype(np.float64)
    for axis in (0, 1):
        padded = np.pad(values, [(reach, reach) if a == axis else (0, 0) for a in range(3)], mode="edge")
        length = values.shape[axis]
        values = sum(tap * np.take(padded, range(k, k + length), axis=axis) for k, tap in enumerate(taps))
    return values.round().astype(np.uint8)
