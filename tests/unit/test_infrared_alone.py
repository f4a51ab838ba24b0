"""Labelled infrared pictures without a partner are read where nothing else is needed, and told where pairs are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from system.errors import DataError, FormatError
from system.pairs import files
from system.pairs.infrared_set import read_infrared_set
from system.pairs.pixels import InfraredMapping
from system.pairs.registry import open_pairs
from system.training.probe_set import read_set
from tests.infrared_corpora import VOC, alone, picture


@pytest.mark.parametrize("layout", ["flir 2018", "flir 2022", "llvip", "kaist"])
def test_labelled_infrared_pictures_need_no_rgb_partner(tmp_path: Path, layout: str):
    alone(tmp_path, layout)
    for part in ("train", "test"):
        found = read_infrared_set(str(tmp_path), splits=(part,))
        assert [files.stem(p.picture_id) for p in found.pictures] == [f"{part}{n}" for n in range(3)]
        assert found.counts()["person"] == 3 and not found.faults
    # Whoever needs pairs is told of them as before.
    pairs = open_pairs(str(tmp_path))
    assert [files.stem(pair.pair_id) for pair in pairs.pairs] == ["test0", "train0"][:: -1 if layout == "kaist" else 1]
    assert sorted(map(files.stem, pairs.unmatched)) == ["test1", "test2", "train1", "train2"]
    assert not pairs.faults


@pytest.mark.parametrize("layout", ["flir 2018", "flir 2022", "llvip"])
def test_a_part_of_which_no_rgb_is_there_is_read(tmp_path: Path, layout: str):
    alone(tmp_path, layout)
    gone = {"flir 2018": "test/RGB", "flir 2022": "images_rgb_test", "llvip": "visible/test"}[layout]
    shutil.rmtree(tmp_path / gone)
    assert len(read_infrared_set(str(tmp_path), splits=("test",)).pictures) == 3
    for rgb in tmp_path.rglob("train0.jpg"):
        if not {"RGB", "images_rgb_train", "visible"}.isdisjoint(rgb.parts):
            rgb.unlink()
    assert len(read_infrared_set(str(tmp_path)).pictures) == 6
    with pytest.raises(DataError, match="6 pictures have no partner") as raised:
        open_pairs(str(tmp_path))
    assert raised.value.code == "no_pairs"


@pytest.mark.parametrize(
    "layout",
    ["flir 2018", "flir 2018 one part", "flir 2022", "llvip", "llvip empty visible", "kaist", "kaist bare sets"],
)
def test_a_corpus_of_labelled_infrared_pictures_alone_is_read(tmp_path: Path, layout: str):
    alone(root := tmp_path / "corpus", " ".join(layout.split()[: 2 if layout.startswith("flir") else 1]))
    for rgb in {file.parent for file in root.rglob("*.jpg")}:
        if not {"RGB", "visible", "images_rgb_train", "images_rgb_test"}.isdisjoint(rgb.parts):
            shutil.rmtree(rgb)
    if layout == "llvip":
        (root / "visible").rmdir()
    if layout == "flir 2018 one part":
        root = root / "train"
    if layout == "kaist bare sets":
        for folder in (root / "images").iterdir():
            folder.rename(root / folder.name)
        (root / "images").rmdir()
    found = read_infrared_set(str(root))
    assert len(found.pictures) == (3 if layout == "flir 2018 one part" else 6) and not found.faults
    with pytest.raises(DataError, match=r"expected pairs of pictures, found none: read as .*have no partner"):
        open_pairs(str(root))


def test_kaist_is_read_where_its_first_video_holds_no_visible_pictures(tmp_path: Path):
    alone(tmp_path, "kaist")
    shutil.rmtree(tmp_path / "images" / "set00" / "V000" / "visible")
    assert len(read_infrared_set(str(tmp_path)).pictures) == 6
    assert [pair.pair_id for pair in open_pairs(str(tmp_path)).pairs] == ["set06/V000/test0"]


@pytest.mark.parametrize(
    ("sides", "labels"),
    [(("rgb", "thermal_8_bit"), "thermal_annotations.json"), (("vi", "infrared"), "Annotations/1.xml")],
)
def test_what_other_readers_own_stays_theirs(tmp_path: Path, sides: tuple[str, str], labels: str):
    for side in sides:
        picture(tmp_path / side / "train" / "1.png")
    (tmp_path / labels).parent.mkdir(exist_ok=True)
    (tmp_path / labels).write_text("{}")
    corpus = open_pairs(str(tmp_path), needs_rgb=False)
    assert (corpus.reader, [pair.pair_id for pair in corpus.pairs]) == ("folders", ["train/1"])


def test_infrared_pictures_alone_that_nobody_labelled_are_no_corpus(tmp_path: Path):
    for place in ("thermal_8_bit", "infrared/train", "set00/V000/lwir"):
        picture(tmp_path / place / "1.png")
    with pytest.raises(FormatError, match=r"no reader recognises.*Annotations beside infrared"):
        read_infrared_set(str(tmp_path))


def test_infrared_pictures_without_a_partner_are_left_out_where_their_labels_are_damaged_or_their_name_is_not_theirs(
    tmp_path: Path,
):
    alone(tmp_path, "llvip")
    (tmp_path / "Annotations" / "train1.xml").write_text("<annotation>")
    (tmp_path / "Annotations" / "test1.xml").unlink()
    picture(tmp_path / "infrared" / "train" / "train2.png")
    found = read_infrared_set(str(tmp_path))
    assert [p.picture_id for p in found.pictures] == ["test/test0", "train/train0", "test/test2"]
    assert sorted((f.pair_id, f.code) for f in found.faults if f.is_skipped) == [
        ("train/train1", "bad_annotation"), ("train/train2", "ambiguous_name"),
    ]  # fmt: skip
    (bare,) = [fault for fault in found.faults if not fault.is_skipped]
    assert bare.code == "not_labelled" and "1 of 5 pictures" in bare.message
    assert not [f for f in read_infrared_set(str(tmp_path), splits=("test",)).faults if f.is_skipped]


@pytest.mark.parametrize("layout", ["flir 2018", "flir 2022", "llvip", "kaist"])
def test_faults_of_infrared_pictures_without_a_partner_are_no_faults_of_pairs(tmp_path: Path, layout: str):
    alone(tmp_path, layout)
    shutil.copy(next(tmp_path.rglob("train1.jpg")), next(tmp_path.rglob("train1.jpg")).with_suffix(".png"))
    for text in (*tmp_path.rglob("train2.xml"), *tmp_path.rglob("train2.txt")):
        text.write_text("nonsense")
    for text in tmp_path.rglob("*.json"):
        content = json.loads(text.read_text())
        content["annotations"].append(content["annotations"][2] | {"bbox": "damaged"})
        text.write_text(json.dumps(content | {"images": [*content["images"], content["images"][2] | {"id": 9}]}))
    pairs = open_pairs(str(tmp_path))
    assert len(pairs.pairs) == 2 and not pairs.faults
    assert sorted(files.name(uri) for uri in pairs.unmatched) == [
        "test1.jpg", "test2.jpg", "train1.jpg", "train1.png", "train2.jpg",
    ]  # fmt: skip
    if layout != "kaist":  # whose pictures are not of its own size here
        read = read_set(str(tmp_path), ("train", "val", "test"), (32, 32), InfraredMapping())
        assert len(read.pairs) == 2 and not read.faults and not read.mended
    found = read_infrared_set(str(tmp_path), splits=("train",))
    assert {files.stem(fault.pair_id) for fault in found.faults if fault.is_skipped} == {"train1", "train2"}


def test_a_list_names_infrared_pictures_without_a_partner_too(tmp_path: Path):
    alone(tmp_path, "llvip")
    names = tmp_path / "val.txt"
    names.write_text("train0\ntrain/train1\ntest2\ngone\n")
    found = read_infrared_set(str(names), splits=("val",))
    assert [p.picture_id for p in found.pictures] == ["train/train0", "train/train1", "test/test2"]
    assert [(f.pair_id, f.code, f.is_skipped) for f in found.faults] == [("gone", "missing_file", True)]
    corpus = open_pairs(str(names))
    assert ([p.pair_id for p in corpus.pairs], corpus.unmatched) == (
        ["train/train0"], ("train/train1", "test/test2", "gone"),
    )  # fmt: skip


def test_a_name_of_a_list_that_several_pictures_share_means_none_of_them(tmp_path: Path):
    for part in ("train", "val", "test"):
        picture(tmp_path / "infrared" / part / "1.jpg")
        if part != "val":
            picture(tmp_path / "visible" / part / "1.jpg")
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "1.xml").write_text(VOC)
    names = tmp_path / "mine.txt"
    names.write_text("1\ntrain/1\n")
    found = read_infrared_set(str(names))
    assert [p.picture_id for p in found.pictures] == ["train/1"]
    assert [(fault.pair_id, fault.code) for fault in found.faults] == [("1", "missing_file")]
    assert open_pairs(str(names)).unmatched == ("1",)


def test_a_name_of_a_list_that_was_left_out_is_told_by_its_fault_and_not_called_missing(tmp_path: Path):
    alone(tmp_path, "llvip")
    for name in ("train0", "train2"):
        picture(tmp_path / "infrared" / "train" / f"{name}.png")
    names = tmp_path / "mine.txt"
    names.write_text("test0\ntrain0\ntrain/train1\ntrain2\ngone\n")
    found = read_infrared_set(str(names), splits=("test",))
    assert [p.picture_id for p in found.pictures] == ["test/test0", "train/train1"]
    assert [(fault.pair_id, fault.code) for fault in found.faults] == [
        ("train/train0", "ambiguous_name"), ("train/train2", "ambiguous_name"), ("gone", "missing_file"),
    ]  # fmt: skip
    pairs = open_pairs(str(names))
    assert [(fault.pair_id, fault.code) for fault in pairs.faults] == [("train/train0", "ambiguous_name")]
    assert pairs.unmatched == ("train/train1", "train/train2", "gone")
