"""Segmenters learn, leave out what is ignored, answer at the picture's size, and are kept as detectors are."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from system.backbones.vit import build_vit
from system.bootstrap import draw_pictures
from system.errors import ConfigError, ModelError
from system.infrared.augment import Example, augmented, flipped
from system.infrared.detections import Truth
from system.infrared.detector_trainer import DetectorTrainConfig, DetectorTrainer
from system.infrared.segment_judge import (
    confusion,
    drawn_overlaps,
    intersection_over_union,
    picture_scores,
    segment_figures,
)
from system.infrared.segmenter import Segmenter, SegmenterConfig, class_weights, cross_entropy, dice_loss
from system.pairs.infrared_set import InfraredPicture, InfraredSet
from system.pairs.mask_set import MaskSource
from system.pairs.masks import IGNORED
from system.report.console import ConsoleProgress
from system.training import evaluate_segmenter
from system.training.detection_summary import DetectionFigures, summarise_detection
from system.training.evaluate_detector import JudgeConfig
from system.training.segmentation_task import SegmentationTask

SIZE = (64, 96)


def tiny_vit() -> VisionTransformer:
    torch.manual_seed(0)
    return build_vit("test_vit")


def config(**values: object) -> SegmenterConfig:
    given = {"classes": ("background", "warm", "cold"), "height": SIZE[0], "width": SIZE[1], "blocks": (1, 3)}
    return SegmenterConfig.parse(
        given | {"channels": 32, "convs": 1, "backbone": "none", "class_weights": (0.5, 2, 2)} | values, "test"
    )


def scene(seed: int) -> Example:
    """A warm square somewhere, a dark one elsewhere, on grey."""
    rng = np.random.default_rng(seed)
    picture, labels = np.full(SIZE, 110, np.uint8), np.zeros(SIZE, np.uint8)
    for label, (left, value) in enumerate(((0, 255), (48, 0)), start=1):
        x, y = left + int(rng.integers(0, 24)), int(rng.integers(0, 40))
        picture[y : y + 22, x : x + 22] = value
        labels[y : y + 22, x : x + 22] = label
    return Example(picture, Truth(np.zeros((0, 4), np.float32), np.zeros(0, int), np.zeros(0, bool)), labels)


def as_batch(examples: list[Example]) -> tuple[Tensor, list[Tensor]]:
    pictures = torch.from_numpy(np.stack([e.picture_HW for e in examples]))[..., None].expand(-1, -1, -1, 3)
    return pictures, [torch.from_numpy(e.labels_HW.astype(np.int64)) for e in examples if e.labels_HW is not None]


@pytest.mark.parametrize("dice_weight", [0.0, 1.0])
def test_a_segmenter_learns_which_pixel_is_what(dice_weight: float):
    segmenter = Segmenter.untrained(config(is_frozen=False, dice_weight=dice_weight), tiny_vit(), 0)
    trainer = DetectorTrainer(segmenter, DetectorTrainConfig(learning_rate=3e-3, ema_decay=0.9), 40)
    for step in range(40):
        images, targets = as_batch([scene(4 * step + k) for k in range(4)])
        told = trainer.step(images, None, targets)
    assert ("dice" in told) == bool(dice_weight)
    averaged = trainer.averaged()
    tests = [scene(seed) for seed in range(1000, 1008)]
    found = averaged.segment([example.picture_HW for example in tests])
    whole = sum(confusion(e.labels_HW, f, 3) for e, f in zip(tests, found, strict=True) if e.labels_HW is not None)
    assert intersection_over_union(whole).min() > 0.6


def test_labels_are_given_at_the_size_of_each_picture_and_alike():
    segmenter = Segmenter.untrained(config(), tiny_vit(), 0)
    small = scene(0).picture_HW
    large = np.kron(small, np.ones((3, 2), np.uint8))
    a, b = segmenter.segment([small, large])
    assert a.shape == SIZE and b.shape == (192, 192) and a.dtype == np.uint8
    assert (np.kron(a, np.ones((3, 2), np.uint8)) == b).mean() > 0.9  # edges differ, which are drawn finer
    assert segmenter.segment([]) == []


def test_ignored_pixels_give_neither_loss_nor_gradient():
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    labels = torch.randint(0, 3, (1, 4, 4))
    labels[0, :2] = IGNORED
    weights = torch.ones(3)
    for loss in (cross_entropy(logits, labels, weights), dice_loss(logits, labels)):
        (gradient,) = torch.autograd.grad(loss, logits)
        assert gradient[..., :2, :].abs().max() == 0 and gradient[..., 2:, :].abs().min() > 0
    known = cross_entropy(logits[..., 2:, :], labels[:, 2:], weights)
    torch.testing.assert_close(cross_entropy(logits, labels, weights), known)


def test_a_batch_of_which_nothing_is_known_teaches_nothing_but_no_nan():
    logits, labels = torch.randn(1, 3, 4, 4, requires_grad=True), torch.full((1, 4, 4), IGNORED)
    for loss in (cross_entropy(logits, labels, torch.ones(3)), dice_loss(logits, labels)):
        assert loss.item() == 0
        loss.backward()
    assert logits.grad is not None and logits.grad.abs().max() == 0


def test_losses_are_what_they_are_by_hand():
    # One pixel of each class; the logits say ln 3 to 1 for class 0 everywhere: chances 3/4 and 1/4.
    logits = torch.tensor([math.log(3), 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 2)
    labels = torch.tensor([[[0, 1]]])
    weighted = (1 * math.log(4 / 3) + 3 * math.log(4)) / 4
    assert cross_entropy(logits, labels, torch.tensor([1.0, 3.0])).item() == pytest.approx(weighted, rel=1e-5)
    dice = (1 - 2 * 0.75 / (1.5 + 1) + 1 - 2 * 0.25 / (0.5 + 1)) / 2
    assert dice_loss(logits, labels).item() == pytest.approx(dice, rel=1e-5)


def test_rare_classes_weigh_more_and_the_mean_pixel_weighs_one():
    weights = class_weights([900, 90, 10, 0])
    assert list(weights) == sorted(weights)
    assert np.dot(weights, [0.9, 0.09, 0.01, 0]) == pytest.approx(1, abs=1e-4)


def test_overlap_is_what_it_is_by_hand():
    truth = np.array([[0, 0, 1, 1], [2, IGNORED, 1, 0]], np.uint8)
    found = np.array([[0, 1, 1, 1], [0, 2, 1, 0]], np.uint8)
    matrix = confusion(truth, found, 4)
    assert matrix.sum() == 7 and matrix[0].tolist() == [2, 1, 0, 0] and matrix[2].tolist() == [1, 0, 0, 0]
    # Class 0: 2 right of 3 true and 1 wrong; class 1: 3 of 3 and 1 wrong; class 2: none; class 3 is nowhere.
    np.testing.assert_allclose(intersection_over_union(matrix), [2 / 4, 3 / 4, 0, np.nan])
    figures = segment_figures(("background", "a", "b", "c"), matrix[None], np.ones((5, 1)))
    assert figures["miou"] == {"value": 41.67, "low": 41.67, "high": 41.67}
    assert figures["miou_objects"]["value"] == 37.5 and figures["classes"]["c"]["iou"]["value"] is None
    assert figures["classes"]["a"] == {
        "iou": {"value": 75.0, "low": 75.0, "high": 75.0},
        "precision": 75.0,
        "recall": 100.0,
        "pixels": 3,
    }


def test_draws_of_pictures_add_up_their_pixels():
    one, two = (confusion(np.array([[0, 1]], np.uint8), np.array([found], np.uint8), 2) for found in ([0, 1], [1, 1]))
    drawn = drawn_overlaps(np.stack([one, two]), np.array([[2.0, 0.0], [1.0, 1.0], [0.0, 2.0]]))
    np.testing.assert_allclose(drawn, [[1, 1], [1 / 2, 2 / 3], [0, 1 / 2]])
    np.testing.assert_allclose(picture_scores(np.stack([one, two])), [1, 0.5])


def test_two_runs_miss_a_class_in_the_same_draws_whatever_they_find():
    clean = np.zeros((20, 2, 2), np.int64)
    clean[:, 0, 0] = 10_000
    clean[0] = [[9000, 50], [50, 900]]  # the only picture of class 1
    noisy = clean.copy()
    noisy[5] = [[9999, 1], [0, 0]]
    counts_BN = draw_pictures(20, 500, seed=0)
    first, second = drawn_overlaps(clean, counts_BN), drawn_overlaps(noisy, counts_BN)
    assert (np.isnan(first[:, 1]) == (counts_BN[:, 0] == 0)).all()
    assert np.array_equal(np.isnan(first), np.isnan(second))
    runs = {
        (arm, 0, 0): DetectionFigures(SegmentationTask().judge(("background", "a"), list(found), counts_BN))
        for arm, found in (("none", clean), ("mse", noisy))
    }
    told = summarise_detection(runs, ["none", "mse"], [0], 1, ["background", "a"], "mse")["differences"]
    assert told["against_none"]["mse"]["0"]["miou"]["low"] > -1


def test_a_class_that_is_found_but_nowhere_there_is_told_but_not_counted_in_the_mean():
    matrix = confusion(np.array([[0, 0]], np.uint8), np.array([[0, 1]], np.uint8), 2)
    figures = segment_figures(("background", "a"), matrix[None], np.ones((5, 1)))
    assert figures["miou"]["value"] == 50 and figures["classes"]["a"]["iou"]["value"] is None
    assert figures["classes"]["a"]["precision"] == 0


@pytest.mark.parametrize("kind", ["flip", "full"])
def test_views_move_labels_with_their_picture(kind):
    example = scene(3)
    for seed in range(12):
        view = augmented(example, kind, np.random.default_rng(seed))
        assert view.labels_HW is not None
        warm, cold = (view.picture_HW[view.labels_HW == k].astype(float) for k in (1, 2))
        if len(warm) > 20 and len(cold) > 20:
            assert np.median(warm) > np.median(cold) + 60
        if kind == "flip":
            assert (view.labels_HW > 0).sum() == 2 * 22 * 22
    twice = flipped(flipped(example))
    assert np.array_equal(twice.labels_HW, example.labels_HW)


def test_a_kept_segmenter_answers_the_same_and_another_folder_is_refused(tmp_path: Path):
    segmenter = Segmenter.untrained(config(masks="pseudo-masks of a test"), tiny_vit(), 3)
    segmenter.save(tmp_path)
    again = Segmenter.load(tmp_path)
    picture = scene(1).picture_HW
    assert np.array_equal(segmenter.segment([picture])[0], again.segment([picture])[0])
    assert again.config.masks.startswith("pseudo-masks")
    (tmp_path / "segmenter.safetensors").write_bytes(b"other")
    with pytest.raises(ModelError, match="damaged or exchanged"):
        Segmenter.load(tmp_path)
    (tmp_path / "segmenter.json").write_text("{}")
    with pytest.raises(ModelError, match="expected a segmenter saved as"):
        Segmenter.load(tmp_path)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"classes": ("background",)}, "the background and"),
        ({"class_weights": (1, 2)}, "expected 3 numbers"),
        ({"class_weights": (1, 2, 0)}, "above 0"),
        ({"architecture": "fcos"}, "dense"),
    ],
)
def test_settings_that_cannot_be_are_refused(values: dict[str, object], words: str):
    with pytest.raises(ConfigError, match=words):
        config(**values)


def test_damaged_weights_are_told_before_ray_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(evaluate_segmenter, "connect_to_ray", lambda: pytest.fail("it went on"))
    # A set that can be read, so that nothing but the weights stands against Ray.
    picture = InfraredPicture("a", "a.png", np.zeros((0, 4), np.float32), np.zeros(0, int), np.zeros(0, bool))
    found = InfraredSet("set", (picture,), config().classes)
    monkeypatch.setattr(evaluate_segmenter, "read_mask_set", lambda *_: found)
    monkeypatch.setattr(evaluate_segmenter, "of_mask_classes", lambda *_: found)
    (folder := tmp_path / "model").mkdir()
    Segmenter.untrained(config(), tiny_vit(), 0).save(folder)
    (weights := folder / Segmenter.weights_name).write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(ModelError, match=r"segmenter\.safetensors: damaged or exchanged"):
        evaluate_segmenter.judge_segmenter(
            "set", MaskSource(), None, str(folder), None, JudgeConfig(), 1, ConsoleProgress()
        )
