"""Losses of distillation, against golden values, an implementation in numpy and plain autograd."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from system.errors import ConfigError, ModelError
from system.freqkd.bands import BandShape, split_bands
from system.freqkd.losses import RECIPES, LossConfig, distillation_loss, standardise

TRAINED = sorted(name for name, config in RECIPES.items() if config is not None)
PUBLISHED = LossConfig(kind="freqkd", bands="reference")


def _maps(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def _recipe(name: str) -> LossConfig:
    config = RECIPES[name]
    assert config is not None
    return config


def _published_in_numpy(student: np.ndarray, teacher: np.ndarray, cutoff: float) -> tuple[float, float]:
    """(low, high), word by word from the paper's steps."""
    height, width = student.shape[2:]
    mask = np.zeros((height, width))
    rows, columns = (max(1, int(side * cutoff / 2)) for side in (height, width))
    for y in range(height):
        for x in range(width):
            mask[y, x] = -rows <= y - height // 2 < rows and -columns <= x - width // 2 < columns
    bands = []
    for features in (student, teacher):
        centred = features - features.mean(axis=(2, 3), keepdims=True)
        unit = centred / np.sqrt((centred**2).sum(axis=1, keepdims=True))
        spectrum = np.fft.fftshift(np.fft.fft2(unit, norm="ortho"), axes=(2, 3))
        bands.append(
            [
                np.fft.ifft2(np.fft.ifftshift(spectrum * kept, axes=(2, 3)), norm="ortho").real
                for kept in (mask, 1 - mask)
            ]
        )
    low = ((bands[0][0] - bands[1][0]) ** 2).mean()
    high = ((np.log1p(np.abs(bands[0][1])) - np.log1p(np.abs(bands[1][1]))) ** 2).mean()
    return float(low), float(high)


@pytest.mark.parametrize("shape", [(2, 6, 9, 12), (1, 5, 8, 8), (1, 4, 17, 23), (1, 3, 1, 7), (1, 3, 6, 1)])
@pytest.mark.parametrize("cutoff", [0.1, 0.25, 0.5, 0.75, 1.0])
def test_reference_is_the_published_formula(shape: tuple[int, ...], cutoff: float) -> None:
    student, teacher = _maps(*shape), _maps(*shape, seed=1)
    low, high = _published_in_numpy(student.numpy(), teacher.numpy(), cutoff)
    config = PUBLISHED.model_copy(update={"cutoff": cutoff})
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-6)):
        terms = distillation_loss([student.to(dtype)], [teacher.to(dtype)], config)
        assert float(terms.parts["low/0"]) == pytest.approx(low, rel=tolerance, abs=1e-12)
        assert float(terms.parts["high/0"]) == pytest.approx(high, rel=tolerance, abs=1e-12)
        assert float(terms.total) == pytest.approx(low + 0.1 * high, rel=tolerance, abs=1e-12)


def test_reference_gives_the_golden_values(data_root: Path) -> None:
    golden = data_root.parent / "golden"
    if not (golden / "freqkd_reference.json").is_file():
        pytest.skip(f"{golden}: no golden values of the published formula beside the real data")
    cases = json.loads((golden / "freqkd_reference.json").read_text())["cases"]
    arrays = np.load(golden / "freqkd_reference.npz")
    assert cases
    for case in cases:
        student, teacher = (torch.from_numpy(arrays[f"{side}_{case['case']}"]) for side in ("student", "teacher"))
        config = PUBLISHED.model_copy(update={"cutoff": case["cutoff"]})
        for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-6)):
            terms = distillation_loss([student.to(dtype)], [teacher.to(dtype)], config)
            found = (terms.parts["low/0"], terms.parts["high/0"], terms.total)
            keys = ("loss_low_mse", "loss_high_log_mse", "loss_total_1_and_0.1")
            for value, key in zip(found, keys, strict=True):
                assert float(value) == pytest.approx(case[key], rel=tolerance), (case["case"], key, dtype)


def _plain(student: Tensor, teacher: Tensor, config: LossConfig, valid_BHW: Tensor | None) -> Tensor:
    """The banded loss through `split_bands` and autograd."""
    maps = [standardise(features, valid_BHW) for features in (student, teacher)]
    (low_s, high_s), (low_t, high_t) = (split_bands(z, config.cutoff, config.bands) for z in maps)
    valid = torch.ones(student[:, 0].shape) if valid_BHW is None else valid_BHW
    valid = valid[:, None].to(student.dtype)
    counts = valid.sum(dim=(1, 2, 3)) * student.shape[1]
    total = student.new_zeros(())
    if config.kind != "high":
        total = total + config.low_weight * ((low_s - low_t).square().sum(dim=(1, 2, 3)) / counts).mean()
    if config.kind != "low":
        if config.high == "log":
            high_s, high_t = (
                z / z.abs().clamp_min(1e-30) * z.abs().log1p() if config.signed_log else z.abs().log1p()
                for z in (high_s, high_t)
            )
        difference = ((high_s - high_t) * valid).square()
        total = total + config.high_weight * (difference.sum(dim=(1, 2, 3)) / counts).mean()
    return total


@given(
    st.sampled_from([(2, 5, 9, 12), (1, 3, 1, 7), (2, 4, 8, 8), (1, 2, 5, 1)]),
    st.sampled_from(["reference", "symmetric", "radial"]),
    st.sampled_from(["low", "high", "freqkd"]),
    st.sampled_from(["log", "mse"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0.1, 0.3, 0.5, 0.75]),
)
@settings(max_examples=80, deadline=None)
def test_the_fast_loss_and_its_gradient_are_those_of_autograd(
    shape: tuple[int, ...], bands: Any, kind: Any, high: Any, signed: bool, masked: bool, cutoff: float
) -> None:
    config = LossConfig(kind=kind, bands=bands, high=high, signed_log=signed, cutoff=cutoff)
    student, teacher = _maps(*shape).requires_grad_(), _maps(*shape, seed=1)
    valid_BHW = _maps(shape[0], *shape[2:], seed=2) > -0.8 if masked else None
    if valid_BHW is not None:
        valid_BHW[:, 0, 0] = True
    ours = distillation_loss([student], [teacher], config, valid_BHW).total
    theirs = _plain(student, teacher, config, valid_BHW)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    if not theirs.requires_grad:
        return
    gradients = [torch.autograd.grad(loss, student)[0] for loss in (ours, theirs)]
    # At exactly zero, log1p|x| has no slope; random maps are nowhere there but where nothing is left of them.
    torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (2, 4, 1, 7), (1, 4, 5, 1), (2, 6, 9, 8)])
def test_any_grid_zero_maps_and_equal_maps_have_finite_gradients(name: str, shape: tuple[int, ...]) -> None:
    zero, random = torch.zeros(shape), _maps(*shape, dtype=torch.float32)
    for start, teacher in ((zero, random), (zero, zero), (random, random), (random, zero)):
        student = start.clone().requires_grad_()
        total = distillation_loss([student], [teacher], _recipe(name)).total
        total.backward()
        assert student.grad is not None
        assert bool(torch.isfinite(total)) and bool(torch.isfinite(student.grad).all())


@pytest.mark.parametrize("name", TRAINED)
def test_equal_features_cost_nothing_and_different_ones_something(name: str) -> None:
    maps = _maps(2, 6, 9, 8)
    assert float(distillation_loss([maps], [maps.clone()], _recipe(name)).total) == pytest.approx(0, abs=1e-12)
    assert float(distillation_loss([maps], [_maps(2, 6, 9, 8, seed=1)], _recipe(name)).total) > 1e-4


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    # 300^2 is beyond float16.
    maps = [(300 * _maps(2, 6, 9, 8, seed=seed)).to(dtype) for seed in (0, 1)]
    student = maps[0].clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        total = distillation_loss([student], [maps[1]], _recipe(name)).total
    total.backward()
    exact = distillation_loss([maps[0].double()], [maps[1].double()], _recipe(name)).total
    assert float(total.detach()) == pytest.approx(float(exact), rel=1e-4)
    assert student.grad is not None and student.grad.dtype == dtype
    assert bool(torch.isfinite(student.grad).all())


@pytest.mark.parametrize("name", TRAINED)
def test_a_batch_costs_the_mean_of_its_pictures(name: str) -> None:
    student, teacher, valid = _maps(3, 5, 6, 7), _maps(3, 5, 6, 7, seed=1), _maps(3, 6, 7, seed=2) > -0.5
    whole = distillation_loss([student], [teacher], _recipe(name), valid).total
    alone = [
        distillation_loss([student[n : n + 1]], [teacher[n : n + 1]], _recipe(name), valid[n : n + 1]).total
        for n in range(3)
    ]
    torch.testing.assert_close(whole, torch.stack(alone).mean(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", TRAINED)
def test_what_is_not_valid_does_not_count(name: str) -> None:
    student, teacher = _maps(2, 5, 6, 7).requires_grad_(), _maps(2, 5, 6, 7, seed=1)
    valid = torch.ones(2, 6, 7, dtype=torch.bool)
    valid[:, :2] = False
    spoilt = teacher.clone()
    spoilt[:, :, :2] = 1e3
    totals = [distillation_loss([student], [maps], _recipe(name), valid).total for maps in (teacher, spoilt)]
    torch.testing.assert_close(*totals, rtol=1e-9, atol=1e-12)
    totals[0].backward()
    assert student.grad is not None and float(student.grad[:, :, :2].abs().max()) == 0


@pytest.mark.parametrize("name", ["mse", "cosine", "low_only", "reference", "symmetric", "radial_signed", "registered"])
def test_both_maps_moved_alike_cost_the_same(name: str) -> None:
    maps = [_maps(2, 5, 6, 7, seed=seed) for seed in (0, 1)]
    still = distillation_loss(maps[:1], maps[1:], _recipe(name)).total
    moved = [features.roll((2, 3), (2, 3)) for features in maps]
    torch.testing.assert_close(distillation_loss(moved[:1], moved[1:], _recipe(name)).total, still)


@pytest.mark.parametrize("bands", ["symmetric", "radial"])
@pytest.mark.parametrize("has_valid", [False, True])
def test_full_band_mse_is_both_bands_of_a_projector_and_tells_them(bands: BandShape, has_valid: bool) -> None:
    maps = [_maps(3, 5, 9, 8, seed=seed) for seed in (0, 1)]
    valid = _maps(3, 9, 8, seed=2) > -0.5 if has_valid else None
    both = LossConfig(kind="freqkd", bands=bands, high="mse", low_weight=1.0, high_weight=1.0)
    split = distillation_loss(maps[:1], maps[1:], both, valid)
    whole = distillation_loss(maps[:1], maps[1:], LossConfig(kind="mse", bands=bands), valid)
    assert list(whole.parts) == ["mse/0", "low/0", "high/0"] and float(whole.parts["low/0"]) > 0
    torch.testing.assert_close(whole.parts["low/0"], split.parts["low/0"])
    if has_valid:
        # A banded loss leaves out what its high band has at places that do not count; the full band knows no such.
        assert float(whole.parts["high/0"]) == pytest.approx(float(whole.total - whole.parts["low/0"]))
    else:
        torch.testing.assert_close(whole.total, split.total)
        torch.testing.assert_close(whole.parts["high/0"], split.parts["high/0"])


def test_signed_logarithm_tells_a_map_from_its_negative() -> None:
    maps = _maps(1, 4, 8, 8)
    plain, signed = (
        float(distillation_loss([maps], [-maps], LossConfig(bands="radial", signed_log=signs)).parts["high/0"])
        for signs in (False, True)
    )
    assert plain == pytest.approx(0, abs=1e-12)
    assert signed > 1e-2


def test_blocks_are_summed_with_their_weights_and_named() -> None:
    student, teacher = [_maps(1, 4, 5, 6, seed=s) for s in (0, 1)], [_maps(1, 4, 5, 6, seed=s) for s in (2, 3)]
    terms = distillation_loss(student, teacher, PUBLISHED, block_weights=(2.0, 0.5))
    parts = {name: float(value) for name, value in terms.parts.items()}
    assert list(parts) == ["low/0", "high/0", "low/1", "high/1"]
    weighted = 2 * (parts["low/0"] + 0.1 * parts["high/0"]) + 0.5 * (parts["low/1"] + 0.1 * parts["high/1"])
    assert float(terms.total) == pytest.approx(weighted)
    assert list(distillation_loss(student, teacher, _recipe("response")).parts) == ["response/1"]


def test_wrong_features_are_named() -> None:
    good = _maps(1, 4, 5, 6)
    with pytest.raises(ModelError, match=r"block 1: student \[1, 4, 5, 6\], teacher \[1, 8, 5, 6\].*width"):
        distillation_loss([good, good], [good, _maps(1, 8, 5, 6)], PUBLISHED)
    with pytest.raises(ModelError, match="grid"):
        distillation_loss([good], [_maps(1, 4, 5, 7)], PUBLISHED)
    with pytest.raises(ModelError, match="1 feature maps of the student and 2"):
        distillation_loss([good], [good, good], PUBLISHED)
    with pytest.raises(ModelError, match="valid places"):
        distillation_loss([good], [good], PUBLISHED, torch.ones(1, 5, 7, dtype=torch.bool))
    with pytest.raises(ConfigError, match="2 block weights for 1"):
        distillation_loss([good], [good], PUBLISHED, block_weights=(1.0, 1.0))
    for bad, value in (("student", float("nan")), ("teacher", float("inf"))):
        broken = good.clone()
        broken[0, 0, 0, 0] = value
        sides = ([broken], [good]) if bad == "student" else ([good], [broken])
        for name in TRAINED:
            with pytest.raises(ModelError, match=f"block 0: 1 of 120 features of the {bad} are NaN or infinite"):
                distillation_loss(*sides, _recipe(name))


def test_cutoff_out_of_range_and_unknown_values_are_refused() -> None:
    for values in ({"cutoff": 0}, {"cutoff": 1.5}, {"bands": "square"}, {"high_weight": -1}, {"kund": "mse"}):
        with pytest.raises(ConfigError, match=next(iter(values))):
            LossConfig.parse(values, "loss")
