"""Masks of every source lie on their pictures, say what they are, and are refused where they do not fit."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from system.errors import ConfigError, DataError
from system.pairs.box_masks import guess_from_boxes
from system.pairs.infrared_set import InfraredSet
from system.pairs.mask_set import MaskSource, of_mask_classes, read_mask_set
from system.pairs.masks import IGNORED, PSEUDO, Outline, OutlineMask, PictureMask, fit_labels
from system.pairs.pixels import InfraredMapping, read_infrared
from system.training.detect_data import PictureReader, sha256_of
from system.training.evaluate_segmenter import _cell
from system.training.segment import count_pixels, gather_masked
from system.training.segmentation_task import SegmentationTask

HEIGHT, WIDTH = 40, 60


def picture() -> np.ndarray:
    """A warm square on a noisy street."""
    pixels = np.random.default_rng(0).normal(60, 4, (HEIGHT, WIDTH)).astype(np.uint8)
    pixels[12:28, 20:36] = 220
    return pixels


def write_coco(root: Path, segmentation: object, **more: object) -> Path:
    Image.fromarray(picture()).save(root / "a.png")
    row = {"id": 1, "image_id": 1, "category_id": 7, "bbox": [18, 10, 20, 20], "iscrowd": 0, "area": 400}
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}],
        "annotations": [row | ({"segmentation": segmentation} if segmentation else {}) | more],
        "categories": [{"id": 7, "name": "Car"}, {"id": 9, "name": "bus"}],
    }
    (root / "coco.json").write_text(json.dumps(content))
    return root / "coco.json"


def labels_of(found: InfraredSet) -> np.ndarray:
    (one,) = found.pictures
    assert one.mask is not None
    return one.mask.label_map(picture())


SQUARE = [[20, 12, 36, 12, 36, 28, 20, 28]]
RLE = {"size": [HEIGHT, WIDTH], "counts": [20 * HEIGHT + 12, 16, 39 * HEIGHT + 12]}


def test_polygons_and_rle_are_painted_and_are_no_pseudo_masks(tmp_path: Path):
    found = read_mask_set(str(write_coco(tmp_path, SQUARE)))
    assert found.classes == ("background", "car", "bus") and PSEUDO not in found.masks
    labels = labels_of(found)
    assert labels[12:28, 20:36].min() == 1 and labels.sum() == 16 * 16
    column = labels_of(read_mask_set(str(write_coco(tmp_path, RLE))))
    assert column[12:28, 20].all() and column.sum() == 16


def test_a_crowd_and_a_box_without_an_outline_are_ignored(tmp_path: Path):
    assert set(np.unique(labels_of(read_mask_set(str(write_coco(tmp_path, SQUARE, iscrowd=1)))))) == {0, IGNORED}
    file = write_coco(tmp_path, SQUARE)
    content = json.loads(file.read_text())
    bare = {"id": 2, "image_id": 1, "category_id": 9, "bbox": [0, 0, 5, 4], "area": 20}
    content["annotations"].append(bare)
    file.write_text(json.dumps(content))
    found = read_mask_set(str(file))
    assert (labels_of(found)[:4, :5] == IGNORED).all()
    assert [fault.code for fault in found.faults] == ["no_outline"]


def test_regions_of_nobody_are_ignored_and_no_class(tmp_path: Path):
    file = write_coco(tmp_path, SQUARE)
    content = json.loads(file.read_text())
    content["categories"][:0] = [{"id": 1, "name": "DontCare"}]
    corner = {"segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]], "bbox": [0, 0, 4, 4]}
    content["annotations"].append(content["annotations"][0] | corner | {"id": 2, "category_id": 1})
    file.write_text(json.dumps(content))
    found = read_mask_set(str(file))
    assert found.classes == ("background", "car", "bus")
    for labels in (labels_of(found), labels_of(of_mask_classes(found, ("car",)))):
        assert (labels[:4, :4] == IGNORED).all() and (labels[12:28, 20:36] == 1).all()
    assert not gather_masked((str(file),), MaskSource(), None, ("car",)).faults


def test_small_things_lie_over_large_ones():
    outlines = (
        Outline(1, [[0, 0, 4, 0, 4, 4, 0, 4]], (0, 0, 4, 4)),
        Outline(0, [[0, 0, 20, 0, 20, 20, 0, 20]], (0, 0, 20, 20)),
    )
    labels = OutlineMask((0, 1, 2), "a", outlines).label_map(picture())
    assert (labels[:4, :4] == 2).all() and labels[10, 10] == 1 and labels[30, 30] == 0


@pytest.mark.parametrize(
    ("segmentation", "code"),
    [
        ([[1, 2]], "bad_outline"),
        ([[1, 1, "x", 2, 3, 4]], "bad_outline"),
        ({"size": [HEIGHT, WIDTH], "counts": [10, 5]}, "bad_outline"),
        ({"size": [3, 5], "counts": [10, 5]}, "wrong_shape"),
        ({"size": [200_000, 200_000], "counts": [4_000_000_000] * 10}, "wrong_shape"),
        ({"size": [200_000, 200_000], "counts": "0"}, "wrong_shape"),
        ({"size": [HEIGHT], "counts": [10, 5]}, "bad_outline"),
        ([[0, 0, 1e12, 0, 1e12, 1e12]], "bad_outline"),
        ([[0, 0, 5 * WIDTH, 0, 5, 5]], "bad_outline"),
        ([[1, 1, float("nan"), 5, 7, 9]], "bad_outline"),
        ([[1, 1, 10**400, 5, 7, 9]], "bad_outline"),
        ({"counts": [3]}, "bad_outline"),
        ("abc", "bad_outline"),
    ],
)
def test_an_outline_that_cannot_be_is_refused_with_its_picture(tmp_path: Path, segmentation: object, code: str):
    found = read_mask_set(str(write_coco(tmp_path, segmentation)))
    with pytest.raises(DataError, match=r"a\.png") as caught:
        labels_of(found)
    assert caught.value.code == code


def test_boxes_give_pseudo_masks_that_are_called_so(tmp_path: Path):
    file = write_coco(tmp_path, None)
    with pytest.raises(DataError, match="--masks boxes makes pseudo-masks"):
        read_mask_set(str(file))
    found = read_mask_set(str(file), MaskSource(kind="boxes"))
    assert found.masks.startswith(PSEUDO) and found.classes == ("background", "car")
    labels = labels_of(found)
    assert (labels[13:27, 21:35] == 1).all()
    # Within the box but outside the square it is the background, a rim apart.
    assert (labels[10, 18:38] == 0).all() and (labels == IGNORED).any()
    told = read_mask_set(str(write_coco(tmp_path, SQUARE)), MaskSource(pseudo="a teacher on RGB"))
    assert told.masks == f"{PSEUDO}: a teacher on RGB"


@pytest.mark.parametrize("kind", ["own", "boxes"])
def test_a_picture_that_was_resized_after_it_was_annotated_is_not_judged_nor_counted(tmp_path: Path, kind: str):
    found = read_mask_set(str(write_coco(tmp_path, SQUARE)), MaskSource(kind=kind))
    Image.fromarray(picture()).resize((WIDTH * 2, HEIGHT * 2)).save(tmp_path / "a.png")
    (one,) = found.pictures
    segmenter: Any = SimpleNamespace(config=SimpleNamespace(mapping=InfraredMapping(), classes=found.classes))
    for read in (
        lambda: _cell(segmenter, one, found.classes),
        lambda: SegmentationTask().own_evidence(found.classes, one, InfraredMapping(), None),
        lambda: count_pixels(found, InfraredMapping()),
    ):
        with pytest.raises(DataError, match=r"wrong_shape: .*a\.png: 120x80 pixels, its annotations state 60x40"):
            read()


def test_guesses_are_the_same_each_time_and_never_leave_their_boxes():
    boxes = np.array([[18, 10, 38, 30], [0, 0, 5, 5], [40, 0, 60, 9], [0, 0, 60, 40]], np.float32)
    labels, ignored = np.array([1, 2, 2, 3]), np.array([False, False, True, False])
    first = guess_from_boxes(picture(), boxes, labels, ignored, IGNORED)
    shifted = guess_from_boxes(np.ascontiguousarray(picture()), boxes + 0, labels, ignored, IGNORED)
    assert np.array_equal(first, shifted)
    assert (first[:5, :5] == 2).all() and (first[:9, 40:] == IGNORED).all()
    empty = guess_from_boxes(picture(), boxes[:0], labels[:0], ignored[:0], IGNORED)
    assert not empty.any()
    flat = guess_from_boxes(np.full((HEIGHT, WIDTH), 7, np.uint8), boxes[:1], labels[:1], ignored[:1], IGNORED)
    assert flat[20, 28] == 1 and flat[10, 18] == IGNORED  # nothing to see: the middle of the box, its corners unknown


def write_mfnet(root: Path, mask: np.ndarray) -> Path:
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    four = np.dstack([np.zeros((HEIGHT, WIDTH, 3), np.uint8), picture()])
    Image.fromarray(four).save(root / "images" / "00001D.png")
    Image.fromarray(four).save(root / "images" / "00002D.png")
    Image.fromarray(mask).save(root / "labels" / "00001D.png")
    return root


def test_label_pictures_of_a_corpus_are_read_and_a_picture_without_one_is_told(tmp_path: Path):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[12:28, 20:36], mask[0, 0] = 2, IGNORED
    found = read_mask_set(str(write_mfnet(tmp_path, mask)))
    assert found.classes[:4] == ("background", "car", "person", "bike") and not found.masks.startswith(PSEUDO)
    assert [(fault.pair_id, fault.code) for fault in found.faults] == [("00002D", "no_mask")]
    assert np.array_equal(labels_of(found), mask)
    assert np.array_equal(read_infrared(found.pictures[0].uri).pixels_HW, picture()), "the fourth channel, not colours"
    person = of_mask_classes(found, ("person", "car"))
    assert person.classes == ("background", "person", "car")
    assert labels_of(person)[20, 25] == 1 and labels_of(person)[0, 0] == IGNORED
    assert (labels_of(of_mask_classes(found, ("car",)))[12:28] == 0).all()
    with pytest.raises(ConfigError, match="expected one of elk"):
        of_mask_classes(found, ("elk",))


def test_names_of_a_list_that_are_not_there_are_told_for_masks_too(tmp_path: Path):
    write_mfnet(tmp_path, np.zeros((HEIGHT, WIDTH), np.uint8))
    (tmp_path / "train.txt").write_text("00001D\n00009D\n")
    labels = MaskSource(kind=str(tmp_path / "labels"), classes=("nothing", "warm"))
    for source in (MaskSource(), labels):
        found = read_mask_set(str(tmp_path / "train.txt"), source)
        told = [(fault.pair_id, fault.code, fault.is_skipped) for fault in found.faults]
        assert (len(found.pictures), told) == (1, [("00009D", "missing_file", True)])


def test_a_class_that_no_set_knows_is_not_learnt_and_classes_that_nobody_learns_are_told(tmp_path: Path):
    uri = str(write_coco(tmp_path, SQUARE))
    with pytest.raises(DataError, match="knows no cra to learn from, but car, bus") as caught:
        gather_masked((uri,), MaskSource(), None, ("car", "cra"))
    assert caught.value.code == "no_positive"
    assert not gather_masked((uri,), MaskSource(), None, ()).faults
    (told,) = gather_masked((uri,), MaskSource(), None, ("bus",)).faults
    assert (told.code, told.is_skipped) == ("other_class", False) and told.message.startswith("car: not among")


def test_masks_that_do_not_fit_are_refused(tmp_path: Path):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[3, 3] = 37
    wrong = {"unknown_class": mask, "wrong_shape": mask[:30] * 0, "channels": np.dstack([mask] * 3)}
    for code, content in wrong.items():
        found = read_mask_set(str(write_mfnet(tmp_path / code, content)))
        with pytest.raises(DataError, match=re.escape("00001D.png")) as caught:
            labels_of(found)
        assert caught.value.code == code, caught.value
    with pytest.raises(DataError, match="expected a file, found none"):
        PictureMask((0, 1), str(tmp_path / "nowhere.png")).label_map(picture())


def test_a_folder_of_label_pictures_needs_its_classes(tmp_path: Path):
    for name in ("ir", "seg"):
        (tmp_path / name).mkdir()
    Image.fromarray(picture()).save(tmp_path / "ir" / "x.png")
    Image.fromarray((picture() > 100).astype(np.uint8)).save(tmp_path / "seg" / "x.png")
    folder = str(tmp_path / "seg")
    given = MaskSource(kind=folder, classes=("nothing", "Warm"), pseudo="a threshold")
    found = read_mask_set(str(tmp_path / "ir"), given)
    assert found.classes == ("background", "warm") and found.masks == f"{PSEUDO}: a threshold"
    assert (labels_of(found)[12:28, 20:36] == 1).all()
    nobodys = read_mask_set(str(tmp_path / "ir"), MaskSource(kind=folder, classes=("nothing", "Ignore", "warm")))
    assert nobodys.classes == ("background", "warm") and (labels_of(nobodys)[12:28, 20:36] == IGNORED).all()
    with pytest.raises(ConfigError, match="--mask-classes"):
        read_mask_set(str(tmp_path / "ir"), MaskSource(kind=folder))
    with pytest.raises(DataError, match="own, boxes or a folder"):
        read_mask_set(str(tmp_path / "ir"), MaskSource(kind="bokses", classes=("a", "b")))
    with pytest.raises(ConfigError, match="goes with a folder"):
        read_mask_set(str(tmp_path / "ir"), MaskSource(kind="boxes", classes=("a", "b")))


def test_a_label_picture_is_never_given_to_two_pictures(tmp_path: Path):
    def save(*names: str) -> None:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((picture() > 100).astype(np.uint8)).save(tmp_path / name)

    def masks() -> tuple[dict[str, str], list[tuple[str, str]]]:
        found = read_mask_set(str(tmp_path), MaskSource(kind=str(tmp_path / "seg"), classes=("nothing", "warm")))
        held = {p.picture_id: str(Path(p.mask.name).relative_to(tmp_path / "seg")) for p in found.pictures if p.mask}
        return held, [(fault.pair_id, fault.code) for fault in found.faults]

    save(*(f"{side}/{name}.png" for side in ("visible", "infrared") for name in ("a/1", "b/1", "b/2", "3")))
    save("seg/1.png", "seg/2.png", "seg/x/3.png", "seg/y/3.png")
    assert masks() == (
        {"b/2": "2.png"},
        [("3", "ambiguous_mask"), ("a/1", "ambiguous_mask"), ("b/1", "ambiguous_mask")],
    )
    save("seg/a/1.png", "seg/b/1.png", "seg/3.png")
    assert masks() == ({"3": "3.png", "a/1": "a/1.png", "b/1": "b/1.png", "b/2": "2.png"}, [])
    for name in ("1", "b/1"):
        (tmp_path / "seg" / f"{name}.png").unlink()
    assert masks()[1] == [("b/1", "no_mask")]


def test_a_label_picture_that_may_be_of_another_part_is_not_guessed(tmp_path: Path):
    for name in ("visible/train/1", "visible/test/1", "infrared/train/1", "infrared/test/1", "seg/1"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture()).save(tmp_path / f"{name}.png")
    with pytest.raises(DataError, match="ambiguous_mask"):
        read_mask_set(str(tmp_path), MaskSource(kind=str(tmp_path / "seg"), classes=("a", "b")), splits=("train",))


def test_examples_carry_labels_at_the_models_size(tmp_path: Path):
    found = read_mask_set(str(write_coco(tmp_path, SQUARE)))
    example = PictureReader((80, 120), InfraredMapping()).example(found.pictures[0])
    assert example.labels_HW is not None and example.labels_HW.shape == (80, 120)
    assert (example.labels_HW[24:56, 40:72] == 1).all() and example.labels_HW.sum() == 32 * 32
    half = fit_labels(labels_of(found), (20, 30))
    assert set(np.unique(half)) == {0, 1}


def test_another_mask_is_another_set_to_a_training(tmp_path: Path):
    first = sha256_of(read_mask_set(str(write_coco(tmp_path, SQUARE))))
    assert first == sha256_of(read_mask_set(str(write_coco(tmp_path, SQUARE))))
    assert first != sha256_of(read_mask_set(str(write_coco(tmp_path, [[20, 12, 30, 12, 30, 28]]))))
