"""Where features differ in the spectrum: on synthetic features with known answers."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from system.errors import ConfigError
from system.freqkd.controls import Control
from system.freqkd.similarity import relate, some_places
from system.freqkd.spectrum import (
    METRICS,
    band_distances,
    band_maps,
    prepare,
    radial_bands,
    shell_energies,
    spectrum_of,
)
from system.pipelines.spectrum_summary import agreement, summarise
from system.pipelines.spectrum_sums import CURVES, DISTANCES, RELATIONS, PairSums, draw_weights, interval
from system.report.spectrum import SpectrumExample, render_spectrum

H, W, C = 17, 23, 12


def features(seed: int = 0, pictures: int = 2) -> torch.Tensor:
    return torch.randn(pictures, C, H, W, generator=torch.Generator().manual_seed(seed))


def distances(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """[low, high] x METRICS, mean over pictures."""
    bands = radial_bands(H, W)
    maps = zip(*(band_maps(spectrum_of(part), bands) for part in (teacher, student)), strict=True)
    return torch.stack([band_distances(*pair).mean(dim=0) for pair in maps])


def test_a_gap_planted_in_the_high_band_is_found_there_alone():
    teacher, bands = features(), radial_bands(H, W)
    student = teacher + 0.7 * band_maps(spectrum_of(features(1)), bands)[1]
    low, high = distances(teacher, student)
    assert low.abs().max() < 1e-6
    assert high[METRICS.index("nmse")] == pytest.approx(0.49, abs=0.05)
    energies = shell_energies(spectrum_of(teacher), spectrum_of(student), bands)
    assert energies[:, bands.radii_R < 0.7, 0].max() < 1e-6 < energies[:, bands.radii_R > 0.8, 0].min()


def test_equal_features_have_no_gap():
    teacher = features()
    assert distances(teacher, teacher.clone()).abs().max() < 1e-6
    places = some_places(teacher, 100)
    hsic, own, theirs, mmd = relate(places, [places])[:, 0].unbind(1)
    assert mmd.abs().max() < 1e-6
    assert torch.allclose(hsic / (own * theirs).sqrt(), torch.ones(2), atol=1e-5)


def test_unrelated_features_share_nothing():
    # Squared difference of independent maps is twice their energy.
    for band in distances(features(), features(1)):
        assert band[METRICS.index("nmse")] == pytest.approx(2, abs=0.35)
        assert band[METRICS.index("cosine")] == pytest.approx(1, abs=0.1)


@settings(max_examples=25, deadline=None)
@given(height=st.integers(8, 20), width=st.integers(8, 20), seed=st.integers(0, 99))
def test_shells_hold_all_energy_and_bands_keep_real_maps(height: int, width: int, seed: int):
    maps = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(seed))
    bands = radial_bands(height, width)
    energies = shell_energies(spectrum_of(maps), spectrum_of(0 * maps), bands)
    assert torch.allclose(energies[0, :, 1].sum(), maps.square().sum(), rtol=1e-4)
    full = torch.fft.fft2(maps, norm="ortho")
    down, right = (torch.fft.fftfreq(side, 1 / side) for side in (height, width))
    radius = (down[:, None].square() + right[None].square()).sqrt() / min(height // 2, width // 2)
    for found, mask in zip(band_maps(spectrum_of(maps), bands), (radius <= 0.25, radius >= 0.75), strict=True):
        assert torch.allclose(found, torch.fft.ifft2(full * mask, norm="ortho").real, atol=1e-5)


def test_moved_features_are_spread_alike_but_another_spread_is_seen():
    places = some_places(features(pictures=1), 1000)
    moved, other = places.roll(3, dims=1), 2 * places
    found = relate(places, [moved, other])[0]
    cka = found[:, 0] / (found[:, 1] * found[:, 2]).sqrt()
    assert abs(float(found[0, 3])) < 0.01 and float(found[1, 3]) > 0.05
    assert float(cka[0]) < 0.2 and float(cka[1]) == pytest.approx(1, abs=1e-4)


def test_preparations_take_the_mean_away_and_the_norm():
    shifted = features() + 5
    assert prepare(shifted, "raw").mean() > 4
    assert prepare(shifted, "centred").mean(dim=(2, 3)).abs().max() < 1e-5
    assert torch.allclose(prepare(shifted, "standardised").norm(dim=1), torch.ones(2, H, W), atol=1e-5)


def test_small_maps_are_refused():
    with pytest.raises(ConfigError, match="at least 8 a side"):
        radial_bands(7, 30)


@pytest.mark.parametrize("name", ["shift", "shift:0", "blur:-1", "noise:nan", "grey:2", "rain:3", "shift:two"])
def test_unknown_controls_are_refused(name: str):
    with pytest.raises(ConfigError, match="--controls"):
        Control.parse(name)


def test_controls_do_what_they_are_called():
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    moved = Control.parse("shift:14").apply(picture, 0)
    assert (moved[10:, 10:] == picture[:-10, :-10]).all()
    assert Control.parse("shift:1").apply(picture, 0).shape == picture.shape
    grey = Control.parse("grey").apply(picture, 0)
    assert (grey[..., 0] == grey[..., 2]).all()
    assert Control.parse("blur:2").apply(picture, 0).std() < picture.std() / 2
    noisy = Control.parse("noise:5")
    assert (noisy.apply(picture, 7) == noisy.apply(picture, 7)).all()
    assert (noisy.apply(picture, 7) != noisy.apply(picture, 8)).any()


def test_sums_do_not_depend_on_order_or_batches():
    values = np.random.default_rng(0).normal(size=(9, 2, 3))
    whole, apart, more = PairSums(), PairSums(), PairSums()
    whole.add({"x": values}, draw_weights(range(9), 50, 0))
    for k in (8, 2, 5):
        apart.add({"x": values[k : k + 1]}, draw_weights([k], 50, 0))
    rest = [0, 1, 3, 4, 6, 7]
    more.add({"x": values[rest]}, draw_weights(rest, 50, 0))
    apart.merge(more)
    assert apart.pairs == whole.pairs == 9
    assert np.allclose(apart.means("x"), whole.means("x"), equal_nan=True)
    assert np.allclose(whole.means("x")[0], values.mean(axis=0))


def test_the_interval_of_a_mean_is_about_two_standard_errors():
    values = np.random.default_rng(0).normal(10, 1, (200, 1))
    sums = PairSums()
    sums.add({"x": values}, draw_weights(range(200), 1000, 1))
    found = interval(sums.means("x")[:, 0])
    assert found["low"] < 10.1 and found["high"] > 9.9
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 / math.sqrt(200), rel=0.2)


@pytest.mark.parametrize(
    ("value", "low", "high", "agrees", "told"),
    [
        (2.3, 2.1, 2.5, True, "agrees"),
        (1.46, 1.4, 1.5, False, "clearly less"),
        (0.29, 0.2, 0.4, False, "opposite"),
        (1.1, 0.9, 1.3, False, "no clear difference"),
        (4.0, 3.0, 5.0, False, "clearly more"),
        (1.8, 1.2, 2.6, False, "too few pairs"),
        (None, None, None, False, "not known"),
    ],
)
def test_each_metric_is_told_plainly_whether_it_agrees(value, low, high, agrees: bool, told: str):
    found = agreement({"value": value, "low": low, "high": high})
    assert found["agrees"] is agrees and told in found["told"]


def gathered(pairs: int = 12, nmse_high: float = 1.2) -> dict:
    """A summary of made-up figures: low band 0.5 everywhere, high band given."""
    generator = np.random.default_rng(0)
    scatter = generator.uniform(0.9, 1.1, (pairs, 3, 2, 4, 1, 1))
    bands = np.array([[0.5, 0.5, 0.5], [0.15, nmse_high, 0.75]])
    relations = np.broadcast_to([0.5, 1.0, 1.0, 0.1, 4.0, 5.0], (pairs, 2, 4, 2, 6))
    curves = np.broadcast_to([1.0, 2.0, 2.0], (pairs, 2, 4, 9, 3))
    sums, weights = PairSums(), draw_weights(range(pairs), 100, 0)
    sums.add({DISTANCES: scatter * bands, RELATIONS: relations, CURVES: curves}, weights)
    splits = {"light": {"day": sums, "night": PairSums()}}
    return summarise(sums, splits, ("infrared", "shift:4"), (0, 3, 6, 9), [k / 8 for k in range(9)])


def test_the_headline_is_the_ratio_of_block_means():
    result = gathered()
    assert result["pairs"] == 12 and result["blocks"] == [0, 3, 6, 9]
    assert result["ratio_nmse"]["value"] == pytest.approx(2.4, rel=1e-3)
    assert result["ratio_mse"]["value"] == pytest.approx(0.3, rel=1e-3)
    assert result["ratio_cosine"]["value"] == pytest.approx(1.5, rel=1e-3)
    assert result["agreement"]["nmse"]["agrees"] and "opposite" in result["agreement"]["mse"]["told"]
    assert result["bands"]["infrared"]["cka"]["low"]["value"] == pytest.approx(0.5)
    assert "night" not in result["splits"]["light"]
    assert result["curves"]["mean"]["infrared"]["nmse"][0]["value"] == pytest.approx(0.5)
    json.dumps(result, allow_nan=False)


def test_the_report_needs_nobody_and_escapes_names():
    hostile = "<script>alert(1)</script>"
    result = gathered() | {
        "run_id": "r", "tower_id": "t", "tower": hostile, "corpora": {hostile: 12}, "listed": 12, "asked": 12,
        "skipped": {"one_channel": 2}, "left_out_when_listing": {}, "guessed_light": 1, "images": 48, "seconds": 1.0,
        "config": {"height": 238, "width": 322}, "patch": 14, "commit": "c",
    }  # fmt: skip
    page = render_spectrum(result, [SpectrumExample(hostile, (b"a",) * 6)], 9)
    assert "<script" not in page and page.count("data:image/jpeg") == 6
    assert not re.search(r"""(src|href|url)\s*[=(]\s*["']?(https?:)?//""", page)
    assert "agrees with the paper" in page and "opposite" in page
