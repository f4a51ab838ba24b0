"""Every layout of pairs is read as its makers wrote it, and each fault is counted by its pair."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from system.errors import ConfigError, DataError, FormatError
from system.pairs.infrared_set import read_infrared_set
from system.pairs.pixels import read_mask, read_pair
from system.pairs.registry import open_pairs

BOX = [2, 3, 10, 8]


def picture(path: Path, channels: int = 3, size: tuple[int, int] = (32, 40), seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = size if channels == 1 else (*size, channels)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(path)
    return path


def pair(root: Path, rgb: str, infrared: str) -> None:
    picture(root / rgb)
    picture(root / infrared, channels=1)


def coco(path: Path, names: list[tuple[str, str]], boxes: list[list[float]], **extra: object) -> Path:
    images = [
        {"id": k, "file_name": a, "file_name2": b, "width": 40, "height": 32} | extra for k, (a, b) in enumerate(names)
    ]
    annotations = [{"id": k, "image_id": 0, "category_id": 3, "bbox": box} for k, box in enumerate(boxes)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "car"}]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("place", ["all.json", "labels/all.json", "labels/det/all.json"])
def test_coco_paths_are_found_from_the_file_its_parent_or_its_grandparent(tmp_path: Path, place: str):
    pair(tmp_path, "visible/1.png", "infrared/1.png")
    corpus = open_pairs(str(coco(tmp_path / place, [("visible/1.png", "infrared\\1.png")], [BOX], daynight="night")))
    (found,) = corpus.pairs
    assert (found.pair_id, found.light, found.is_labelled, corpus.categories) == ("1", "night", True, ("car",))
    np.testing.assert_array_equal(found.boxes_xyxy, [[2, 3, 12, 11]])
    assert found.boxes_xyxy.dtype == np.float32 and found.labels.dtype == np.int64 and found.is_ignored.dtype == bool


def test_a_pair_that_its_file_marks_as_without_boxes_is_not_labelled(tmp_path: Path):
    for n in range(2):
        pair(tmp_path, f"a/{n}.png", f"b/{n}.png")
    file = coco(tmp_path / "c.json", [(f"a/{n}.png", f"b/{n}.png") for n in range(2)], [BOX])
    content = json.loads(file.read_text())
    content["images"][1]["has_boxes"] = False
    file.write_text(json.dumps(content))
    assert [found.is_labelled for found in open_pairs(str(file)).pairs] == [True, False]


def test_boxes_outside_their_picture_are_dropped_and_counted_and_the_pair_is_kept(tmp_path: Path):
    pair(tmp_path, "a/1.png", "b/1.png")
    boxes = [BOX, [100, 3, 5, 5], [30, 3, 50, 5], [5, 5, 0, 4], [float("nan"), 1, 2, 3]]
    corpus = open_pairs(str(coco(tmp_path / "c.json", [("a/1.png", "b/1.png")], boxes)))
    np.testing.assert_array_equal(corpus.pairs[0].boxes_xyxy, [[2, 3, 12, 11], [30, 3, 40, 8]])
    codes = sorted(fault.code for fault in corpus.faults)
    assert codes == ["box_cut", "box_outside", "empty_box", "not_finite"]
    assert not any(fault.is_skipped for fault in corpus.faults)


@pytest.mark.parametrize(
    "path", ["../outside.png", "/etc/passwd.png", "C:\\x.png", "s3://bucket/x.png", "a/../../x.png"]
)
def test_paths_that_leave_the_corpus_are_refused(tmp_path: Path, path: str):
    pair(tmp_path / "corpus", "a/1.png", "b/1.png")
    picture(tmp_path / "outside.png")
    file = coco(tmp_path / "corpus/c.json", [("a/1.png", "b/1.png"), (path, "b/1.png")], [])
    corpus = open_pairs(str(file))
    assert len(corpus.pairs) == 1
    assert [fault.code for fault in corpus.faults] == ["path_escapes"]


def test_missing_partners_are_named(tmp_path: Path):
    pair(tmp_path, "a/1.png", "b/1.png")
    picture(tmp_path / "a/2.png")
    corpus = open_pairs(str(coco(tmp_path / "c.json", [("a/1.png", "b/1.png"), ("a/2.png", "b/2.png")], [])))
    assert [fault.code for fault in corpus.faults] == ["missing_file"] and corpus.unmatched == ()
    assert "b/2.png: expected a picture" in corpus.faults[0].message


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"images": [1]}', '{"images": [{"id": 1, "file_name": "a"}], "annotations": 3}']
)
def test_damaged_coco_is_one_clear_error(tmp_path: Path, content: str):
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(DataError, match=r"c\.json"):
        open_pairs(str(tmp_path / "c.json"))


def test_plain_folders_match_by_stem_and_name_the_rest(tmp_path: Path):
    pair(tmp_path, "rgb/a/1.jpg", "thermal/a/1.png")
    picture(tmp_path / "rgb/only.png")
    picture(tmp_path / "thermal/a/2.png", channels=1)
    picture(tmp_path / "rgb/._1.png")
    corpus = open_pairs(str(tmp_path))
    assert (corpus.reader, [p.pair_id for p in corpus.pairs]) == ("folders", ["a/1"])
    assert [Path(name).name for name in corpus.unmatched] == ["only.png", "2.png"]
    named = open_pairs(f"{tmp_path}/rgb::{tmp_path}/thermal")
    assert [p.pair_id for p in named.pairs] == ["a/1"]


def test_words_for_the_modality_are_taken_off_where_whole_names_find_nobody(tmp_path: Path):
    pair(tmp_path, "rgb/1_rgb.png", "ir/1_ir.png")
    assert [p.pair_id for p in open_pairs(str(tmp_path)).pairs] == ["1"]


@pytest.mark.parametrize(("rgb", "thermal"), [("rgb", "ir"), ("RGB", "thermal_8_bit")])
def test_parts_of_other_names_are_the_parts_that_are_learnt_from_and_judged(tmp_path: Path, rgb: str, thermal: str):
    expected = {"Train": "train", "training": "train", "valid": "val", "Validation": "val", "TEST": "test"}
    for part in expected:
        pair(tmp_path, f"{part}/{rgb}/1.png", f"{part}/{thermal}/1.png")
    corpus = open_pairs(str(tmp_path))
    assert {p.pair_id: p.split for p in corpus.pairs} == {f"{part}/1": split for part, split in expected.items()}
    pair(tmp_path / "sides", "visible/validation/1.jpg", "infrared/validation/1.jpg")
    assert [p.split for p in open_pairs(str(tmp_path / "sides")).pairs] == ["val"]


def test_two_pictures_of_one_name_are_not_guessed_between(tmp_path: Path):
    pair(tmp_path, "rgb/1.png", "ir/1.png")
    pair(tmp_path, "rgb/2.png", "ir/2.png")
    picture(tmp_path / "rgb/1.jpg")
    corpus = open_pairs(str(tmp_path))
    assert [p.pair_id for p in corpus.pairs] == ["2"]
    assert [(f.pair_id, f.code) for f in corpus.faults] == [("1", "ambiguous_name")]


def test_kaist_light_classes_and_subsets(tmp_path: Path):
    for name in ("set00/V000/{}/I00001", "set10/V001/{}/I00007"):
        pair(tmp_path, f"images/{name.format('visible')}.png", f"images/{name.format('lwir')}.png")
    text = tmp_path / "annotations/set00/V000/I00001.txt"
    text.parent.mkdir(parents=True)
    text.write_text(
        "% bbGt version=3\nperson 1 2 30 40 0 0 0 0 0 0 0\nperson? 5 6 7 8 0 0 0 0 0 0 0\n"
        "cyclist 1 1 9 9 0 0 0 0 0 1 0\ntram 1 1 2 2 0 0 0 0 0 0 0\n"
    )
    corpus = open_pairs(str(tmp_path))
    first, second = corpus.pairs
    assert (corpus.reader, first.pair_id, first.light, first.split) == ("kaist", "set00/V000/I00001", "day", "train")
    assert (first.labels.tolist(), first.is_ignored.tolist()) == ([0, 0, 1], [False, True, True])
    assert (second.light, second.split, second.is_labelled) == ("night", "test", False)
    assert [fault.code for fault in corpus.faults] == ["bad_annotation"]
    names = tmp_path / "imageSets/mine.txt"
    names.parent.mkdir()
    names.write_text("set10/V001/visible/I00007\nset10/V001/I09999\n")
    subset = open_pairs(str(names))
    assert ([p.pair_id for p in subset.pairs], subset.unmatched) == (["set10/V001/I00007"], ("set10/V001/I09999",))
    assert subset.pairs[0].split == "", "whoever names a list means its pairs"
    names.rename(named := names.with_name("test-all-20.txt"))
    assert open_pairs(str(named)).pairs[0].split == "test"


def test_flir_of_2018_takes_the_middle_of_the_wider_view(tmp_path: Path):
    picture(tmp_path / "train/RGB/FLIR_00001.jpg", size=(64, 120))
    picture(tmp_path / "train/thermal_8_bit/FLIR_00001.jpeg", channels=1)
    coco(tmp_path / "train/thermal_annotations.json", [("thermal_8_bit/FLIR_00001.jpeg", "")], [BOX])
    corpus = open_pairs(str(tmp_path))
    (found,) = corpus.pairs
    assert (corpus.reader, corpus.categories, found.split, found.alignment) == ("flir", ("car",), "train", "unknown")
    assert len(found.boxes_xyxy) == 1
    assert read_pair(found).rgb_HWC.shape == (32, 40, 3)


def test_flir_pictures_that_nobody_labelled_are_not_without_objects(tmp_path: Path):
    names = ["given", "marked", "unlisted"]
    for name in names:
        pair(tmp_path, f"train/RGB/{name}.jpg", f"train/thermal_8_bit/{name}.jpeg")
    listed = [(f"thermal_8_bit/{name}.jpeg", "") for name in names[:2]]
    file = coco(tmp_path / "train/thermal_annotations.json", listed, [BOX])
    content = json.loads(file.read_text())
    content["images"][1]["has_boxes"] = False
    file.write_text(json.dumps(content))
    assert [found.is_labelled for found in open_pairs(str(tmp_path)).pairs] == [True, False, False]
    file.write_text(json.dumps({key: value for key, value in content.items() if key != "annotations"}))
    assert not any(found.is_labelled for found in open_pairs(str(tmp_path)).pairs)


def test_flir_pictures_that_are_listed_twice_have_no_labels_because_boxes_may_be_on_either_entry(tmp_path: Path):
    for name in ("a", "b"):
        pair(tmp_path, f"val/RGB/{name}.jpg", f"val/thermal_8_bit/{name}.jpeg")
    listed = ["thermal_8_bit/a.jpeg", "thermal_8_bit/b.jpeg", "a.jpeg"]
    coco(tmp_path / "val/thermal_annotations.json", [(name, "") for name in listed], [BOX])
    corpus = open_pairs(str(tmp_path))
    assert [(p.pair_id, len(p.labels), p.is_labelled) for p in corpus.pairs] == [
        ("val/a", 0, False),
        ("val/b", 0, True),
    ]
    assert [(f.pair_id, f.code, f.is_skipped) for f in corpus.faults] == [("val/a", "listed_twice", False)]
    assert "thermal_annotations.json: a is listed 2 times" in corpus.faults[0].message
    found = read_infrared_set(str(tmp_path))
    assert [p.picture_id for p in found.pictures] == ["val/b"]
    assert [(f.pair_id, f.code, f.is_skipped) for f in found.faults] == [("val/a", "listed_twice", True)]


def test_a_pair_that_a_coco_file_lists_twice_has_no_labels_and_two_partners_are_not_guessed_between(tmp_path: Path):
    for name in "abc":
        pair(tmp_path, f"rgb/{name}.png", f"ir/{name}.png")
    listed = [
        ("rgb/a.png", "ir/a.png"),
        ("rgb/a.png", "ir/a.png"),
        ("rgb/b.png", "ir/b.png"),
        ("rgb/b.png", "ir/c.png"),
    ]
    corpus = open_pairs(str(coco(tmp_path / "x.json", [*listed, ("rgb/c.png", "ir/c.png")], [BOX])))
    assert [(p.pair_id, len(p.labels), p.is_labelled) for p in corpus.pairs] == [("rgb/a", 0, False), ("c", 0, True)]
    assert [(f.pair_id, f.is_skipped) for f in corpus.faults if f.code == "listed_twice"] == [
        ("rgb/a", False), ("rgb/b", True), ("rgb/b", True),
    ]  # fmt: skip


def test_flir_boxes_of_8_bit_names_are_those_of_16_bit_pictures(tmp_path: Path):
    for part in ("train", "val"):
        pair(tmp_path, f"{part}/RGB/a.jpg", f"{part}/thermal_16_bit/a.tiff")
    coco(tmp_path / "train/thermal_annotations.json", [("thermal_8_bit/a.jpeg", "")], [BOX])
    corpus = open_pairs(str(tmp_path))
    assert [(p.pair_id, p.is_labelled, len(p.labels)) for p in corpus.pairs] == [
        ("train/a", True, 1), ("val/a", False, 0),
    ]  # fmt: skip


def test_flir_of_2022_follows_the_map_of_names(tmp_path: Path):
    pair(tmp_path, "images_rgb_train/data/x.jpg", "images_thermal_train/data/x.jpg")
    pair(tmp_path, "video_rgb_test/data/v-rgb.jpg", "video_thermal_test/data/v-ir.jpg")
    picture(tmp_path / "images_rgb_train/data/alone.jpg")
    coco(tmp_path / "images_thermal_train/coco.json", [("data/x.jpg", "")], [BOX])
    (tmp_path / "rgb_to_thermal_vid_map.json").write_text(json.dumps({"v-rgb.jpg": "v-ir.jpg"}))
    corpus = open_pairs(str(tmp_path))
    # Videos are learnt from and judged as the pictures of their part are.
    assert {p.pair_id: p.split for p in corpus.pairs} == {"train/x": "train", "video_test/v-ir": "test"}
    assert [len(p.boxes_xyxy) for p in corpus.pairs] == [1, 0]
    assert [Path(name).name for name in corpus.unmatched] == ["alone.jpg"]


def voc(path: Path, extra: str = "") -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        f"{extra}<annotation><size><width>40</width><height>32</height></size><object><name>person</name><bndbox>"
        "<xmin>1</xmin><ymin>2</ymin><xmax>11</xmax><ymax>22</ymax></bndbox></object></annotation>"
    )


def test_llvip_reads_voc_and_refuses_entities(tmp_path: Path):
    for number in (1, 2, 3):
        pair(tmp_path, f"visible/train/{number}.jpg", f"infrared/train/{number}.jpg")
    voc(tmp_path / "Annotations/1.xml")
    voc(tmp_path / "Annotations/2.xml", '<!DOCTYPE x [<!ENTITY a "b">]>')
    corpus = open_pairs(str(tmp_path))
    assert (corpus.reader, corpus.categories, corpus.pairs[0].split) == ("llvip", ("person",), "train")
    np.testing.assert_array_equal(corpus.pairs[0].boxes_xyxy, [[1, 2, 11, 22]])
    assert [p.is_labelled for p in corpus.pairs] == [True, False, False]
    assert [(f.pair_id, f.code, f.is_skipped) for f in corpus.faults] == [("train/2", "bad_annotation", False)]


def test_mfnet_splits_four_channels_and_leaves_mirrored_copies_out(tmp_path: Path):
    for name in ("00001D", "00002N", "00002N_flip"):
        picture(tmp_path / f"images/{name}.png", channels=4)
        picture(tmp_path / f"labels/{name}.png", channels=1)
    corpus = open_pairs(str(tmp_path))
    assert (corpus.reader, [(p.pair_id, p.light) for p in corpus.pairs]) == (
        "mfnet",
        [("00001D", "day"), ("00002N", "night")],
    )
    pixels = read_pair(corpus.pairs[0])
    stored = np.array(Image.open(tmp_path / "images/00001D.png"))
    np.testing.assert_array_equal(pixels.rgb_HWC, stored[..., :3])
    np.testing.assert_array_equal(pixels.infrared_HWC[..., 0], stored[..., 3])
    assert read_mask(corpus.pairs[0].mask_uri).shape == (32, 40)
    assert corpus.mask_classes[2] == "person"


def test_msrs_knows_light_and_masks(tmp_path: Path):
    pair(tmp_path, "train/vi/00001D.png", "train/ir/00001D.png")
    picture(tmp_path / "train/Segmentation_labels/00001D.png", channels=1)
    corpus = open_pairs(str(tmp_path))
    (found,) = corpus.pairs
    assert (corpus.reader, found.pair_id, found.light, found.alignment) == ("msrs", "train/00001D", "day", "registered")
    assert found.mask_uri.endswith("Segmentation_labels/00001D.png")


def test_empty_folders_and_strangers_are_told_apart(tmp_path: Path):
    with pytest.raises(FormatError, match="empty folder"):
        open_pairs(str(tmp_path))
    (tmp_path / "visible").mkdir()
    (tmp_path / "infrared").mkdir()
    with pytest.raises(DataError, match="found none"):
        open_pairs(str(tmp_path))
    picture(tmp_path / "other/x.png")
    with pytest.raises(FormatError, match=r"kaist: \[images/\]setXX"):
        open_pairs(str(tmp_path / "other"))
    with pytest.raises(DataError, match="found nothing"):
        open_pairs(str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="auto, coco"):
        open_pairs(str(tmp_path), "nonsense")


def test_real_corpora_are_read_whole(data_root: Path):
    expected = {
        "MSRS": ("msrs", 224),
        "MSRS/labels_det/coco_infrared_train.json": ("coco", 182),
        "MSRS/splits/val.txt": ("msrs", 42),
        "RoadScene/labels_det/coco_train.json": ("coco", 176),
        "KAIST_sample": ("kaist", 9),
        "LLVIP_sample": ("llvip", 2),
    }
    for path, (reader, count) in expected.items():
        corpus = open_pairs(str(data_root / "pairs" / path))
        assert (corpus.reader, len(corpus.pairs), corpus.unmatched, corpus.faults) == (reader, count, (), ()), path
