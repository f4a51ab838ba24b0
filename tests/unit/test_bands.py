"""Bands of feature maps, against numpy and by their algebra."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from system.errors import ConfigError
from system.freqkd.bands import BandShape, low_band, low_radius, reference_mask, split_bands

SIDES = st.integers(1, 19)
CUTOFFS = st.floats(0.01, 1.0)
SHAPES = st.sampled_from(["reference", "symmetric", "radial"])
PROJECTORS = st.sampled_from(["symmetric", "radial"])


def _features(height: int, width: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(height * 100 + width)
    return torch.randn(2, 3, height, width, generator=generator, dtype=dtype)


def _kept_by_numpy(features: Tensor, cutoff: float, shape: str) -> np.ndarray:
    """The mask in the full complex spectrum, from the words of the legend."""
    height, width = features.shape[-2:]
    down, right = max(1, int(height * cutoff / 2)), max(1, int(width * cutoff / 2))
    rows = np.abs(np.rint(np.fft.fftfreq(height) * height)).astype(int)[:, None]
    columns = np.abs(np.rint(np.fft.fftfreq(width) * width)).astype(int)[None, :]
    if shape == "symmetric":
        mask = (rows <= down) & (columns <= right)
    else:
        mask = rows**2 * right**2 + columns**2 * down**2 <= down**2 * right**2
    return np.fft.ifft2(np.fft.fft2(features.numpy()) * mask).real


@given(SIDES, SIDES, CUTOFFS, SHAPES)
@settings(max_examples=60, deadline=None)
def test_bands_add_up(height: int, width: int, cutoff: float, shape: BandShape) -> None:
    features = _features(height, width)
    low, high = split_bands(features, cutoff, shape)
    torch.testing.assert_close(low + high, features, rtol=0, atol=1e-12)


@given(SIDES, SIDES, CUTOFFS, PROJECTORS)
@settings(max_examples=60, deadline=None)
def test_projector_is_idempotent_and_its_bands_are_orthogonal(
    height: int, width: int, cutoff: float, shape: BandShape
) -> None:
    low, high = split_bands(_features(height, width), cutoff, shape)
    torch.testing.assert_close(split_bands(low, cutoff, shape)[0], low, rtol=0, atol=1e-12)
    torch.testing.assert_close(split_bands(high, cutoff, shape)[0], torch.zeros_like(low), rtol=0, atol=1e-12)
    assert float((low * high).sum().abs()) < 1e-10


@given(SIDES, SIDES, CUTOFFS, PROJECTORS)
@settings(max_examples=60, deadline=None)
def test_projector_is_the_mask_of_the_complex_spectrum(
    height: int, width: int, cutoff: float, shape: BandShape
) -> None:
    features = _features(height, width)
    low = split_bands(features, cutoff, shape)[0]
    np.testing.assert_allclose(low.numpy(), _kept_by_numpy(features, cutoff, shape), rtol=0, atol=1e-12)


@given(SIDES, SIDES, CUTOFFS, PROJECTORS)
@settings(max_examples=40, deadline=None)
def test_parseval_low_energy_needs_no_inverse(height: int, width: int, cutoff: float, shape: BandShape) -> None:
    features = _features(height, width)
    band = low_band(height, width, cutoff, shape, features.dtype, features.device)
    coefficients = band.rows_HK.T @ features @ band.columns_WL
    if band.mask_KL is not None:
        coefficients = coefficients * band.mask_KL
    low = split_bands(features, cutoff, shape)[0]
    torch.testing.assert_close(coefficients.square().sum(), low.square().sum(), rtol=1e-12, atol=1e-12)


@given(SIDES, SIDES, CUTOFFS, SHAPES, st.integers(-5, 5), st.integers(-5, 5))
@settings(max_examples=40, deadline=None)
def test_bands_move_with_the_map(
    height: int, width: int, cutoff: float, shape: BandShape, down: int, right: int
) -> None:
    features = _features(height, width)
    moved = split_bands(features.roll((down, right), (2, 3)), cutoff, shape)
    for ours, theirs in zip(moved, split_bands(features, cutoff, shape), strict=True):
        torch.testing.assert_close(ours, theirs.roll((down, right), (2, 3)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("side", [1, 2, 3, 16, 17, 23, 46])
@pytest.mark.parametrize("cutoff", [0.1, 0.25, 0.5, 0.75, 1.0])
def test_all_masks_end_at_the_same_frequency_of_an_axis(side: int, cutoff: float) -> None:
    radius = low_radius(side, cutoff)
    published = reference_mask(side, 1, cutoff)[:, 0].nonzero()[:, 0] - side // 2
    highest = int(published.abs().max()) if side > 1 else 0
    assert highest == min(radius, side // 2)
    for shape in ("symmetric", "radial"):
        band = low_band(side, side, cutoff, shape, torch.float64, torch.device("cpu"))
        # The highest frequency of each axis, alone, is kept whole.
        wave = torch.cos(2 * torch.pi * torch.arange(side, dtype=torch.float64) * highest / side)
        kept = split_bands(wave.expand(1, 1, side, side).mT.contiguous(), cutoff, shape)[0]
        torch.testing.assert_close(kept[0, 0, :, 0], wave, rtol=0, atol=1e-12)
        assert band.rows_HK.shape[1] == min(2 * radius + 1, side)


def test_published_mask_is_not_a_projector() -> None:
    low, _ = split_bands(_features(16, 16), 0.5, "reference")
    assert float((split_bands(low, 0.5, "reference")[0] - low).abs().max()) > 1e-3


def test_a_cutoff_of_one_keeps_everything() -> None:
    for shape in ("symmetric",):
        features = _features(9, 8)
        torch.testing.assert_close(split_bands(features, 1.0, shape)[0], features, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_even_under_autocast(dtype: torch.dtype) -> None:
    features = _features(9, 12, torch.float32).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        low, high = split_bands(features, 0.5, "symmetric")
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, split_bands(features.double(), 0.5, "symmetric")[0].float(), rtol=0, atol=1e-5)
    torch.testing.assert_close(low + high, features.float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("cutoff", [0.0, -0.1, 1.01, float("nan")])
@pytest.mark.parametrize("shape", ["reference", "symmetric", "radial"])
def test_cutoff_out_of_range_is_refused(cutoff: float, shape: BandShape) -> None:
    with pytest.raises(ConfigError, match="cutoff"):
        split_bands(_features(4, 4), cutoff, shape)
