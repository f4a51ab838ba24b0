"""How far a pair's pictures lie apart is found again where it was put in."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from system.errors import ConfigError, DataError
from system.pairs.misalignment import estimate_shift
from system.pairs.pixels import read_pair
from system.pairs.registry import open_pairs

MARGIN = 24


def scene(seed: int, height: int = 240, width: int = 320) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image = np.full((height, width), 90, np.uint8)
    for _ in range(40):
        x, y = rng.integers(0, (width, height))
        w, h = rng.integers(8, 60, 2)
        cv2.rectangle(image, (int(x), int(y)), (int(x + w), int(y + h)), int(rng.integers(0, 256)), -1)
    return image


def cut(image: np.ndarray, dx: int, dy: int) -> np.ndarray:
    """The middle of a picture whose content was moved right and down."""
    h, w = image.shape[:2]
    return image[MARGIN - dy : h - MARGIN - dy, MARGIN - dx : w - MARGIN - dx]


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (7, -5), (-12, 3)])
def test_injected_shifts_are_found_though_heat_inverts_brightness(dx: int, dy: int):
    image = scene(1)
    heat = cv2.GaussianBlur(255 - image, (0, 0), 1.5)
    found = estimate_shift(cut(image, 0, 0), cut(heat, dx, dy))
    assert (found.dx_px, found.dy_px) == (pytest.approx(dx, abs=0.6), pytest.approx(dy, abs=0.6))
    assert found.is_confident


def test_large_pictures_are_measured_in_their_own_pixels():
    image = cv2.resize(scene(2), (1280, 960))
    found = estimate_shift(image[40:-40, 40:-40], image[48:-32, 20:-60])
    assert (found.dx_px, found.dy_px) == (pytest.approx(20, abs=1.5), pytest.approx(-8, abs=1.5))


def test_unrelated_and_empty_pictures_are_not_believed():
    shifts = [estimate_shift(scene(k), scene(k + 50)) for k in range(6)]
    assert sum(shift.is_confident for shift in shifts) <= 1
    flat = np.full((64, 64, 3), 7, np.uint8)
    assert estimate_shift(flat, flat).confidence == 0
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (240, 320, 3), dtype=np.uint8) for _ in range(2)]
    assert not estimate_shift(*noise).is_confident


def test_answers_at_the_end_of_the_search_are_not_believed():
    """As of repeating windows in MSRS' nights, which answered at 31 px with a high peak."""
    image = scene(4)
    found = estimate_shift(cut(image, 0, 0), cut(image, 14, 0), max_shift=0.05)
    assert not found.is_confident
    assert estimate_shift(cut(image, 0, 0), cut(image, 14, 0), max_shift=0.1).is_confident


def test_wrong_sizes_and_ranges_are_refused():
    image = scene(3)
    with pytest.raises(DataError, match="one size"):
        estimate_shift(image, image[:-1])
    with pytest.raises(DataError, match="at least 32"):
        estimate_shift(image[:8, :8], image[:8, :8])
    with pytest.raises(ConfigError, match="max_shift"):
        estimate_shift(image, image, max_shift=0.9)


def test_injected_shifts_of_real_pairs_are_found_within_two_pixels(data_root: Path):
    """Against each pair's own shift, because these pairs do not lie on each other: MSRS' infrared is about 3 px low."""
    pairs = open_pairs(str(data_root / "pairs/MSRS/labels_det/coco_infrared_val.json")).pairs[::5]
    rng = np.random.default_rng(0)
    errors = []
    for pair in pairs:
        pixels = read_pair(pair)
        dx, dy = (int(value) for value in rng.integers(-14, 15, 2))
        rgb = cut(pixels.rgb_HWC, 0, 0)
        before = estimate_shift(rgb, cut(pixels.infrared_HWC, 0, 0))
        after = estimate_shift(rgb, cut(pixels.infrared_HWC, dx, dy))
        errors.append(max(abs(after.dx_px - before.dx_px - dx), abs(after.dy_px - before.dy_px - dy)))
    assert np.mean(np.array(errors) <= 2) >= 0.7, errors
