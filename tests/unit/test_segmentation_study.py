"""A study of segmentation sums up overlaps as one of detection sums up precisions, and names pseudo-masks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from system.errors import DataError
from system.infrared.detections import Detections, Truth
from system.infrared.segment_judge import confusion
from system.pairs.infrared_set import InfraredPicture, InfraredSet
from system.pairs.masks import PSEUDO, PictureMask
from system.pairs.pixels import InfraredMapping
from system.report import label_sheet
from system.report.detection_study import detection_markdown
from system.training.detection_summary import DetectionFigures, summarise_detection
from system.training.evaluate_segmenter import _readable
from system.training.infrared_task import DetectionTask, mean_points
from system.training.segment import count_pixels
from system.training.segmentation_study import refuse_unlearnt
from system.training.segmentation_task import SegmentationTask

CLASSES = ("background", "person", "elk")
TASK = SegmentationTask()


def evidence(wrong: int, seed: int) -> list[np.ndarray]:
    """Six pictures of ten pixels of each of two classes, some of the persons overlooked; elks are nowhere."""
    truth = np.repeat(np.array([[0, 1]], np.uint8), 10, axis=0)
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(6):
        found = truth.copy()
        found[: max(0, wrong + int(rng.integers(-1, 2))), 1] = 0
        rows.append(confusion(truth, found, len(CLASSES)))
    return rows


def test_differences_of_overlap_have_intervals_and_unshown_classes_no_figure(tmp_path: Path):
    counts = np.random.default_rng(0).multinomial(6, np.full(6, 1 / 6), size=200).astype(float)
    runs = {}
    for arm, wrong in (("none", 5), ("registered", 2)):
        for seed in range(3):
            value_K, drawn_BK = TASK.judge(CLASSES, evidence(wrong, seed), counts)["miou"]
            assert np.isnan(value_K[2]) and np.isnan(drawn_BK[:, 2]).all()
            file = tmp_path / f"{arm}-{seed}.npz"
            np.savez(file, **{"test/miou": value_K, "test/drawn_miou": drawn_BK})
            runs[arm, 0, seed] = DetectionFigures.read(file, "test", TASK.figures)
    told = summarise_detection(runs, ["none", "registered"], [0], 3, CLASSES, "registered")
    row, gain = told["arms"]["registered"]["0"], told["differences"]["ours_against"]["none"]["0"]["miou"]
    assert row["miou"]["seeds"] == 3 and row["elk"]["mean"] is None
    assert row["miou"]["mean"] == pytest.approx((row["background"]["mean"] + row["person"]["mean"]) / 2, abs=0.02)
    assert 0 < gain["low"] < gain["mean"] < gain["high"]
    result = {
        "budget": {
            "size": [64, 96], "runs": 6, "images_per_run": 10, "train_pictures": 5, "epochs": 2,
            "test_pictures": {"test": 6},
        },
        "drifts": [0], "classes": CLASSES, "ours": "registered", "noun": "segmenter", "figures": ["miou"],
        "masks": f"{PSEUDO} of a test", "sets": {"test": told},
    }  # fmt: skip
    page = detection_markdown(result)
    assert "worth to a segmenter" in page and f"Masks: {PSEUDO} of a test." in page
    assert "### mIoU over no distillation" in page and "### IoU of person" in page and "AP50" not in page


def test_a_class_that_only_the_held_out_part_shows_is_refused(tmp_path: Path):
    def part(*labels: int) -> InfraredSet:
        pictures = []
        for label in labels:
            mask, place = np.zeros((32, 40), np.uint8), tmp_path / f"{label}.png"
            mask[4:20, 4:20] = label
            Image.fromarray(mask).save(place)
            picture = InfraredPicture(
                str(label), str(place), np.zeros((0, 4), np.float32), np.zeros(0, int), np.zeros(0, bool)
            )
            pictures.append(replace(picture, mask=PictureMask((0, 1, 2), str(place))))
        return InfraredSet("x", tuple(pictures), CLASSES)

    def refuse(learnt: InfraredSet, held: InfraredSet) -> None:
        refuse_unlearnt(learnt, held, count_pixels(learnt, InfraredMapping()))

    refuse(part(1, 2), part(2))
    refuse(part(1), part(1))  # elks are nowhere
    # The sample may lack what the whole part shows.
    refuse_unlearnt(part(1, 2), part(2), {"background": 9, "person": 9, "elk": 0})
    with pytest.raises(DataError, match="x: without the part that is held out shows no elk to learn from"):
        refuse(part(1), part(1, 2))


def test_figures_of_an_epoch_need_no_draws():
    rows = evidence(0, 1)
    perfect = [np.diag(row.sum(1)) for row in rows]
    assert mean_points(TASK.judge(CLASSES, perfect, np.zeros((0, 6)))) == {"miou": 100.0}


def test_detections_of_an_epoch_need_no_draws_either():
    boxes, labels = np.array([[2, 2, 20, 20]], np.float32), np.zeros(1, np.int64)
    truth = Truth(boxes, labels, np.zeros(1, bool))
    found = Detections.of(boxes, [0.9], labels, (30, 30))
    judged = DetectionTask().judge(("car", "elk"), [(found, truth)] * 2, np.zeros((0, 2)))
    assert mean_points(judged) == {"ap50": pytest.approx(100), "ap": pytest.approx(100)}


@pytest.mark.parametrize(("masks", "told"), [("outlines", "truth on the left"), (f"{PSEUDO} of a test", PSEUDO)])
def test_a_sheet_does_not_call_pseudo_masks_truth(monkeypatch: pytest.MonkeyPatch, masks: str, told: str):
    titles = []
    monkeypatch.setattr(label_sheet, "picture_sheet", lambda title, *_: titles.append(title) or b"")
    labels = np.zeros((8, 9), np.uint8)
    label_sheet.label_sheet("worst", [label_sheet.LabelCell(labels, labels, labels)], CLASSES, masks)
    assert told in titles[0] and ("truth" in titles[0]) == (masks == "outlines")


def test_a_set_of_which_nothing_can_be_read_is_refused_whatever_share_may_be_bad():
    none = np.zeros(0)
    pictures = [InfraredPicture(name, name, none.reshape(0, 4), none, none.astype(bool)) for name in "ab"]
    with pytest.raises(DataError, match=r"no_readable_picture: none of 2 pictures can be judged, e\.g\. a: is cut off"):
        _readable(pictures, ["is cut off", "is no picture"], max_bad_share=1.0)
    kept, confusions_NKK, faults = _readable(pictures, ["is cut off", np.eye(2, dtype=np.int64)], max_bad_share=0.5)
    assert kept == pictures[1:] and confusions_NKK.shape == (1, 2, 2) and faults == ["a: is cut off"]
    with pytest.raises(DataError, match="too_many_bad: 1 of 2"):
        _readable(pictures, ["is cut off", np.eye(2, dtype=np.int64)], max_bad_share=0.4)
