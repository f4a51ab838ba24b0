"""Demo logs, made once: what the simulator knows, what the tables say and what the pictures show agree."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from system.demo.config import HAZARDS, default_scenes
from system.demo.make import make_demo_logs
from system.demo.rig import RIG
from system.errors import ConfigError
from system.logs.registry import discover, list_logs, read_log
from system.pairs.mask_set import read_mask_set


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("demo") / "logs"
    figures = make_demo_logs(out, default_scenes(1, 6.0, 1), 1, lambda name, pictures: None)
    return out, figures


def test_a_staged_hazard_is_really_dangerous(made):
    _, figures = made
    assert figures["hazards"] == {"demo-1-000": "hard_braking_lead"}
    assert figures["min_ttc_s"]["demo-1-000"] <= 1.5


def test_the_reader_reads_what_was_written(made):
    out, figures = made
    found, _ = discover(str(out))
    (ref,) = [ref for part in found for ref in list_logs(part)]
    log = read_log(ref)
    assert len(log.frames) == figures["pictures"] == 13 * len(RIG)
    assert all(frame.is_calibrated for frame in log.frames)
    assert {frame.modality for frame in log.frames} == {"rgb", "infrared"}
    assert "close_lead" in log.truth_tags
    assert sum(len(track.t_ns) for track in log.agents) == figures["boxes"]
    assert log.ego.states[:, 4].max() < 20


def test_somebody_in_the_infrared_picture_is_where_the_boxes_say(made):
    out, _ = made
    coco = json.loads((out / "train" / "coco_infrared.json").read_text())
    images = {image["id"]: image for image in coco["images"]}
    contrast = []
    for box in coco["annotations"]:
        x, y, width, height = box["bbox"]
        assert x >= 0 and x + width <= 640 and y >= 0 and y + height <= 360
        if box["area"] > 400:
            picture = np.asarray(Image.open(out / "train" / images[box["image_id"]]["file_name2"]), dtype=float)
            contrast.append(picture[y : y + height, x : x + width].std())
    assert len(contrast) > 5
    assert np.median(contrast) > 10


def test_masks_of_the_renderer_fill_their_boxes_and_are_read_as_true_ones(made):
    out, _ = made
    found = read_mask_set(str(out / "train" / "coco_infrared.json"))
    assert found.masks == "outlines of the COCO file" and not found.faults
    coco = json.loads((out / "train" / "coco_infrared.json").read_text())
    for picture, image in zip(found.pictures, coco["images"], strict=True):
        labels = picture.mask.label_map(np.zeros((360, 640), np.uint8))
        boxes = [row["bbox"] for row in coco["annotations"] if row["image_id"] == image["id"]]
        inside = np.zeros_like(labels, dtype=bool)
        for x, y, width, height in boxes:
            inside[y : y + height, x : x + width] = True
            part = labels[y : y + height, x : x + width] > 0
            assert part.any(0).all() and part.any(1).all()
        assert not labels[~inside].any()


def test_rgb_and_infrared_pictures_are_of_one_place_and_not_of_one_kind(made):
    out, _ = made
    rgb = sorted((out / "train" / "samples" / "CAM_FRONT").iterdir())[0]
    infrared = Path(str(rgb).replace("CAM_FRONT", "CAM_IR_FRONT"))
    grey = np.asarray(Image.open(rgb).convert("L"), dtype=float)
    heat = np.asarray(Image.open(infrared), dtype=float)
    assert grey.shape == heat.shape == (360, 640)
    assert np.corrcoef(grey.ravel(), heat.ravel())[0, 1] < 0.5


def test_train_and_test_towns_both_have_hazards_of_every_kind_and_scenes_without():
    scenes = default_scenes(48, 6.0, 1)
    for split in ("train", "test"):
        assert {scene.hazard for scene in scenes if scene.split == split} == {"none", *HAZARDS}
    assert len({scene.hazard for scene in default_scenes(12, 6.0, 1)}) == 1 + len(HAZARDS)


def test_a_folder_with_something_in_it_is_left_alone(made):
    out, _ = made
    with pytest.raises(ConfigError, match="is not empty"):
        make_demo_logs(out, default_scenes(1, 6.0, 1), 1, lambda name, pictures: None)
