"""A probe and a study as users run them: tiny pairs and backbone, on the cluster, gone on with, and with bad input."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from tests.cluster.conftest import Head
from tests.cluster.jobs import call_job, run_job

ARCHITECTURE = "test_vit"
QUICK = ("--height", "64", "--width", "96", "--block", "4", "--rounds", "20")


def write_pairs(root: Path, split: str, count: int, seed: int) -> None:
    """Bright squares, which the boxes call person, and dark ones, car; infrared is the RGB picture's negative."""
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    for n in range(count):
        picture = rng.integers(90, 130, (64, 96, 3), dtype=np.uint8)
        for label, grey in ((1, 250), (2, 5)):
            y, x = int(rng.integers(0, 44)), int(rng.integers(0, 76))
            picture[y : y + 20, x : x + 20] = grey
            annotations.append({"image_id": n, "category_id": label, "bbox": [x, y, 20, 20], "iscrowd": 0})
        names = {"file_name": f"visible/{split}{n:02d}.png", "file_name2": f"infrared/{split}{n:02d}.png"}
        for name, pixels in ((names["file_name"], picture), (names["file_name2"], 255 - picture)):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / name), pixels)
        images.append({"id": n, "width": 96, "height": 64, **names})
    annotations = [{"id": k, "area": 400, **row} for k, row in enumerate(annotations)]
    categories = [{"id": 1, "name": "person"}, {"id": 2, "name": "car"}]
    text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
    (root / f"{split}.json").write_text(text)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs to learn from and to judge on, and a backbone with weights drawn by chance."""
    root = tmp_path_factory.mktemp("freqkd_study")
    write_pairs(root, "train", 10, seed=0)
    write_pairs(root, "test", 6, seed=1)
    torch.manual_seed(0)
    save_file(timm.create_model(ARCHITECTURE, num_classes=0).state_dict(), root / "vit.safetensors")
    save_file(timm.create_model("test_resnet").state_dict(), root / "resnet.safetensors")
    return root


def tower(house: Path) -> str:
    return f"timm:{ARCHITECTURE}@{house / 'vit.safetensors'}"


def pairs(house: Path) -> tuple[str | Path, ...]:
    return ("--train", house / "train.json", "--test", house / "test.json")


def options(house: Path, *arguments: str, out: str = "study") -> tuple[str | Path, ...]:
    fixed = (*pairs(house), "--tower", tower(house), "--out", house / out, *QUICK, "--blocks", "2,4", "--rank", "4")
    return (*fixed, "--batch-size", "4", "--epochs", "1", *arguments)


def test_a_backbone_is_probed_the_same_way_twice(house: Path, head: Head):
    arguments = ("--backbone", tower(house), "--teacher", tower(house), *pairs(house), *QUICK)
    first, second = (run("probe_backbone", *arguments, env=head.env) for run in (run_job, call_job))
    assert first.code == 0, first.stderr
    timed = {"seconds"}
    assert {k: v for k, v in first.figures.items() if k not in timed} == {
        k: v for k, v in second.figures.items() if k not in timed
    }
    assert set(first.figures["patch_ap"]) == {"person", "car", "mean"}
    assert 0 <= first.figures["retrieval_r1"] <= first.figures["retrieval_r5"] <= 100
    assert first.figures["counts"]["test_pictures"] == 6 and first.figures["seen_in_training"] == 0


def test_a_study_compares_arms_goes_on_and_refuses_other_settings(house: Path, head: Head):
    given = options(house, "--arms", "none,mse,registered", "--drifts", "0,8", "--seeds", "1")
    done = run_job("study_freqkd", *given, env=head.env)
    assert done.code == 0, done.stderr
    assert "budget:" in done.stderr and done.figures["drifts"] == [0, 8]
    row = done.figures["arms"]["mse"]["8"]
    assert row["seeds"] == 1 and row["low"] <= row["high"] and set(row) >= {"person", "car", "retrieval_r1"}
    assert set(done.figures["differences"]["ours_against"]) == {"none", "mse"}
    assert {"study.json", "study.png", "study.md"} <= {file.name for file in (house / "study").iterdir()}

    files = {f.name: f.stat().st_mtime_ns for f in (house / "study").glob("*-d*.json")}
    assert set(files) == {
        f"{run}.json" for run in ("none-d0-s0", *(f"{a}-d{d}-s0" for a in ("mse", "registered") for d in (0, 8)))
    }
    given = options(house, "--arms", "none,mse", "--arms", "mse@merge=1", "--drifts", "0,8", "--seeds", "2")
    more = call_job("study_freqkd", *given, env=head.env)
    assert more.code == 0, more.stderr
    assert more.figures["budget"]["runs"] == 9 and more.figures["budget"]["runs_done"] == 3
    assert all((house / "study" / name).stat().st_mtime_ns == at for name, at in files.items())
    assert more.figures["arms"]["mse"]["0"]["seeds"] == 2
    # Merging with another factor takes the same adapters.
    adapters = {file.stem for file in (house / "study" / "adapters").glob("mse*.safetensors")}
    assert adapters == {f"mse-d{d}-s{s}" for d in (0, 8) for s in (0, 1)}

    other = call_job("study_freqkd", *options(house, "--arms", "none", "--learning-rate", "0.1"), env=head.env)
    assert other.code == 2 and "holds a study with other settings (distill)" in other.stderr


def test_a_run_alone_is_the_run_of_the_study(house: Path, head: Head):
    given = options(house, "--arms", "mse", "--drifts", "8", "--seeds", "1", out="alone")
    assert call_job("study_freqkd", *given, env=head.env).code == 0
    both = [json.loads((house / folder / "mse-d8-s0.json").read_text()) for folder in ("study", "alone")]
    assert both[0]["losses"] == both[1]["losses"] and both[0]["patch_ap"] == both[1]["patch_ap"]


def test_networks_of_convolutions_are_studied_and_detected_with(house: Path, head: Head):
    student = f"timm:test_resnet@{house / 'resnet.safetensors'}"
    given = (*pairs(house), "--tower", tower(house), "--student", student, "--out", house / "networks", *QUICK[:4])
    given = (*given, "--blocks", "1,2,3,4", "--batch-size", "5", "--arms", "none,mse", "--drifts", "0", "--seeds", "1")
    done = call_job("study_freqkd", *given, "--rounds", "20", env=head.env)
    assert done.code == 0, done.stderr
    assert {"none", "mse"} == done.figures["arms"].keys() and done.figures["arms"]["mse"]["0"]["mean"] is not None
    refused = call_job("study_freqkd", *given, "--block", "4", env=head.env)
    assert refused.code == 2 and "has stages 0..3" in refused.stderr
    judged = ("--students", house / "networks", *pairs(house), "--arms", "none,mse", "--seeds", "1", "--rounds", "20")
    judged = (*judged, "--epochs", "1", "--ours", "mse", "--height", "64", "--width", "96")
    head_of = ("--architecture", "faster_rcnn", "--channels", "32", "--out", house / "d")
    done = call_job("study_detection", *judged, *head_of, env=head.env)
    assert done.code == 0, done.stderr
    assert done.figures["sets"]["test"]["arms"]["mse"]["0"]["ap50"]["seeds"] == 1
    assert done.figures["seen_in_training"] == {"test": 0}
    head_of = ("--task", "segmentation", "--masks", "boxes", "--channels", "32", "--out", house / "s")
    done = call_job("study_detection", *judged, *head_of, env=head.env)
    assert done.code == 0, done.stderr
    assert done.figures["pseudo"] and done.figures["sets"]["test"]["arms"]["mse"]["0"]["miou"]["seeds"] == 1


def test_what_cannot_be_studied_is_refused(house: Path, head: Head):
    cases = [
        (2, "no recipe 'best'", ("--arms", "best")),
        (2, "half of the shorter side", ("--arms", "mse", "--drifts", "40")),
        (2, "expected whole numbers", ("--drifts", "a")),
        (2, "has blocks 0..", ("--arms", "mse@blocks=99")),
    ]
    for code, words, arguments in cases:
        done = call_job("study_freqkd", *options(house, *arguments, out="refused"), env=head.env)
        assert (done.code, words in done.stderr) == (code, True), done.stderr
    done = call_job("probe_backbone", "--backbone", house, *pairs(house), env=head.env)
    assert done.code == 5 and "expected distill.json" in done.stderr
    dry = call_job("study_freqkd", *options(house, "--arms", "none,mse", "--dry-run", out="dry"), env=head.env)
    assert dry.code == 0 and dry.figures["budget"]["runs"] == 16 and not list((house / "dry").glob("*-d*.json"))
