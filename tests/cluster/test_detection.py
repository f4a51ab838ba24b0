"""Train, judge and use a detector as users do: small, on the cluster, killed, broken pictures, wrong options."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from system.errors import StoreError
from system.logs.windows import WindowConfig
from system.pipelines.infrared_reading import windows_of
from system.store.commits import append_rows
from system.store.location import StoreLocation
from system.store.runs import RunRecord, write_run
from system.store.schema import SCENES, scenes_schema
from system.store.tables import ModelRow, open_for_writing
from tests.cluster.conftest import Head
from tests.cluster.jobs import ROOT, Done, call_job, run_job
from tests.plain_logs import write_plain_log

PICTURES = 12
# Commits hold 64 of them.
LOOKED_AT = 240
# Each worker takes the mean over the objects of its own part of a batch.
WORKERS_TOLERANCE = 0.02


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures with a warm and a cold square each, labelled; one of them is broken. And a small backbone."""
    root = tmp_path_factory.mktemp("detecting")
    rng = np.random.default_rng(0)
    for part, count in (("train", PICTURES), ("val", 4)):
        images, annotations = [], []
        (root / part).mkdir()
        for n in range(count):
            picture = np.full((72, 108), 110, np.uint8)
            for label, (left, value) in enumerate(((0, 255), (56, 0))):
                x, y = left + int(rng.integers(0, 24)), int(rng.integers(0, 44))
                picture[y : y + 24, x : x + 24] = value
                box = {"image_id": n, "category_id": label, "bbox": [x, y, 24, 24], "iscrowd": 0, "area": 576}
                annotations.append(box | {"id": len(annotations)})
            Image.fromarray(picture).save(root / part / f"{n:03d}.png")
            images.append({"id": n, "file_name": f"{part}/{n:03d}.png", "width": 108, "height": 72})
        categories = [{"id": 0, "name": "Warm"}, {"id": 1, "name": "Cold"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"{part}.json").write_text(json.dumps(content))
    broken = root / "train" / "004.png"
    broken.write_bytes(broken.read_bytes()[:60])
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), root / "vit.safetensors")
    return root


def options(house: Path, out: str, *more: str) -> list[str]:
    return [
        "--train", str(house / "train.json"), "--val", str(house / "val.json"), "--out", str(house / out),
        "--backbone", f"timm:test_vit@{house}/vit.safetensors", "--height", "64", "--width", "96", "--blocks", "1,3",
        "--channels", "32", "--convs", "1", "--epochs", "4", "--batch-size", "3", "--learning-rate", "3e-3",
        "--cache", str(house / "cache"), "--cache-gb", "0.05", "--max-bad-share", "0.2", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(house: Path, head: Head) -> Done:
    done = run_job("train_detector", *options(house, "whole"), env=head.env)
    assert done.code == 0, done.stderr
    return done


def history(folder: Path) -> list[dict[str, float]]:
    return json.loads((folder / "history.json").read_text())


def test_a_detector_learns_and_says_where_it_comes_from(house: Path, whole: Done):
    figures = whole.figures
    assert (
        figures["classes"] == ["warm", "cold"] and figures["skipped"] == 1 and figures["images"] == 4 * (PICTURES - 1)
    )
    rows = history(house / "whole")
    assert rows[-1]["train/total"] < rows[0]["train/total"] and 0 <= rows[-1]["val/ap50"] <= 100
    names = {
        "detector.json",
        "detector.safetensors",
        "README.md",
        "curves.png",
        "training.json",
        "tensorboard",
        "samples",
    }
    assert names <= {file.name for file in (house / "whole").iterdir()}
    assert len(list((house / "whole" / "samples").iterdir())) == 4


def test_a_training_goes_on_from_a_trained_detector(house: Path, head: Head, whole: Done):
    given = ["--train", house / "val.json", "--start", house / "whole", "--out", house / "further"]
    done = run_job("train_detector", *map(str, [*given, "--epochs", "1", "--cache", house / "cache"]), env=head.env)
    assert done.code == 0, done.stderr
    record = json.loads((house / "further" / "training.json").read_text())
    assert record["start_id"] == whole.figures["detector_id"] and record["detector"]["height"] == 64
    assert history(house / "further")[0]["train/total"] < history(house / "whole")[0]["train/total"]
    judged = run_job("evaluate_detector", "--coco", str(house / "train.json"), "--model", str(house / "further"),
                     "--out", str(house / "leaking"), env=head.env)  # fmt: skip
    assert judged.code == 3 and "leak" in judged.stderr, judged.stderr


# That a restored training goes on to the same bits is a unit test.
@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_killed_training_ends_where_the_unbroken_one_does(house: Path, head: Head, whole: Done, workers: str):
    out = f"again-{workers}"
    arguments = options(house, out, "--workers", workers)
    command = [sys.executable, str(ROOT / "jobs" / "train_detector.py"), *arguments]
    process = subprocess.Popen(command, cwd=ROOT, env=head.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline_s = time.monotonic() + 180
    listed = house / f".{out}.training" / "ray" / "checkpoint_manager_snapshot.json"
    while time.monotonic() < deadline_s and not (listed.is_file() and "checkpoint_2" in listed.read_text()):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    assert not (house / out).exists()
    done = call_job("train_detector", *arguments, env=head.env)
    assert done.code == 0, done.stderr
    assert not list(house.glob(f".{out}.*"))
    if workers == "1":
        ours, theirs = (load_file(house / f / "detector.safetensors") for f in (out, "whole"))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for row, expected in zip(history(house / out), history(house / "whole"), strict=True):
        assert row["train/total"] == pytest.approx(expected["train/total"], rel=WORKERS_TOLERANCE)


def test_pictures_become_boxes_in_every_form_and_a_broken_one_is_written_down(house: Path, head: Head, whole: Done):
    given = ("--model", house / "whole", "--max-bad-share", "0.2", "--min-score", "0.02")
    done = run_job("predict_infrared", "--images", house / "train", *given, "--out", house / "boxes", env=head.env)
    assert done.code == 0, done.stderr
    figures = done.figures
    assert figures["images"] == PICTURES - 1 and figures["quarantined"] == 1 and figures["detections"] > 0
    assert 0 < figures["efficiency"] < 1.5
    rows = pq.read_table(house / "boxes" / "detections.parquet").to_pylist()
    coco = json.loads((house / "boxes" / "coco.json").read_text())
    assert len(rows) == len(coco["images"]) == PICTURES - 1
    assert sum(len(row["scores"]) for row in rows) == len(coco["annotations"]) == figures["detections"]
    assert all(0 <= x1 < x2 <= 108 and 0 <= y1 < y2 <= 72 for row in rows for x1, y1, x2, y2 in row["boxes_xyxy"])
    bad = json.loads((house / "boxes" / "quarantine.jsonl").read_text())
    assert bad["uri"].endswith("004.png") and bad["code"] == "truncated_image"
    assert len(list((house / "boxes" / "pictures").iterdir())) == PICTURES - 1
    again = call_job("predict_infrared", "--images", house / "train", *given, "--out", house / "boxes", env=head.env)
    assert again.code == 2 and "never overwritten" in again.stderr


def test_the_scenes_of_a_store_are_looked_at_once_and_found_by_what_is_in_them(
    house: Path, head: Head, whole: Done, tmp_path: Path
):
    store = store_of_scenes(tmp_path)
    given = ("--store", store.uri, "--model", house / "whole", "--min-score", "0.02", "--max-bad-share", "0.5")
    first = call_job("predict_infrared", *given, env=head.env)
    assert first.code == 0, first.stderr
    told = first.figures
    assert (told["found"], told["committed"], told["already"], told["quarantined"]) == (4, 3, 0, 1)
    assert told["without_infrared"] == 1 and told["images"] == 16 and told["detections"] > 0
    again = call_job("predict_infrared", *given, env=head.env).figures
    assert (again["committed"], again["already"], again["quarantined"], again["images"]) == (0, 3, 1, 0)
    search = call_job("search_scenes", "--store", store.uri, "--detected", "warm:0.02")
    assert search.code == 0, search.stderr
    assert {row["log_id"] for row in search.figures["results"]} <= {"night"}
    assert all(row["detections"]["warm"] >= 1 for row in search.figures["results"])


@pytest.mark.slow
def test_scenes_are_looked_at_once_though_runs_are_killed_and_stopped(
    house: Path, head: Head, whole: Done, tmp_path: Path
):
    store = store_of_scenes(tmp_path, {"night": 4 * LOOKED_AT}, hz=0.5)
    given = ("--store", str(store.uri), "--model", str(house / "whole"), "--min-score", "0.02", "--actors", "1")
    command = [sys.executable, str(ROOT / "jobs" / "predict_infrared.py"), *given]

    def committed() -> list[str]:
        try:
            return store.dataset("detections").to_table(columns=["scene_id"])["scene_id"].to_pylist()
        except StoreError:
            return []

    before = 0
    for sent in (signal.SIGKILL, signal.SIGTERM):
        job = subprocess.Popen(
            command, cwd=ROOT, env=head.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        deadline_s = time.monotonic() + 120
        while len(committed()) <= before and job.poll() is None and time.monotonic() < deadline_s:
            time.sleep(0.05)
        job.send_signal(sent)
        stdout, stderr = job.communicate(timeout=60)
        assert before < len(committed()) < LOOKED_AT, stderr
        before = len(committed())
    assert job.returncode == 0 and "scenes remain; the same command goes on" in stderr, stderr
    told = json.loads(stdout.strip().splitlines()[-1])
    assert told["stopped"] and told["remaining"] == LOOKED_AT - before and told["problem"] is None
    assert told["found"] == LOOKED_AT == told["committed"] + told["already"] + told["remaining"]
    rest = call_job("predict_infrared", *given, env=head.env)
    assert rest.code == 0 and rest.figures["committed"] == LOOKED_AT - before and not rest.figures["stopped"], (
        rest.stderr
    )
    assert len(committed()) == len(set(committed())) == LOOKED_AT
    search = call_job("search_scenes", "--store", store.uri, "--detected", "WARM:0.02", "--top", str(LOOKED_AT))
    shown = store.dataset("detections").to_table(filter="array_has(label, 'warm')").num_rows
    assert search.code == 0 and len(search.figures["results"]) == shown > 0, search.stderr


MIXED_LOGS = {"night": 8, "broken": 4, "day": 4}


def store_of_scenes(root: Path, seconds: dict[str, int] = MIXED_LOGS, hz: float = 2.0) -> StoreLocation:
    """A mined store of 4 s scenes: with an infrared camera, with a broken one, with none."""
    for name, length in seconds.items():
        camera = "FRONT" if name == "day" else "NIGHT"
        log = write_plain_log(root / "fleet", name, seconds=length, hz=hz, cameras=(camera,))
        described = json.loads((log / "log.json").read_text())
        for image in described["images"]:
            if camera == "NIGHT":
                image["modality"] = "infrared"
            if name == "broken":
                (log / image["path"]).write_bytes(b"no picture")
        (log / "log.json").write_text(json.dumps(described))
    location = StoreLocation.parse(str(root / "store"))
    open_for_writing(location, ModelRow("m1", "packaged", "tower-1", None, 4, (), "{}"))
    windows, _ = windows_of([str(root / "fleet")], "auto", WindowConfig())
    rows = [
        {"scene_id": w.scene_id, "model_id": "m1", "run_id": "r1", "source": w.log.source, "log_id": w.log.log_id,
         "log_uri": w.log.uri, "reader": w.log.reader, "t_start_ns": w.t_start_ns, "t_end_ns": w.t_end_ns,
         "tags": [], "tag_probabilities": [], "hardness": 0.5}
        for w in windows
    ]  # fmt: skip
    append_rows(location, SCENES, pa.Table.from_pylist(rows, schema=scenes_schema(4)))
    write_run(location, RunRecord("r1", "m1", "finished", 1, 2, None, {}))
    return location


def test_a_detector_is_judged_as_after_its_last_epoch(house: Path, head: Head, whole: Done):
    given = ("--coco", house / "val.json", "--model", house / "whole", "--rounds", "50", "--out", house / "judged")
    done = call_job("evaluate_detector", *given, env=head.env)
    assert done.code == 0, done.stderr
    figures = done.figures
    # Boxes are judged at the pictures' own size here, at the detector's there.
    assert figures["ap50"]["value"] == pytest.approx(history(house / "whole")[-1]["val/ap50"], abs=3)
    assert figures["coco"]["ap50"] == pytest.approx(figures["ap50"]["value"], abs=0.01)
    assert {"parity", "calibration", "counts", "classes"} <= figures.keys() and figures["seen_in_training"] == 0
    assert {f.name for f in (house / "judged").iterdir()} == {"figures.json", "curves.png", "worst_errors.jpg"}


def test_what_cannot_be_learnt_or_judged_is_refused(house: Path, head: Head, whole: Done):
    (house / "nobody.json").write_text(
        json.dumps(
            json.loads((house / "val.json").read_text())
            | {"categories": [{"id": 0, "name": "elk"}, {"id": 1, "name": "emu"}]}
        )
    )
    train, model = options(house, "refused"), house / "whole"
    cases = [
        ("train_detector", 2, "multiples of", [*train, "--height", "65"]),
        ("train_detector", 2, "each in 0..", [*train, "--blocks", "1,99"]),
        ("train_detector", 3, "leak", [*train, "--val", house / "train.json"]),
        ("train_detector", 2, "expected one of elk", [*train, "--classes", "elk"]),
        ("train_detector", 2, "never overwritten", [*train, "--out", house / "whole"]),
        ("train_detector", 2, "--merge 0.5 goes with", [*train, "--merge", "0.5"]),
        ("train_detector", 3, "too_many_bad", [*train, "--max-bad-share", "0.01"]),
        ("evaluate_detector", 3, "was trained on 12 of", ["--coco", house / "train.json", "--model", model]),
        ("evaluate_detector", 2, "no class to judge", ["--coco", house / "nobody.json", "--model", model]),
        ("evaluate_detector", 2, "give --coco and --model, or", []),
        ("evaluate_detector", 5, "detector.json", ["--coco", house / "val.json", "--model", house]),
        ("predict_infrared", 3, "found neither", ["--images", "/nowhere", "--model", model, "--out", house / "x"]),
        ("predict_infrared", 5, "detector.json", ["--images", house / "val", "--model", house, "--out", house / "x"]),
    ]  # fmt: skip
    for job, code, words, arguments in cases:
        done = call_job(job, *arguments, env=head.env)
        assert (done.code, words in done.stderr) == (code, True), (words, done.code, done.stderr)
    assert not (house / "x").exists()
    damaged = house / "damaged"
    shutil.copytree(model, damaged)
    (damaged / "detector.safetensors").write_bytes(b"short")
    given = ("--images", house / "val", "--model", damaged, "--out", house / "x")
    done = call_job("predict_infrared", *given, env=head.env)
    assert done.code == 5 and "damaged or exchanged" in done.stderr and not (house / "x").exists()
