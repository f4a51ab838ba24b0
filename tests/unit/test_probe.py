"""The probe finds what is there, and draws of pictures are what they say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from system.bootstrap import draw_pictures
from system.errors import DataError
from system.freqkd.probe import (
    ABSENT,
    IGNORED,
    PRESENT,
    average_precision,
    drawn_average_precision,
    fit_probe,
    patch_targets,
    retrieval_ranks,
)
from system.training.probe import ProbeConfig, probe_backbone


def targets(boxes: list[list[float]], ignored: list[bool], size: tuple[int, int] = (28, 42)) -> np.ndarray:
    labels = np.zeros(len(boxes), int)
    return patch_targets(np.array(boxes, float).reshape(-1, 4), labels, np.array(ignored, bool), 1, size, 14)[..., 0]


def test_a_patch_is_present_where_boxes_cover_half_of_it_or_where_a_centre_lies():
    found = targets([[0, 0, 14, 7]], [False])  # exactly half of the first patch
    assert found.tolist() == [[PRESENT, 0, 0], [0, 0, 0]]
    found = targets([[20, 20, 22, 24]], [False])  # smaller than half a patch: its centre decides
    assert found.tolist() == [[0, 0, 0], [0, PRESENT, 0]]
    found = targets([[0, 0, 4, 14], [4, 0, 7, 14]], [False, False])  # two boxes together
    assert found[0, 0] == PRESENT


def test_ignored_boxes_hide_a_patch_unless_a_real_one_shows_it():
    found = targets([[0, 0, 14, 14], [14, 0, 28, 14], [14, 0, 28, 14]], [True, True, False])
    assert found.tolist() == [[IGNORED, PRESENT, ABSENT], [0, 0, 0]]


def test_empty_boxes_and_boxes_outside_show_nothing():
    assert not targets([[5, 5, 5, 9], [100, 100, 120, 120], [-30, -30, -10, -10]], [False] * 3).any()


def test_patches_of_the_padding_do_not_count():
    found = targets([], [], size=(20, 30))  # two rows of patches, the second mostly padding; three columns likewise
    assert found.shape == (2, 3)
    assert (found[1] == IGNORED).all() and (found[:, 2] == IGNORED).all() and not found[0, :2].any()


def test_the_probe_is_the_logistic_regression_of_sklearn():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(3000, 6)).astype(np.float32) * [1, 5, 0.2, 1, 1, 1] + 3
    wanted = (features[:, 0] - 2.5 + 0.1 * features[:, 1] + rng.normal(size=3000) > 2.4).astype(np.int8)
    wanted = np.stack([wanted, (features[:, 3] > 4.5).astype(np.int8)], 1)
    wanted[:500, 1] = IGNORED
    probe = fit_probe(torch.from_numpy(features.astype(np.float32)), wanted, strength=0.01)
    standardised = (features - features.mean(0)) / features.std(0, ddof=1)
    for k in range(2):
        known = wanted[:, k] != IGNORED
        judge = LogisticRegression(C=1 / (0.01 * known.sum()), tol=1e-8, max_iter=1000)
        judge.fit(standardised[known], wanted[known, k])
        assert probe.weights_CK[:, k].numpy() == pytest.approx(judge.coef_[0], rel=2e-3, abs=2e-3)
        assert float(probe.bias_K[k]) == pytest.approx(judge.intercept_[0], rel=2e-3)


def test_the_same_features_give_the_same_probe():
    features = torch.randn(500, 8, generator=torch.Generator().manual_seed(1))
    wanted = (features[:, :1] > 0.5).numpy().astype(np.int8)
    first, second = fit_probe(features, wanted), fit_probe(features, wanted)
    assert torch.equal(first.weights_CK, second.weights_CK) and torch.equal(first.bias_K, second.bias_K)


def test_a_constant_channel_and_a_separable_class_are_fitted():
    features = torch.randn(400, 3, generator=torch.Generator().manual_seed(2))
    features[:, 1] = 7.0
    wanted = (features[:, :1] > 0).numpy().astype(np.int8)
    scores = fit_probe(features, wanted, strength=1e-4).scores(features)
    assert np.isfinite(scores).all() and average_precision(scores[:, 0], wanted[:, 0]) == pytest.approx(1.0, abs=1e-3)


def test_features_that_are_no_numbers_and_classes_without_patches_are_refused():
    features = torch.zeros(4, 2)
    with pytest.raises(DataError, match="no_positive"):
        fit_probe(features, np.zeros((4, 1), np.int8))
    features[0, 0] = float("nan")
    with pytest.raises(DataError, match="not_finite"):
        fit_probe(features, np.ones((4, 1), np.int8))


def test_average_precision_is_sklearns_with_equal_scores_and_ignored_patches():
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 20, 400).astype(float)
    wanted = rng.choice([PRESENT, ABSENT, IGNORED], 400, p=[0.2, 0.6, 0.2]).astype(np.int8)
    known = wanted != IGNORED
    assert average_precision(scores, wanted) == pytest.approx(
        average_precision_score(wanted[known] == 1, scores[known])
    )
    assert np.isnan(average_precision(scores, np.zeros(400, np.int8)))


def test_a_draw_of_pictures_is_the_corpus_with_those_pictures():
    rng = np.random.default_rng(4)
    picture = np.repeat(np.arange(10), 12)
    scores, wanted = rng.normal(size=120), (rng.random(120) < 0.3).astype(np.int8)
    counts = draw_pictures(10, 70, seed=5)
    found = drawn_average_precision(scores, wanted, picture, counts)
    for b in (0, 69):
        rows = np.concatenate([np.flatnonzero(picture == n) for n in range(10) for _ in range(int(counts[b, n]))])
        assert found[b] == pytest.approx(average_precision_score(wanted[rows], scores[rows]))
    assert (counts.sum(1) == 10).all() and np.array_equal(counts, draw_pictures(10, 70, seed=5))
    shown = np.zeros((1, 10))
    shown[0, 3] = 1
    assert np.isnan(drawn_average_precision(scores, np.where(picture == 3, 0, wanted), picture, shown)[0])


def test_a_picture_finds_its_own_first_where_features_are_shared():
    own = torch.randn(30, 16, generator=torch.Generator().manual_seed(6))
    assert (retrieval_ranks(own + 5, own - 3) == 1).all()  # what a whole modality shares does not count
    assert retrieval_ranks(own, own.flip(0)).max() > 5
    assert (retrieval_ranks(torch.zeros(4, 3), torch.zeros(4, 3)) == 4).all()  # no knowledge is no success


def write_pairs(root: Path, name: str, seeds: list[int]) -> str:
    """A pair a seed, so that pairs of one seed are copies; a bright person in each."""
    (root / name).mkdir()
    images, boxes = [], []
    for n, seed in enumerate(seeds):
        picture = np.random.default_rng(seed).integers(90, 130, (32, 48, 3), dtype=np.uint8)
        picture[0:16, 16:32] = 250
        for kind, pixels in (("rgb", picture), ("infrared", 255 - picture)):
            Image.fromarray(pixels).save(root / name / f"{kind}{n}.png")
        images.append(
            {"id": n, "file_name": f"rgb{n}.png", "file_name2": f"infrared{n}.png", "width": 48, "height": 32}
        )
        boxes.append({"id": n, "image_id": n, "category_id": 1, "bbox": [16, 0, 16, 16], "area": 256, "iscrowd": 0})
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "person"}]}
    (root / name / "pairs.json").write_text(json.dumps(content))
    return str(root / name / "pairs.json")


def test_copies_of_pictures_that_a_probe_is_fitted_on_are_warned_of_and_counted(tmp_path: Path):
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), tmp_path / "vit.safetensors")
    backbone = f"timm:test_vit@{tmp_path / 'vit.safetensors'}"
    train, test = write_pairs(tmp_path, "train", [0, 1, 2]), write_pairs(tmp_path, "test", [3, 1])
    told: list[str] = []
    config = ProbeConfig(block=3, height=32, width=48, rounds=2, teacher=backbone)
    found = probe_backbone(backbone, train, test, config, note=told.append)
    assert found["seen_in_training"] == 1
    assert "the probe, from copies, learnt from 1 of the 2 pictures that are judged" in "".join(told)
