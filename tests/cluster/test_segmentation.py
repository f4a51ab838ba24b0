"""Train, judge and study a segmenter as users do: small, on the cluster, with broken pictures and wrong options."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.cluster.conftest import Head
from tests.cluster.jobs import Done, call_job, run_job

PICTURES = 10


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures with a warm and a cold square each, outlined; one is broken, one has an outline that cannot be."""
    root = tmp_path_factory.mktemp("segmenting")
    rng = np.random.default_rng(0)
    for part, count in (("train", PICTURES), ("val", 4)):
        images, annotations = [], []
        (root / part).mkdir()
        for n in range(count):
            picture = np.full((72, 108), 110, np.uint8)
            for label, (left, value) in enumerate(((0, 255), (56, 0))):
                x, y = left + int(rng.integers(0, 24)), int(rng.integers(0, 44))
                picture[y : y + 24, x : x + 24] = value
                corners = [[x, y, x + 24, y, x + 24, y + 24, x, y + 24]]
                row = {"image_id": n, "category_id": label, "bbox": [x, y, 24, 24], "iscrowd": 0, "area": 576}
                annotations.append(row | {"id": len(annotations), "segmentation": corners})
            Image.fromarray(picture).save(root / part / f"{n:03d}.png")
            images.append({"id": n, "file_name": f"{part}/{n:03d}.png", "width": 108, "height": 72})
        if part == "train":
            annotations[-1]["segmentation"] = [[1, 2]]
        categories = [{"id": 0, "name": "Warm"}, {"id": 1, "name": "Cold"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"{part}.json").write_text(json.dumps(content))
    broken = root / "train" / "004.png"
    broken.write_bytes(broken.read_bytes()[:60])
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), root / "vit.safetensors")
    return root


def options(house: Path, out: str, *more: str | Path) -> list[str | Path]:
    return [
        "--train", house / "train.json", "--val", house / "val.json", "--out", house / out,
        "--backbone", f"timm:test_vit@{house}/vit.safetensors", "--height", "64", "--width", "96", "--blocks", "1,3",
        "--channels", "32", "--convs", "1", "--epochs", "5", "--batch-size", "3", "--learning-rate", "5e-3",
        "--cache", house / "cache", "--cache-gb", "0.05", "--max-bad-share", "0.25", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(house: Path, head: Head) -> Done:
    done = run_job("train_segmenter", *options(house, "whole"), env=head.env)
    assert done.code == 0, done.stderr
    return done


def test_a_segmenter_learns_from_masks_and_says_where_it_comes_from(house: Path, whole: Done):
    figures = whole.figures
    assert figures["classes"] == ["background", "warm", "cold"] and figures["skipped"] == 2
    assert figures["masks"] == "outlines of the COCO file" and figures["pseudo"] is False
    rows = json.loads((house / "whole" / "history.json").read_text())
    assert rows[-1]["train/total"] < rows[0]["train/total"] and figures["miou"] == rows[-1]["val/miou"]
    record = json.loads((house / "whole" / "training.json").read_text())
    assert record["masks"] == "outlines of the COCO file" and record["detector"]["architecture"] == "dense"
    assert any("bad_outline" in told for told in record["skipped"])
    card = (house / "whole" / "README.md").read_text()
    assert "# An infrared segmenter of background, warm, cold" in card and "pseudo" not in card
    assert len(list((house / "whole" / "samples").iterdir())) == 5


def test_a_segmenter_is_judged_in_the_pictures_own_pixels(house: Path, head: Head, whole: Done):
    given = ("--data", house / "val.json", "--model", house / "whole", "--rounds", "50", "--out", house / "judged")
    done = call_job("evaluate_segmenter", *given, env=head.env)
    assert done.code == 0, done.stderr
    figures = done.figures
    assert sum(map(sum, figures["confusion"])) == 4 * 72 * 108
    assert figures["miou"]["value"] == pytest.approx(whole.figures["miou"], abs=6)
    assert figures["miou"]["low"] <= figures["miou"]["value"] <= figures["miou"]["high"]
    assert {f.name for f in (house / "judged").iterdir()} == {"figures.json", "classes.png", "worst_pictures.jpg"}


def test_figures_on_pseudo_masks_say_so(house: Path, head: Head, whole: Done):
    given = ("--data", house / "val.json", "--model", house / "whole", "--masks", "boxes", "--rounds", "20")
    figures = call_job("evaluate_segmenter", *given, env=head.env).figures
    assert figures["pseudo"] is True and figures["masks"].startswith("pseudo-masks")
    assert figures["model_masks"] == "outlines of the COCO file"


def test_what_cannot_be_learnt_or_judged_is_refused(house: Path, head: Head, whole: Done):
    model = house / "whole"
    bare = json.loads((house / "val.json").read_text())
    bare["annotations"] = [{k: v for k, v in row.items() if k != "segmentation"} for row in bare["annotations"]]
    (house / "bare.json").write_text(json.dumps(bare))
    judge = ["--model", model, "--data"]
    cases: list[tuple[str, int, str, list[str | Path]]] = [
        ("train_segmenter", 3, "no_masks", options(house, "refused", "--train", house / "bare.json")),
        ("train_segmenter", 2, "expected one of elk", options(house, "refused", "--classes", "elk")),
        ("train_segmenter", 3, "own, boxes or a folder", options(house, "refused", "--masks", "/nowhere")),
        ("train_segmenter", 3, "leak", options(house, "refused", "--val", house / "train.json")),
        ("evaluate_segmenter", 3, "was trained on 10 of", [*judge, house / "train.json"]),
        ("evaluate_segmenter", 3, "no_masks", [*judge, house / "bare.json"]),
        ("evaluate_segmenter", 5, "segmenter.json", ["--data", house / "val.json", "--model", house]),
        ("evaluate_detector", 5, "detector.json", ["--coco", house / "val.json", "--model", model]),
    ]
    for job, code, words, arguments in cases:
        done = call_job(job, *arguments, env=head.env)
        assert (done.code, words in done.stderr) == (code, True), (words, done.code, done.stderr)
