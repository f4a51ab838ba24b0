"""Registration of pairs: injected translations are found, and aligned or hopeless pairs are left alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from system.errors import ModelError
from system.freqkd.edges import edge_agreement
from system.freqkd.registration import (
    feature_agreement,
    register_pair,
    shift_picture,
    valid_tokens,
)

PATCH = 14


def _scene(seed: int = 0, height: int = 126, width: int = 168) -> Tensor:
    """Smooth blobs with edges, larger than the picture by 40 px all around, [H + 80, W + 80] in 0..255."""
    noise = torch.randn(1, 1, (height + 80) // 8, (width + 80) // 8, generator=torch.Generator().manual_seed(seed))
    smooth = F.interpolate(noise, size=(height + 80, width + 80), mode="bicubic", align_corners=False)[0, 0]
    return ((smooth > 0.3).float() * 120 + smooth.clamp(-1, 1) * 30 + 60).clamp(0, 255)


def _seen(scene: Tensor, dy: int, dx: int) -> Tensor:
    """The picture in which the scene stands dy lower and dx further to the right."""
    height, width = scene.shape[0] - 80, scene.shape[1] - 80
    return scene[40 - dy : 40 - dy + height, 40 - dx : 40 - dx + width]


def _pair(dy: int, dx: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """An RGB picture, and an infrared one with the contrast turned round."""
    scene = _scene(seed)
    rgb = _seen(scene, 0, 0)[..., None].expand(-1, -1, 3)
    infrared = (255 - 0.5 * _seen(scene, dy, dx))[..., None].expand(-1, -1, 3)
    return rgb.round().to(torch.uint8), infrared.round().to(torch.uint8)


def _features(picture_HWC: Tensor, turned: bool) -> list[Tensor]:
    """Stands for a model's: random smooth filters of the picture, [C, 9, 12]; the contrast does not matter."""
    grey = picture_HWC.float().mean(2)
    values = ((255 - grey) / 0.5 if turned else grey)[None, None] / 255
    kernels = torch.randn(24, 1, 21, 21, generator=torch.Generator().manual_seed(9))
    return [F.avg_pool2d(F.conv2d(values, kernels, padding=10).abs(), PATCH)[0]]


@pytest.mark.parametrize("shift", [(9, 0), (0, -12), (-20, 25), (14, 14), (6, -5)])
def test_an_injected_translation_is_found_within_two_pixels(shift: tuple[int, int]) -> None:
    for seed in range(3):
        rgb, infrared = _pair(*shift, seed=seed)
        found = register_pair(rgb, infrared, _features(rgb, False), _features(infrared, True), PATCH)
        assert found.is_confident
        assert abs(found.dy_px - shift[0]) <= 2 and abs(found.dx_px - shift[1]) <= 2, found


def test_moving_the_rgb_picture_by_what_was_found_aligns_the_pair() -> None:
    rgb, infrared = _pair(10, -17)
    found = register_pair(rgb, infrared, _features(rgb, False), _features(infrared, True), PATCH)
    moved, valid = shift_picture(rgb, found.dy_px, found.dx_px)
    expected = 255 - 0.5 * moved.float()
    assert (
        float((expected - infrared.float()).abs()[valid].mean())
        < 8
        < float((255 - 0.5 * rgb.float() - infrared.float()).abs().mean())
    )


@pytest.mark.parametrize("shift", [(0, 0), (2, -2), (0, 3)])
def test_pairs_within_a_quarter_of_a_patch_stay_exactly_where_they_are(shift: tuple[int, int]) -> None:
    rgb, infrared = _pair(*shift)
    found = register_pair(rgb, infrared, _features(rgb, False), _features(infrared, True), PATCH)
    assert (found.dy_px, found.dx_px, found.is_confident) == (0, 0, False)


def test_pictures_without_anything_on_them_stay_where_they_are() -> None:
    blank = torch.full((126, 168, 3), 90, dtype=torch.uint8)
    maps = [torch.ones(8, 9, 12)]
    assert not register_pair(blank, blank, maps, maps, PATCH).is_confident


@pytest.mark.parametrize("shift", [(1, 0), (-2, 1), (0, -2)])
def test_features_agree_best_at_whole_tokens(shift: tuple[int, int]) -> None:
    wide = torch.randn(16, 20, 24, generator=torch.Generator().manual_seed(3))
    rgb, infrared = wide[:, 4:14, 4:18], wide[:, 4 - shift[0] : 14 - shift[0], 4 - shift[1] : 18 - shift[1]]
    score = feature_agreement([rgb], [infrared], 2, 2)
    assert divmod(int(score.argmax()), 5) == (shift[0] + 2, shift[1] + 2)


@pytest.mark.parametrize("grid", [(1, 1), (1, 7), (3, 2)])
def test_small_grids_are_registered_or_left_alone(grid: tuple[int, int]) -> None:
    maps = [torch.randn(4, *grid, generator=torch.Generator().manual_seed(1))]
    picture = torch.randint(0, 255, (grid[0] * PATCH, grid[1] * PATCH, 3), dtype=torch.uint8)
    assert not register_pair(picture, picture, maps, maps, PATCH).is_confident


def test_edges_agree_whatever_their_sign() -> None:
    rgb, infrared = _pair(5, -8)
    for second in (infrared, 255 - infrared):
        agreement = edge_agreement(rgb, second, 20, 20)
        row, column = divmod(int(agreement.argmax()), 41)
        assert abs(row - 20 - 5) <= 1 and abs(column - 20 + 8) <= 1


def test_a_moved_picture_says_what_it_does_not_know() -> None:
    picture = torch.arange(28 * 42).view(28, 42, 1).to(torch.int32)
    moved, valid = shift_picture(picture, 3, -15)
    assert bool((moved[3:, :27] == picture[:25, 15:]).all())
    assert bool((moved[:3, :27] == picture[0, 15:]).all())
    assert int(valid.sum()) == 25 * 27
    assert valid_tokens(valid, PATCH).tolist() == [[False, False, False], [True, False, False]]
    whole, known = shift_picture(picture, 0, 0)
    assert torch.equal(whole, picture) and bool(known.all())
    nothing, known = shift_picture(picture, 100, 0)
    assert nothing.shape == picture.shape and not bool(known.any())


def test_features_that_do_not_fit_are_refused() -> None:
    maps, picture = torch.ones(4, 5, 6), torch.zeros(70, 84, 3, dtype=torch.uint8)
    with pytest.raises(ModelError, match="alike"):
        register_pair(picture, picture, [maps], [torch.ones(4, 5, 7)], PATCH)
    with pytest.raises(ModelError, match="infrared picture are NaN"):
        register_pair(picture, picture, [maps], [maps * float("nan")], PATCH)


def test_a_padded_patch_counts_where_its_part_of_the_picture_does() -> None:
    valid = torch.ones(20, 30, dtype=torch.bool)
    valid[:, :2] = False
    assert valid_tokens(valid, PATCH).tolist() == [[False, True, True]] * 2
    valid[15] = False
    assert valid_tokens(valid, PATCH)[1].tolist() == [False, False, False]
