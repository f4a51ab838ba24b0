"""Copies, light, blank pictures and what a contact sheet shows."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from system.pairs.examine import examine_pair
from system.pairs.fingerprint import ALIKE_BITS, count_groups, find_duplicates, perceptual_hash, pixel_digest
from system.pairs.light import light_of_luminance
from system.pairs.pixels import InfraredMapping, PixelLimits
from system.pairs.records import Pair, PairCorpus
from system.pairs.registry import open_pairs
from system.report.contact_sheet import SheetCell, draw_sheet, draw_strip, edge_overlay
from system.report.pairs_summary import Seen, sheet_lines, sheet_title, summarise

NO_BOXES, NONE_IGNORED = np.zeros((0, 4), np.float32), np.zeros(0, bool)


def smooth(seed: int, low: int = 0, high: int = 256) -> np.ndarray:
    values = np.random.default_rng(seed).integers(low, high, (12, 16, 3), dtype=np.uint8)
    return cv2.resize(values, (160, 120), interpolation=cv2.INTER_CUBIC)


def examined(folder: Path, rgb: np.ndarray, infrared: np.ndarray, **known):
    Image.fromarray(rgb).save(folder / "rgb.png")
    Image.fromarray(infrared).save(folder / "ir.png")
    pair = Pair("1", "c", str(folder / "rgb.png"), str(folder / "ir.png"), **known)
    return examine_pair(pair, InfraredMapping(), PixelLimits())


def marks(images: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    hashes = np.array([[perceptual_hash(image), perceptual_hash(255 - image)] for image in images], np.uint64)
    return hashes, np.array([pixel_digest(image, image) for image in images], np.uint64)


def test_recompressed_and_resized_copies_are_found_and_exact_ones_told_apart():
    images = [smooth(k) for k in range(20)]
    buffer = io.BytesIO()
    Image.fromarray(images[3]).save(buffer, "JPEG", quality=80)
    images += [np.array(Image.open(buffer)), cv2.resize(images[5], (80, 60)), images[7].copy()]
    found = find_duplicates(*marks(images))
    assert {(one.first, one.second, one.is_exact) for one in found} == {(3, 20, False), (5, 21, False), (7, 22, True)}
    assert all(one.bits <= ALIKE_BITS for one in found) and count_groups(found) == 3


def test_all_near_marks_are_found_among_many_random_ones():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, (3000, 2), dtype=np.uint64)
    for k in range(100):
        copy = hashes[k].copy()
        for bit in rng.choice(128, ALIKE_BITS, replace=False):
            copy[bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
        hashes[1000 + k] = copy
    found = {(one.first, one.second) for one in find_duplicates(hashes, np.arange(3000, dtype=np.uint64))}
    assert found == {(k, 1000 + k) for k in range(100)}


def test_groups_count_chains_once_and_nothing_is_no_group():
    hashes = np.zeros((5, 2), np.uint64)
    assert count_groups(find_duplicates(hashes, np.zeros(5, np.uint64))) == 1
    assert find_duplicates(hashes[:1], np.zeros(1, np.uint64)) == []
    assert find_duplicates(hashes[:0], np.zeros(0, np.uint64)) == []


def test_light_comes_from_names_first_and_says_so(tmp_path: Path):
    dark = smooth(0, 0, 30)
    by_pixels = examined(tmp_path, dark, smooth(1)[..., 0])
    by_name = examined(tmp_path, dark, smooth(1)[..., 0], light="day")
    assert (by_pixels.light, by_pixels.light_by) == ("night", "luminance")
    assert (by_name.light, by_name.light_by) == ("day", "names")
    assert light_of_luminance(120.0) == "day"


@pytest.mark.parametrize(
    ("rgb", "infrared", "note"),
    [
        (np.repeat(smooth(0)[..., :1], 3, axis=2), smooth(1)[..., 0], "grey_rgb"),
        (smooth(0), np.full((120, 160), 9, np.uint8), "blank_infrared"),
        (np.full((120, 160, 3), (9, 40, 90), np.uint8), smooth(1)[..., 0], "blank_rgb"),
        (smooth(0), cv2.cvtColor(smooth(0), cv2.COLOR_RGB2GRAY), "same_picture"),
        (cv2.resize(smooth(0), (320, 240)), smooth(1)[..., 0], "rgb_resized"),
        (smooth(0), np.full((120, 160, 3), (9, 40, 90), np.uint8), "coloured_infrared"),
    ],
)
def test_odd_pictures_are_noted(tmp_path: Path, rgb: np.ndarray, infrared: np.ndarray, note: str):
    assert note in examined(tmp_path, rgb, infrared).notes


def test_ordinary_pictures_have_no_notes(tmp_path: Path):
    assert examined(tmp_path, smooth(0), smooth(1)[..., 0]).notes == ()


def test_unreadable_pairs_are_findings(tmp_path: Path):
    found = examine_pair(Pair("1", "c", str(tmp_path / "x.png"), "y.png"), InfraredMapping(), PixelLimits())
    assert (found.code, found.shift) == ("missing_file", None)


def test_summary_counts_every_pair_once_and_survives_a_corpus_without_shifts(tmp_path: Path):
    corpus = PairCorpus("c", "folders", tuple(Pair(str(k), "c", "a", "b") for k in range(3)), unmatched=("x",))
    seen = Seen(3)
    seen.add(0, examined(tmp_path, smooth(0), np.full((120, 160), 9, np.uint8)))
    seen.add(1, examine_pair(Pair("1", "c", "/nowhere/a", "/nowhere/b"), InfraredMapping(), PixelLimits()))
    seen.add(2, examined(tmp_path, smooth(0), np.full((120, 160), 9, np.uint8)))
    figures = summarise(("u",), (corpus,), (seen,))
    entry = figures["corpora"][0]
    assert (figures["pairs"], figures["unreadable"], figures["unmatched"]) == (3, 1, 1)
    assert (entry["readable"], entry["faults"], entry["sizes"]) == (2, {"missing_file": 1}, {"160x120 and 160x120": 2})
    assert (entry["shift"]["confident"], entry["shift"]["median_dx_px"]) == (0, None)
    assert seen.worth_seeing(1) and seen.worth_seeing(24) == [0, 2]
    assert "all pairs" in sheet_title(corpus, entry, 2) and "farthest" in sheet_title(corpus, entry, 1)
    assert "not to be believed" in sheet_lines(corpus.pairs[0], seen, 0)[1]


def test_sheet_shows_every_cell_and_dim_infrared_is_stretched():
    dim = np.full((90, 120, 3), 10, np.uint8)
    dim[20:60, 30:90] = 22
    strip = draw_strip(smooth(0)[:90, :120], dim, np.array([[10, 10, 40, 40]], np.float32), np.zeros(1, bool))
    panels = np.array(Image.open(io.BytesIO(strip)))
    third = panels.shape[1] // 3
    assert panels[:, third : 2 * third].max() > 200
    sheet = Image.open(io.BytesIO(draw_sheet("title\nmore", [SheetCell(strip, ("a", "b"))] * 3)))
    assert sheet.width > 2 * panels.shape[1] and sheet.height > 2 * panels.shape[0]


def test_edges_of_equal_pictures_are_white():
    overlay = edge_overlay(smooth(4), smooth(4))
    np.testing.assert_array_equal(overlay[..., 0], overlay[..., 1])
    assert overlay.max() > 100


def test_neighbouring_frames_of_real_drives_are_no_copies(data_root: Path):
    pairs = open_pairs(str(data_root / "pairs/MSRS/labels_det/coco_infrared_val.json")).pairs[:10]
    found = [examine_pair(pair, InfraredMapping(), PixelLimits()) for pair in pairs]
    hashes = np.array([(one.rgb_hash, one.infrared_hash) for one in found], np.uint64)
    assert not find_duplicates(hashes, np.array([one.digest for one in found], np.uint64))
