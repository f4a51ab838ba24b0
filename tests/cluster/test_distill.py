"""Distil as users do: small, on the cluster, killed, with one and two workers, with broken pairs and wrong options."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from system.training.learnt import learnt_by_backbone, marks_of, seen_before
from tests.cluster.conftest import Head
from tests.cluster.jobs import ROOT, Done, call_job, run_job

PAIRS = 10
# Sums are taken in another order with another number of workers.
WORKERS_TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pairs whose pictures show the same blobs, one of them broken, and a small backbone."""
    root = tmp_path_factory.mktemp("distilling")
    rng = np.random.default_rng(0)
    for name in ("visible", "infrared"):
        (root / "pairs" / name).mkdir(parents=True)
    for n in range(PAIRS):
        scene = np.kron(rng.integers(0, 255, (6, 8)), np.ones((10, 10)))
        rgb = np.stack([scene, scene[::-1], 255 - scene], axis=2).astype(np.uint8)
        Image.fromarray(rgb).save(root / "pairs" / "visible" / f"{n:03d}.png")
        Image.fromarray((255 - scene).astype(np.uint8)).save(root / "pairs" / "infrared" / f"{n:03d}.png")
    broken = root / "pairs" / "infrared" / "004.png"
    broken.write_bytes(broken.read_bytes()[:100])
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), root / "vit.safetensors")
    save_file(timm.create_model("test_resnet").state_dict(), root / "resnet.safetensors")
    return root


def options(house: Path, out: str, *more: str) -> list[str]:
    return [
        "--pairs", str(house / "pairs"), "--out", str(house / out), "--tower", f"timm:test_vit@{house}/vit.safetensors",
        "--height", "60", "--width", "80", "--blocks", "1,3", "--rank", "4", "--batch-size", "3", "--epochs", "3",
        "--learning-rate", "3e-3", "--save-steps", "2", "--cache", str(house / "cache"), "--cache-gb", "0.01",
        "--max-bad-share", "0.2", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(house: Path, head: Head) -> Done:
    done = run_job("distill_freqkd", *options(house, "whole"), env=head.env)
    assert done.code == 0, done.stderr
    return done


def history(folder: Path) -> list[dict[str, float]]:
    return json.loads((folder / "history.json").read_text())


def test_a_student_is_taught_a_broken_pair_is_counted_and_timm_loads_the_result(house: Path, whole: Done):
    figures = whole.figures
    assert figures["skipped"] == 1 and figures["images"] == 3 * (PAIRS - 1) and figures["resumed_from"] is None
    assert {"total", "mse", "low", "high", "mse/1", "low/1", "high/3"} <= figures["loss"].keys()
    assert figures["loss"]["low"] + figures["loss"]["high"] == pytest.approx(figures["loss"]["mse"], rel=1e-4)
    assert figures["images_per_s"] > 0
    rows = history(house / "whole")
    first, last = (np.mean([row["total"] for row in rows if row["epoch"] == epoch]) for epoch in (1, 3))
    assert last < first
    names = {"adapters.safetensors", "merged.safetensors", "README.md", "curves.png", "distill.json", "tensorboard"}
    assert names <= {file.name for file in (house / "whole").iterdir()}
    pictures = [str(house / "pairs" / "infrared" / f"{n:03d}.png") for n in range(PAIRS)]
    assert seen_before(marks_of(pictures), learnt_by_backbone(str(house / "whole")) or []) == list(range(PAIRS))
    model = timm.create_model("test_vit", num_classes=0, checkpoint_path=str(house / "whole" / "merged.safetensors"))
    before = load_file(house / "vit.safetensors")["blocks.1.mlp.fc1.weight"]
    assert not torch.equal(model.blocks[1].mlp.fc1.weight, before)


def test_a_network_of_convolutions_is_taught_and_timm_loads_its_stages(house: Path, head: Head):
    student = ("--student", f"timm:test_resnet@{house}/resnet.safetensors")
    arguments = options(house, "network", *student, "--blocks", "0,1,2,3", "--epochs", "1")
    done = call_job("distill_freqkd", *arguments, env=head.env)
    assert done.code == 0, done.stderr
    assert done.figures["images"] == PAIRS - 1 and {"total", "mse/0", "mse/3"} <= done.figures["loss"].keys()
    weights = house / "network" / "merged.safetensors"
    model = timm.create_model("test_resnet", features_only=True, out_indices=(1, 2, 3, 4), checkpoint_path=str(weights))
    before = load_file(house / "resnet.safetensors")["conv1.0.weight"]
    assert not torch.equal(dict(model.named_parameters())["conv1.0.weight"], before)
    done = call_job("distill_freqkd", *options(house, "refused", *student), env=head.env)
    assert done.code == 2 and "2 blocks of the teacher for the 4 stages" in done.stderr


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_a_killed_distillation_ends_where_the_unbroken_one_does(house: Path, head: Head, whole: Done, workers: str):
    out = f"again-{workers}"
    arguments = options(house, out, "--workers", workers)
    command = [sys.executable, str(ROOT / "jobs" / "distill_freqkd.py"), *arguments]
    process = subprocess.Popen(command, cwd=ROOT, env=head.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline_s = time.monotonic() + 180
    # A checkpoint's folder is there before Ray knows it; only what its list names is gone on from.
    listed = house / f".{out}.training" / "ray" / "checkpoint_manager_snapshot.json"
    while time.monotonic() < deadline_s and not (listed.is_file() and "checkpoint_2" in listed.read_text()):
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    assert not (house / out).exists()
    done = call_job("distill_freqkd", *arguments, env=head.env)
    assert done.code == 0, done.stderr
    assert done.figures["resumed_from"] is not None and done.figures["images"] == 3 * (PAIRS - 1)
    assert not list(house.glob(f".{out}.*"))
    if workers == "1":
        assert history(house / out) == history(house / "whole")
        ours, theirs = (load_file(house / f / "adapters.safetensors") for f in (out, "whole"))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for row, expected in zip(history(house / out), history(house / "whole"), strict=True):
        assert row == pytest.approx(expected, rel=WORKERS_TOLERANCE, abs=1e-9)


def test_what_cannot_be_distilled_is_refused_before_it_starts(house: Path, head: Head):
    (house / "empty").mkdir()
    (house / "alone" / "visible").mkdir(parents=True)
    (house / "alone" / "infrared").mkdir()
    Image.new("RGB", (8, 8)).save(house / "alone" / "visible" / "a.png")
    Image.new("L", (8, 8)).save(house / "alone" / "infrared" / "b.png")
    save_file(timm.create_model("test_vit3", num_classes=0).state_dict(), house / "wider.safetensors")
    cases = [
        (2, "blocks 1,9: expected at least one, each in 0..", ("--blocks", "1,9")),
        (2, "--blocks 1;2: expected whole numbers", ("--blocks", "1;2")),
        (2, "cutoff", ("--recipe", "reference", "--cutoff", "1.5")),
        (2, "no bands and hence no cutoff", ("--cutoff", "0.25")),
        (2, "expected each once", ("--blocks", "1,1")),
        (2, "rank 900: expected 1..", ("--rank", "900")),
        (2, "--recipe frekd: expected one of", ("--recipe", "frekd")),
        (2, "--setting paper: expected one of", ("--setting", "paper")),
        (2, "unknown backbone", ("--tower", "resnet")),
        (2, "has width 96 and patch 16", ("--teacher", f"timm:test_vit3@{house}/wider.safetensors")),
        (2, "infrared range '5'", ("--infrared-range", "5")),
        (3, "empty_folder", ("--pairs", str(house / "empty"))),
        (3, "no_pairs", ("--pairs", str(house / "alone"))),
    ]
    for code, words, more in cases:
        base = options(house, "refused")
        given = base[2:] if more[0] == "--pairs" else base
        done = call_job("distill_freqkd", *given, *more, env=head.env)
        assert (done.code, words in done.stderr) == (code, True), (words, done.code, done.stderr)
        assert not (house / "refused").exists()


@pytest.mark.slow
def test_too_many_unreadable_pairs_end_a_training_which_goes_on_when_they_are_mended(house: Path, head: Head):
    arguments = options(house, "mended")
    done = call_job("distill_freqkd", *arguments, "--max-bad-share", "0.05", env=head.env)
    assert done.code == 3 and "1 of 10 pairs could not be read, more than --max-bad-share 0.05" in done.stderr
    assert "004" in done.stderr and not (house / "mended").exists()
    done = call_job("distill_freqkd", *arguments, "--infrared-range", "0,255", env=head.env)
    assert done.code == 2 and "other settings (mapping)" in done.stderr
    assert call_job("distill_freqkd", *arguments, env=head.env).code == 0


def test_the_papers_setting_is_estimated_without_training():
    given = (
        "--setting",
        "vit-l-paper",
        "--recipe",
        "reference",
        "--estimate",
        "--num-pairs",
        "50000",
        "--workers",
        "4",
    )
    done = call_job("distill_freqkd", *given)
    assert done.code == 0, done.stderr
    told = done.figures
    assert told["trained_parameters"] > 2e7 and told["memory_bytes"] > 4e9 and told["seconds_per_epoch"] > 0
