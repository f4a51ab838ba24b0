"""Radial bands and distances of the spectral analysis, against golden values of the published divergence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from system.freqkd.spectrum import BANDS, band_distances, band_maps, prepare, radial_bands


def test_radial_divergence_gives_the_golden_values(data_root: Path) -> None:
    golden = data_root.parent / "golden"
    if not (golden / "freqkd_reference.json").is_file():
        pytest.skip(f"{golden}: no golden values of the published divergence beside the real data")
    arrays = np.load(golden / "freqkd_reference.npz")
    cases = [
        case
        for case in json.loads((golden / "freqkd_reference.json").read_text())["cases"]
        if "radial_divergence_teacher_vs_student" in case
    ]
    assert cases
    for case in cases:
        teacher, student = (torch.from_numpy(arrays[f"{side}_{case['case']}"]) for side in ("teacher", "student"))
        bands = radial_bands(*teacher.shape[2:])
        maps = [
            band_maps(torch.fft.rfft2(prepare(features, "standardised"), norm="ortho"), bands)
            for features in (teacher, student)
        ]
        for name, theirs, ours in zip(BANDS, *maps, strict=True):
            expected = case["radial_divergence_teacher_vs_student"][name]
            mse, nmse, cosine = band_distances(theirs, ours)[0].tolist()
            assert mse == pytest.approx(expected["mse"], rel=1e-6)
            assert nmse == pytest.approx(expected["nmse"], rel=1e-6)
            assert cosine == pytest.approx(expected["cosine_distance"], rel=2e-6)
