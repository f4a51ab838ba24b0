"""What a long-wave infrared camera sees: the temperature of surfaces, not their colour."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from system.demo import materials as m
from system.demo.config import Light, Weather
from system.demo.renderer import GBuffer
from system.demo.shading import ground_noise

# How far day is from night in the warmth of surfaces, and what the clear sky sends down (degrees Celsius).
_DAYLIGHT: dict[Light, float] = {"day": 1.0, "dusk": 0.45, "night": 0.0}
_SKY_C: dict[Light, float] = {"day": -18.0, "dusk": -26.0, "night": -34.0}
_AIR_C: dict[Light, float] = {"day": 19.0, "dusk": 13.0, "night": 8.0}
# Water in the air takes warmth on its way: the distance after which 63 % is gone.
_RANGE_M: dict[Weather, float] = {"clear": 900.0, "rain": 260.0, "fog": 120.0}


def infrared_picture(
    seen: GBuffer, light: Light, weather: Weather, moving: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """The infrared picture of one camera, uint8 [H, W], warm is bright.

    Args:
        moving: by object_id, whether its engine runs; a parked car is as cold as the street.
    """
    daylight = _DAYLIGHT[light]
    warmth = m.NIGHT_C + (m.DAY_C - m.NIGHT_C) * daylight
    celsius = warmth[seen.material].astype(np.float32)
    hot = np.isin(seen.material, (m.BONNET.number, m.TYRE.number, m.EXHAUST.number))
    parked = ~moving[np.clip(seen.object_id, 0, len(moving) - 1)] & (seen.object_id > 0)
    celsius = np.where(hot & parked, warmth[m.CAR_PAINT.number], celsius)
    # Walls and roofs that the sun has warmed, ground that is patchy, skin that differs from person to person.
    sunward = np.clip(seen.normal @ np.array([0.45, 0.35, 0.82], np.float32), 0, 1)
    celsius += daylight * 7.0 * (sunward - 0.5)
    celsius += 2.2 * (ground_noise(seen.place, 2.9) - 0.5) + 0.9 * (ground_noise(seen.place, 0.45) - 0.5)
    windows = _window_mask(seen)
    celsius = np.where(windows, celsius * 0.55 + 0.45 * (_SKY_C[light] + 24) + (0 if daylight else 3.0), celsius)
    if weather == "rain":
        # Wet surfaces come near to the temperature of the air.
        is_body = np.isin(seen.material, (m.SKIN.number, m.CLOTHES.number)) | hot
        celsius = np.where(is_body, celsius - 2.0, celsius * 0.45 + 0.55 * _AIR_C[light])
    share = 1 - np.exp(-np.where(np.isfinite(seen.distance_m), seen.distance_m, 0) / _RANGE_M[weather])
    celsius = celsius * (1 - share) + _AIR_C[light] * share
    overcast = _AIR_C[light] - 6.0 if weather != "clear" else None
    upward = np.clip(seen.ray[..., 2], 0, 1)
    sky = (
        _SKY_C[light] + (_AIR_C[light] - 4 - _SKY_C[light]) * np.exp(-upward * 9)
        if overcast is None
        else np.full_like(upward, overcast)
    )
    celsius = np.where(seen.material == 0, sky, celsius).astype(np.float32)
    return _sense(celsius, rng)


def _window_mask(seen: GBuffer) -> NDArray[np.bool_]:
    wall = (seen.material == m.FACADE.number) & (np.abs(seen.normal[..., 2]) < 0.5)
    along = seen.place[..., 1] * seen.normal[..., 0] - seen.place[..., 0] * seen.normal[..., 1]
    u, v = np.mod(along / 2.6, 1), np.mod((seen.place[..., 2] - 0.4) / 3.1, 1)
    return wall & (u > 0.24) & (u < 0.76) & (v > 0.30) & (v < 0.78)


def _sense(celsius: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
    """An uncooled sensor: soft optics, column noise, and gain set from the picture's own range."""
    soft = cv2.GaussianBlur(celsius, (0, 0), 0.9)
    columns = rng.standard_normal(soft.shape[1], dtype=np.float32) * 0.18
    noisy = soft + columns[None, :] + rng.standard_normal(soft.shape, dtype=np.float32) * 0.22
    low, middle, high = np.percentile(noisy, (4, 50, 99.7))
    # A cold sky must not take the whole range.
    low = max(low, middle - 16.0)
    span = max(high - low, 20.0)
    return (np.clip((noisy - low) / span, 0, 1) ** 0.9 * 255 + 0.5).astype(np.uint8)
