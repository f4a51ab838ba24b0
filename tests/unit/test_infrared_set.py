"""Labelled infrared pictures are read from every form, and what is wrong with them is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from system.errors import ConfigError, DataError
from system.pairs.coco_file import read_coco
from system.pairs.infrared_set import InfraredSet, read_infrared_set
from system.pairs.pixels import InfraredMapping, picture_size, read_infrared
from system.training import detection_study
from system.training.detect import gather_labelled, refuse_left_out
from system.training.detection_study import DetectionStudyConfig, study_sets
from tests.infrared_corpora import VOC, coco, kaist, picture


def test_classes_are_matched_by_name_and_nobodys_regions_are_ignored_for_all(tmp_path: Path):
    picture(tmp_path / "ir" / "a.png")
    boxes = [(1, 0, [1, 1, 5, 9], 0), (1, 1, [9, 1, 9, 9], 0), (1, 2, [20, 20, 9, 9], 0), (1, 3, [2, 2, 3, 3], 0)]
    uri = coco(
        tmp_path / "l" / "x.json", [{"id": 1, "file_name": "ir/a.png"}], boxes, ["Person", "Car", "DontCare", "Elk"]
    )
    found = read_infrared_set(uri).of_classes(("car", "person", "bicycle"))
    (only,) = found.pictures
    told = sorted(zip(only.labels.tolist(), only.is_ignored.tolist(), only.boxes_xyxy[:, 0].tolist(), strict=True))
    assert told == [(0, False, 9.0), (0, True, 20.0), (1, False, 1.0), (1, True, 20.0), (2, True, 20.0)]
    assert read_infrared_set(uri).shown_classes() == ("person", "car", "elk")
    assert found.counts() == {"car": 1, "person": 1, "bicycle": 0}
    with pytest.raises(ConfigError, match="expected one of ship"):
        read_infrared_set(uri).of_classes(("ship",))


def test_what_is_wrong_is_a_counted_fault_and_the_rest_is_read(tmp_path: Path):
    picture(tmp_path / "a.png")
    images = [
        {"id": 1, "file_name": "a.png"},
        {"id": 2, "file_name": "gone.png"},
        {"id": 3, "file_name": "../../etc.png"},
    ]
    boxes = [(1, 0, [1, 1, 0, 9], 0), (1, 0, [90, 1, 5, 9], 0), (1, 9, [1, 1, 5, 5], 0), (1, 0, [1, 1, 5, 5], 1)]
    found = read_infrared_set(coco(tmp_path / "x.json", images, boxes, ["person"]))
    assert len(found.pictures) == 1 and found.pictures[0].is_ignored.tolist() == [True]
    assert sorted(fault.code for fault in found.faults) == [
        "bad_annotation", "box_outside", "empty_box", "missing_file", "path_escapes",
    ]  # fmt: skip


def test_boxes_are_held_against_the_picture_where_no_size_is_stated(tmp_path: Path):
    picture(tmp_path / "a.png")  # 40 x 32
    images = [{"id": 1, "file_name": "a.png", "width": None, "height": None}]
    boxes = [(1, 0, [90, 1, 5, 9], 0), (1, 0, [30, 20, 60, 60], 0), (1, 0, [1, 1, 5, 5], 0)]
    found = read_infrared_set(coco(tmp_path / "x.json", images, boxes, ["person"]))
    assert sorted(fault.code for fault in found.faults) == ["box_cut", "box_outside"]
    (only,) = found.pictures
    assert only.boxes_xyxy.tolist() == [[30, 20, 40, 32], [1, 1, 6, 6]] and (only.width, only.height) == (40, 32)


def test_a_picture_whose_size_cannot_be_told_is_left_to_who_reads_it(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    images = [{"id": 1, "file_name": "a.png", "width": 0, "height": None}]
    found = read_infrared_set(coco(tmp_path / "x.json", images, [(1, 0, [90, 1, 5, 9], 0)], ["person"]))
    assert found.pictures[0].width is None and len(found.pictures[0].boxes_xyxy) == 1


def test_sizes_of_every_form_are_read_from_the_head_of_a_file(tmp_path: Path):
    for form in ("png", "jpg", "tif", "bmp", "webp", "pgm"):
        path = tmp_path / f"a.{form}"
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (320, 400), dtype=np.uint8)).save(path)
        assert picture_size(str(path)) == (320, 400), form


@pytest.mark.parametrize("wrong", ["Infinity", "NaN", '"elk"', "1.5", "null", "[1]"])
def test_a_category_that_is_no_whole_number_names_the_file_and_the_annotation(tmp_path: Path, wrong: str):
    picture(tmp_path / "a.png")
    uri = coco(tmp_path / "x.json", [{"id": 1, "file_name": "a.png"}], [(1, 0, [1, 1, 5, 5], 0)] * 3, ["person"])
    text = (
        Path(uri)
        .read_text()
        .replace('"id": 1, "image_id": 1, "category_id": 0', f'"id": 1, "image_id": 1, "category_id": {wrong}')
    )
    Path(uri).write_text(text)
    with pytest.raises(DataError, match=r"x\.json: annotation 1: category_id") as raised:
        read_infrared_set(uri)
    assert raised.value.code == "not_coco"


def test_a_category_with_an_endless_id_and_boxes_without_an_end_are_no_traceback(tmp_path: Path):
    picture(tmp_path / "a.png")
    uri = coco(tmp_path / "x.json", [{"id": 1, "file_name": "a.png"}], [(1, 0, [1, 1, float("inf"), 5], 0)], ["person"])
    assert [fault.code for fault in read_infrared_set(uri).faults] == ["not_finite"]
    assert not read_coco(uri).outlines.get(1)
    Path(uri).write_text(Path(uri).read_text().replace('{"id": 0, "name"', '{"id": Infinity, "name"'))
    with pytest.raises(DataError, match="each of 'categories' needs an id"):
        read_infrared_set(uri)


def test_a_file_most_of_whose_annotations_are_of_unknown_categories_is_refused(tmp_path: Path):
    picture(tmp_path / "a.png")
    boxes = [(1, label, [1, 1, 5, 5], 0) for label in (0, 7, 7, 9)]
    uri = coco(tmp_path / "x.json", [{"id": 1, "file_name": "a.png"}], boxes, ["person"])
    with pytest.raises(DataError, match=r"x\.json: 3 of 4 annotations.*7, 9; listed: 0") as raised:
        read_infrared_set(uri)
    assert raised.value.code == "unknown_class"


def test_annotations_of_images_that_are_not_listed_are_refused_when_they_are_most(tmp_path: Path):
    picture(tmp_path / "a.png")
    uri = coco(tmp_path / "x.json", [{"id": "1", "file_name": "a.png"}], [(1, 0, [1, 1, 5, 5], 0)], ["person"])
    with pytest.raises(DataError, match=r"1 of 1 annotations.*no image has the id 1; .*equal in type too \('1'\)"):
        read_infrared_set(uri)


def test_a_picture_that_is_listed_twice_is_left_out_because_boxes_may_be_on_either_entry(tmp_path: Path):
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
    images = [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}, {"id": 3, "file_name": "a.png"}]
    uri = coco(tmp_path / "x.json", images, [(n, 0, [1, 1, 5, 5], 0) for n in (1, 2, 3)], ["person"])
    found = read_infrared_set(uri)
    assert [p.picture_id for p in found.pictures] == ["b.png"]
    assert [fault.code for fault in found.faults] == ["listed_twice"] * 2


def test_a_colour_picture_without_a_partner_is_not_taken_for_infrared(tmp_path: Path):
    for name in ("rgb/a.png", "rgb/b.png", "ir/a.png"):
        picture(tmp_path / name)
    images = [{"id": 1, "file_name": "rgb/a.png", "file_name2": "ir/a.png"}, {"id": 2, "file_name": "rgb/b.png"}]
    uri = coco(tmp_path / "x.json", images, [(n, 0, [1, 1, 5, 5], 0) for n in (1, 2)], ["person"])
    found = read_infrared_set(uri)
    assert [p.picture_id for p in found.pictures] == ["ir/a.png"]
    assert [(f.pair_id, f.code, f.is_skipped) for f in found.faults] == [("rgb/b.png", "no_partner", True)]


def test_pictures_named_from_the_root_are_not_called_missing(tmp_path: Path):
    picture(tmp_path / "a.png")
    uri = coco(tmp_path / "x.json", [{"id": 1, "file_name": str(tmp_path / "a.png")}], [], ["person"])
    with pytest.raises(DataError, match="named from the root"):
        read_infrared_set(uri)


def test_objects_that_nobody_learns_are_told(tmp_path: Path):
    picture(tmp_path / "a.png")
    boxes = [(1, 0, [1, 1, 5, 5], 0), (1, 1, [9, 9, 5, 5], 0), (1, 1, [20, 9, 5, 5], 0)]
    uri = coco(tmp_path / "x.json", [{"id": 1, "file_name": "a.png"}], boxes, ["person", "people"])
    joined = gather_labelled((uri,), None, ("person",))
    assert ["2 people" in fault.message and not fault.is_skipped for fault in joined.faults] == [True]
    assert not gather_labelled((uri,), None, ()).faults


def test_ignored_regions_of_visdrone_are_nobodys_in_any_letters(tmp_path: Path):
    picture(tmp_path / "a.png")
    names = ["pedestrian", "Ignored Regions", "IGNORED REGION"]
    boxes = [(1, n, [1 + n, 1, 5, 5], 0) for n in range(3)]
    uri = coco(tmp_path / "x.json", [{"id": 1, "file_name": "a.png"}], boxes, names)
    (only,) = read_infrared_set(uri).of_classes(("pedestrian",)).pictures
    assert only.is_ignored.tolist() == [False, True, True]
    assert not gather_labelled((uri,), None, ("pedestrian",)).faults


def test_classes_may_be_named_in_whose_boxes_nothing_is_right_or_wrong(tmp_path: Path):
    picture(tmp_path / "a.png")
    names = ["person", "people", "Person?", "cyclist", "dontcare"]
    boxes = [(1, n, [1 + n, 1, 5, 5], 0) for n in range(5)]
    uri = coco(tmp_path / "x.json", [{"id": 1, "file_name": "a.png"}], boxes, names)
    found = gather_labelled((uri,), None, ("person",), ignored=("people", "person?"))
    (only,) = found.pictures
    assert (only.labels.tolist(), only.is_ignored.tolist()) == ([0] * 4, [False, True, True, True])
    assert found.counts() == {"person": 1}
    (told,) = found.faults
    assert "1 cyclist: not among the classes" in told.message
    everything = gather_labelled((uri,), None, (), ignored=("people", "person?"))
    assert everything.classes == ("person", "cyclist") and not everything.faults


def test_ignored_classes_that_are_unknown_or_learnt_are_refused(tmp_path: Path):
    picture(tmp_path / "a.png")
    image, boxes = [{"id": 1, "file_name": "a.png"}], [(1, 0, [1, 1, 5, 5], 0), (1, 1, [9, 1, 5, 5], 0)]
    uri = coco(tmp_path / "x.json", image, boxes, ["person", "people"])
    with pytest.raises(ConfigError, match=r"--ignore tram: not known to x, which knows person, people"):
        gather_labelled((uri,), None, ("person",), ignored=("people", "tram"))
    with pytest.raises(ConfigError, match=r"--ignore person: .*one of person"):
        gather_labelled((uri,), None, ("person",), ignored=("person",))
    # A class of one set alone is known.
    other = coco(tmp_path / "y.json", image, boxes[:1], ["person"])
    val = read_infrared_set(uri)
    assert len(gather_labelled((other, uri), None, ("person",), ignored=("people",)).pictures) == 2
    assert len(gather_labelled((other,), None, ("person",), ignored=("people",), val=val).pictures) == 1


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ({"images": []}, "no_pictures"),
        ({"images": [{"id": 1, "file_name": "a.png"}]}, "not_labelled"),
        ({"images": [{"id": 1, "file_name": "gone.png"}], "annotations": [], "categories": []}, "missing_file"),
    ],
)
def test_a_set_without_pictures_or_labels_is_refused(tmp_path: Path, content: dict, code: str):
    picture(tmp_path / "a.png")
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(DataError) as raised:
        read_infrared_set(str(tmp_path / "x.json"))
    assert raised.value.code == code


def test_the_spellings_of_hit_uav_are_read_too(tmp_path: Path):
    """Its own files say `filename` and `annotation`."""
    picture(tmp_path / "a.png")
    uri = coco(tmp_path / "x.json", [{"id": 1, "file_name": "a.png"}], [(1, 0, [1, 1, 5, 5], 0)], ["Person"])
    content = json.loads(Path(uri).read_text())
    content["annotation"] = content.pop("annotations")
    content["images"][0]["filename"] = content["images"][0].pop("file_name")
    Path(uri).write_text(json.dumps(content))
    found = read_infrared_set(uri)
    assert found.counts() == {"person": 1} and [p.picture_id for p in found.pictures] == ["a.png"]
    content["annotation"] = {"id": 1}
    Path(uri).write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"x\.json: expected 'annotation' to be a list of objects"):
        read_infrared_set(uri)


def test_a_relative_path_is_one_from_where_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    picture(tmp_path / "a.png")
    coco(tmp_path / "x.json", [{"id": 1, "file_name": "a.png"}], [], ["person"])
    monkeypatch.chdir(tmp_path)
    assert read_infrared_set("x.json").pictures[0].uri == str(tmp_path / "a.png")
    assert read_infrared_set("x.json", ".").pictures[0].uri == str(tmp_path / "a.png")


def test_the_pictures_folder_can_be_named(tmp_path: Path):
    picture(tmp_path / "elsewhere" / "a.png")
    uri = coco(tmp_path / "labels" / "deep" / "er" / "x.json", [{"id": 1, "file_name": "a.png"}], [], ["person"])
    with pytest.raises(DataError, match=r"name their folder: .*x\.json::FOLDER"):
        read_infrared_set(uri)
    assert len(read_infrared_set(uri, str(tmp_path / "elsewhere")).pictures) == 1
    assert len(read_infrared_set(f"{uri}::{tmp_path}/elsewhere").pictures) == 1


def test_pictures_that_are_missing_are_counted_once_where_a_part_is_held_out(tmp_path: Path):
    names = [f"{n}.png" for n in range(9)]
    for name in names:
        picture(tmp_path / name)
    images = [{"id": n, "file_name": name} for n, name in enumerate([*names, "gone.png"])]
    uri = coco(tmp_path / "x.json", images, [(n, 0, [1, 1, 8, 9], 0) for n in range(9)], ["person"])
    whole = read_infrared_set(uri)

    def sets(share: float) -> tuple[InfraredSet, dict[str, InfraredSet]]:
        study = DetectionStudyConfig(students="", train=uri, arms=("none",), hold_out=0.3)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(detection_study, "_MAX_BAD_SHARE", share)
            return study_sets(study, whole, lambda *_: whole)

    train, tests = sets(0.1)
    assert (len(train.pictures), len(tests["test"].pictures)) == (6, 3)
    assert len(train.faults) == 1 and not tests["test"].faults
    with pytest.raises(DataError, match="1 of 10 pictures are left out"):
        sets(0.09)


def test_a_held_out_part_leaves_pictures_and_every_class_to_learn_from(tmp_path: Path):
    for n in range(10):
        picture(tmp_path / f"{n}.png")
    images = [{"id": n, "file_name": f"{n}.png"} for n in range(10)]
    boxes = [(n, int(n >= 8), [1, 1, 8, 9], 0) for n in range(10)]
    whole = gather_labelled((coco(tmp_path / "x.json", images, boxes, ["person", "bus"]),), None, ())

    def sets(share: float, found: InfraredSet) -> tuple[InfraredSet, dict[str, InfraredSet]]:
        study = DetectionStudyConfig(students="", train="x.json", arms=("none",), hold_out=share)
        return study_sets(study, found, lambda *_: found)

    assert sets(0.1, whole)[0].counts() == {"person": 8, "bus": 1}
    with pytest.raises(DataError, match="x: without the part that is held out shows no bus to learn from"):
        sets(0.3, whole)
    assert sets(0.3, whole.of_classes(("person",)))[0].counts() == {"person": 7}
    with pytest.raises(ConfigError, match=r"--hold-out 0\.95 of 10 pictures of x leaves none to learn from"):
        sets(0.95, whole)


def test_a_study_refuses_what_cannot_be_read_before_it_trains(tmp_path: Path):
    for n in range(2):
        picture(tmp_path / f"{n}.png")
    images = [{"id": n, "file_name": f"{n}.png"} for n in range(2)]
    found = read_infrared_set(coco(tmp_path / "x.json", images, [(0, 0, [1, 1, 8, 9], 0)], ["person"]))
    detection_study.refuse_unreadable(found, InfraredMapping())
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:90])
    with pytest.raises(DataError, match=r"x: 1 pictures cannot be compared on, e\.g\. .*1\.png"):
        detection_study.refuse_unreadable(found, InfraredMapping())


def test_names_of_a_list_that_are_not_there_count_against_the_share_of_bad_pictures(tmp_path: Path):
    kaist(tmp_path, {"set00/V000/I00001": b"person 1 2 9 9\n"})
    names = tmp_path / "imageSets" / "train.txt"
    names.parent.mkdir()
    names.write_text("".join(f"set00/V000/I0000{n}\n" for n in range(1, 5)))
    found = gather_labelled((str(names),), None, ("person",))
    assert [(fault.code, fault.is_skipped) for fault in found.faults] == [("missing_file", True)] * 3
    with pytest.raises(DataError, match=r"3 of 4 pictures are left out.*set00/V000/I00002: missing_file"):
        refuse_left_out(found, 0.5)


def test_a_pair_whose_labels_are_damaged_is_left_out_and_one_without_labels_is_told(tmp_path: Path):
    good, bad = b"person 1 2 9 9\n", b"tram 1 1 2 2\nbus 1 1 2 2\n"
    texts = {"set00/V000/I00001": good, "set00/V000/I00002": bad, "set00/V000/I00003": b"\xff", "set06/V000/I1": bad}
    kaist(tmp_path, texts, bare=("set00/V000/I00004",))
    found = read_infrared_set(str(tmp_path), splits=("train",))
    assert [p.picture_id for p in found.pictures] == ["set00/V000/I00001"]
    assert sorted((fault.pair_id[-6:], fault.code) for fault in found.faults if fault.is_skipped) == [
        ("I00002", "bad_annotation"), ("I00003", "bad_annotation"),
    ]  # fmt: skip
    (bare,) = [fault for fault in found.faults if not fault.is_skipped]
    assert bare.code == "not_labelled" and "1 of 4 pictures" in bare.message
    everywhere = [fault.pair_id for fault in read_infrared_set(str(tmp_path)).faults if fault.is_skipped]
    assert everywhere == ["set00/V000/I00002", "set00/V000/I00003", "set06/V000/I1"]


def test_pictures_that_an_export_marks_as_without_boxes_are_no_background(tmp_path: Path):
    for n in range(3):
        picture(tmp_path / f"{n}.png")
    images = [{"id": n, "file_name": f"{n}.png", "has_boxes": n < 2} for n in range(3)]
    uri = coco(tmp_path / "x.json", images, [(0, 0, [1, 1, 8, 9], 0)], ["person"])
    found = gather_labelled((uri,), None, ())
    # An empty picture that somebody looked at is background.
    assert [(p.picture_id, len(p.labels)) for p in found.pictures] == [("0.png", 1), ("1.png", 0)]
    (told,) = found.faults
    assert told.code == "not_labelled" and "1 of 3 pictures" in told.message and not told.is_skipped
    assert len(read_infrared_set(uri, needs_boxes=False).pictures) == 3
    with pytest.raises(DataError, match=r"x.json: expected boxes, found 2 pictures whose has_boxes is false"):
        read_infrared_set(coco(tmp_path / "x.json", [image | {"has_boxes": False} for image in images[:2]], [], []))


def test_a_damaged_file_of_a_part_of_flir_leaves_its_pairs_out(tmp_path: Path):
    for part in ("train", "val"):
        picture(tmp_path / part / "RGB" / "a.png")
        picture(tmp_path / part / "thermal_8_bit" / "a.png")
    images = [{"id": 1, "file_name": "a.png"}]
    coco(tmp_path / "train" / "thermal_annotations.json", images, [(1, 0, [1, 1, 5, 5], 0)], ["car"])
    (tmp_path / "val" / "thermal_annotations.json").write_text("{")
    found = read_infrared_set(str(tmp_path))
    assert [(f.pair_id, f.code, f.is_skipped) for f in found.faults] == [("val/a", "bad_annotation", True)]
    assert not read_infrared_set(str(tmp_path), splits=("train",)).faults


def test_parts_of_a_corpus_are_taken_as_they_are_named(tmp_path: Path):
    (tmp_path / "Annotations").mkdir()
    for n, part in enumerate(("train", "train", "test")):
        for kind in ("visible", "infrared"):
            folder = tmp_path / kind / part
            folder.mkdir(parents=True, exist_ok=True)
            shape = (32, 40, 3) if kind == "visible" else (32, 40)
            Image.fromarray(np.full(shape, 10 * n, np.uint8)).save(folder / f"{n:06d}.jpg")
        (tmp_path / "Annotations" / f"{n:06d}.xml").write_text(VOC)
    counts = {part: len(read_infrared_set(str(tmp_path), splits=(part,)).pictures) for part in ("train", "test")}
    assert counts == {"train": 2, "test": 1} and len(read_infrared_set(str(tmp_path)).pictures) == 3
    with pytest.raises(DataError, match="expected pairs of val, found those of test, train"):
        read_infrared_set(str(tmp_path), splits=("val",))


def test_colours_are_told_from_grey(tmp_path: Path):
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (32, 40, 1), dtype=np.uint8).repeat(3, 2)
    Image.fromarray(grey).save(tmp_path / "grey.jpg")
    Image.fromarray(rng.integers(0, 256, (32, 40, 3), dtype=np.uint8)).save(tmp_path / "colour.png")
    Image.fromarray(grey[..., 0]).convert("RGBA").save(tmp_path / "opaque.png")
    assert np.array_equal(read_infrared(str(tmp_path / "opaque.png")).pixels_HW, grey[..., 0])
    assert not read_infrared(str(tmp_path / "grey.jpg")).is_coloured
    assert read_infrared(str(tmp_path / "colour.png")).is_coloured


def test_real_sets_are_read_whole(data_root: Path):
    pairs = data_root / "pairs"
    msrs = read_infrared_set(str(pairs / "MSRS/labels_det/coco_infrared_train.json"))
    assert len(msrs.pictures) == 182 and msrs.counts() == {"person": 650, "bicycle": 78, "car": 216}
    assert all("infrared/" in p.uri for p in msrs.pictures) and not msrs.faults
    uav = read_infrared_set(str(pairs / "HITUAV_ir/labels_det/coco_train.json")).of_classes(
        ("person", "bicycle", "car")
    )
    assert uav.counts() == {"person": 128, "bicycle": 118, "car": 122}
    assert sum(p.is_ignored.sum() for p in uav.pictures) == 2 * 3
    assert not read_infrared(uav.pictures[0].uri).is_coloured
    voc = read_infrared_set(str(pairs / "LLVIP_sample"))
    assert len(voc.pictures) == 2 and voc.classes == ("person",)
