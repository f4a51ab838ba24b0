"""Pixels of pairs are whole, within limits and of one shape, or a named fault."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from system.errors import ConfigError, DataError
from system.pairs.pixels import InfraredMapping, PixelLimits, map_infrared, read_pair
from system.pairs.records import Pair
from system.pairs.resize import fit_pair, scale_boxes

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8)
INFRARED = RNG.integers(0, 256, (48, 64), dtype=np.uint8)


def saved(folder: Path, rgb: np.ndarray = RGB, infrared: np.ndarray = INFRARED, suffix: str = ".png", **known) -> Pair:
    Image.fromarray(rgb).save(folder / "rgb.png")
    Image.fromarray(infrared).save(folder / f"infrared{suffix}")
    return Pair("1", "c", str(folder / "rgb.png"), str(folder / f"infrared{suffix}"), **known)


def fault_of(pair: Pair, **options) -> str:
    with pytest.raises(DataError) as caught:
        read_pair(pair, **options)
    assert "/" in caught.value.message or "rgb" in caught.value.message, "the file is named"
    return caught.value.code


def test_eight_bits_stay_as_they_are(tmp_path: Path):
    pixels = read_pair(saved(tmp_path))
    np.testing.assert_array_equal(pixels.rgb_HWC, RGB)
    np.testing.assert_array_equal(pixels.infrared_HWC, np.repeat(INFRARED[..., None], 3, axis=2))
    assert (pixels.original_size, pixels.infrared_bits) == ((48, 64), 8)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bits_are_mapped_by_percentiles_or_by_a_stated_range(tmp_path: Path, suffix: str):
    raw = np.linspace(7000, 9000, 48 * 64).reshape(48, 64).astype(np.uint16)
    pair = saved(tmp_path, infrared=raw, suffix=suffix)
    stretched = read_pair(pair)
    assert (stretched.infrared_HWC.min(), stretched.infrared_HWC.max(), stretched.infrared_bits) == (0, 255, 16)
    fixed = read_pair(pair, InfraredMapping(kind="range", low=7000, high=11000)).infrared_HWC
    assert (fixed.min(), fixed.max()) == (0, 128)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bits_in_three_channels_are_refused_and_not_cut_to_eight(tmp_path: Path, suffix: str):
    pair = saved(tmp_path)
    path = tmp_path / f"deep{suffix}"
    raw = np.linspace(7000, 7499, 48 * 64).reshape(48, 64, 1).astype(np.uint16)
    cv2.imwrite(str(path), np.repeat(raw, 3, axis=2))
    assert fault_of(replace(pair, infrared_uri=str(path))) == "channels"


def test_flat_deep_infrared_is_black_and_no_division_by_zero():
    assert map_infrared(np.full((4, 4), 300, np.float32), InfraredMapping()).max() == 0


def test_values_that_are_no_numbers_are_a_fault(tmp_path: Path):
    values = np.ones((48, 64), np.float32)
    values[0, 0] = np.nan
    assert fault_of(saved(tmp_path, infrared=values, suffix=".tiff")) == "not_finite"


def test_one_channel_where_three_are_expected_is_a_fault(tmp_path: Path):
    assert fault_of(saved(tmp_path, rgb=INFRARED)) == "one_channel"
    assert fault_of(saved(tmp_path, rgb=INFRARED.astype(np.uint16) * 200)) == "one_channel"


def test_another_size_of_the_same_shape_is_resized_and_another_shape_refused(tmp_path: Path):
    twice = np.repeat(np.repeat(RGB, 2, axis=0), 2, axis=1)
    pixels = read_pair(saved(tmp_path, rgb=twice))
    np.testing.assert_array_equal(pixels.rgb_HWC, RGB)
    assert pixels.rgb_original_size == (96, 128)
    assert fault_of(saved(tmp_path, rgb=RGB[:, :48])) == "size_mismatch"
    assert read_pair(saved(tmp_path, rgb=RGB[:, :48], crop_rgb=True)).rgb_HWC.shape == (48, 64, 3)


def test_boxes_of_another_size_than_stated_are_refused(tmp_path: Path):
    boxes = np.array([[1, 1, 5, 5]], np.float32)
    known = {"boxes_xyxy": boxes, "labels": np.zeros(1, np.int64), "is_ignored": np.zeros(1, bool)}
    assert fault_of(saved(tmp_path, width=640, height=480, **known)) == "wrong_shape"


def test_truncated_strange_empty_and_missing_files_are_told_apart(tmp_path: Path):
    pair = saved(tmp_path)
    whole = (tmp_path / "infrared.png").read_bytes()
    for content, code in ((whole[:-300], "truncated_image"), (b"GIF89a no", "not_an_image"), (b"", "empty_file")):
        (tmp_path / "infrared.png").write_bytes(content)
        assert fault_of(pair) == code
    (tmp_path / "infrared.png").unlink()
    assert fault_of(pair) == "missing_file"


def test_bombs_are_refused_before_they_are_decoded(tmp_path: Path):
    pair = saved(tmp_path, infrared=np.zeros((3000, 3000), np.uint8), suffix=".png")
    assert fault_of(pair, limits=PixelLimits(max_pixels=1_000_000)) == "too_large"
    assert fault_of(saved(tmp_path), limits=PixelLimits(max_file_bytes=100)) == "too_large"


def test_mappings_must_rise():
    with pytest.raises(ValidationError, match="must be below"):
        InfraredMapping(kind="range", low=5, high=5)
    assert InfraredMapping.of_option("7000,9000") == InfraredMapping(kind="range", low=7000, high=9000)
    for wrong in ("x", "1", "9,1", "1,nan"):
        with pytest.raises(ConfigError, match="infrared range"):
            InfraredMapping.of_option(wrong)


def test_pairs_and_boxes_go_to_one_size(tmp_path: Path):
    pixels = fit_pair(read_pair(saved(tmp_path)), (24, 40))
    assert pixels.rgb_HWC.shape == pixels.infrared_HWC.shape == (24, 40, 3)
    assert pixels.original_size == (48, 64)
    np.testing.assert_allclose(scale_boxes(np.array([[8, 6, 16, 12]]), (48, 64), (24, 40)), [[5, 3, 10, 6]])
    assert scale_boxes(np.zeros((0, 4), np.float32), (48, 64), (24, 40)).shape == (0, 4)
    with pytest.raises(ConfigError, match="at least one pixel"):
        fit_pair(pixels, (0, 4))
