"""One run of a study: the same twice, adapters shared by merge factors, pairs registered where they were moved."""

from __future__ import annotations

import json
import platform
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from system.freqkd.distiller import DistillConfig
from system.freqkd.registration import PictureShift
from system.pairs.records import Pair
from system.training import freqkd_run
from system.training.freqkd_arms import parse_arm
from system.training.freqkd_run import (
    Bench,
    Cell,
    TeacherFeatures,
    pooled_gallery,
    prepare_plain,
    prepare_registered,
    run_cell,
)
from system.training.probe_set import ProbeSet
from system.training.study_folder import partial_of, remove_partials

SIZE = (64, 96)
BLOCKS = (1, 3)


def pairs_of(count: int, seed: int) -> ProbeSet:
    """A bright square of 32 pixels in each, on a patch's corner; infrared is the RGB picture's negative."""
    rng = np.random.default_rng(seed)
    rgb = rng.integers(90, 130, (count, *SIZE, 3), dtype=np.uint8)
    pairs = []
    for n in range(count):
        y, x = 16 * int(rng.integers(0, 3)), 16 * int(rng.integers(0, 5))
        rgb[n, y : y + 32, x : x + 32] = 250
        boxes = np.array([[x, y, x + 32, y + 32]], np.float32)
        labels, ignored = np.zeros(1, np.int64), np.zeros(1, bool)
        pairs.append(Pair(f"{seed}-{n}", "made", "", "", boxes, labels, ignored, is_labelled=True))
    return ProbeSet("made", tuple(pairs), ("person",), rgb, 255 - rgb, (SIZE,) * count, ())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), tmp_path / "vit.safetensors")
    config = DistillConfig(
        tower=f"timm:test_vit@{tmp_path / 'vit.safetensors'}", height=64, width=96, blocks=BLOCKS, rank=4, alpha=4.0,
        epochs=1, batch_size=2,
    )  # fmt: skip
    made = Bench(tmp_path / "out", pairs_of(6, 0), pairs_of(4, 1), ("person",), 3, config, 20, torch.zeros(0))
    made = replace(made, gallery_NC=pooled_gallery(config, made.test, 3))
    prepare_plain(made, BLOCKS)
    return made


def test_a_run_gives_the_same_figures_again_and_learns(bench: Bench):
    cell = Cell(parse_arm("mse"), 8, 1)
    first = run_cell(bench, cell)
    assert first["steps"] == 3 and first["images"] == 6 and 0 <= first["patch_ap"]["person"] <= 100
    for file in (bench.out / "adapters").iterdir():
        file.unlink()
    second = run_cell(bench, cell)
    for told in (first, second):
        del told["seconds"], told["train_seconds"]
    assert first == second
    untouched = run_cell(bench, Cell(parse_arm("none"), 0, 0))
    assert untouched["retrieval_r1"] is not None and "losses" not in untouched
    held = [np.load(bench.out / f"{name}.npz")["scores_PK"] for name in ("none-d0-s0", "mse-d8-s1")]
    assert not np.array_equal(*held)


def test_merge_factors_share_one_training(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    run_cell(bench, Cell(parse_arm("mse"), 0, 0))
    monkeypatch.setattr(freqkd_run, "train", lambda *_: pytest.fail("it was trained again"))
    run_cell(bench, Cell(parse_arm("mse@merge=1"), 0, 0))
    scores = [np.load(bench.out / f"{name}-d0-s0.npz")["scores_PK"] for name in ("mse", "mse@merge=1")]
    assert not np.array_equal(*scores)


def test_features_of_a_mirrored_pair_are_those_of_the_mirrored_picture(bench: Bench):
    teacher = TeacherFeatures.of_run(bench, Cell(parse_arm("mse"), 0, 0))
    features, valid = teacher.rows([2, 2], [False, True])
    assert valid is None and [tuple(f.shape) for f in features] == [(2, 64, 4, 6)] * 2
    mirrored = torch.from_numpy(bench.train.rgb_NHWC[2][None, :, ::-1].copy())
    expected = freqkd_run.teacher_features(freqkd_run.fresh_network(bench.config.tower), mirrored, BLOCKS)
    for ours, theirs in zip(features, expected, strict=True):
        assert torch.allclose(ours[1], theirs[0], rtol=2e-3, atol=2e-3)


def test_a_pair_that_registering_leaves_alone_keeps_its_features(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    """The shift that is found is injected here; how well it is found is another test's."""
    shifts = freqkd_run.drift_shifts(16, 0, 6)
    shifts[0] = 0
    found = iter(shifts)

    def told(*_: object) -> PictureShift:
        down, right = next(found)
        return PictureShift(int(down), int(right), 1.0, True)

    monkeypatch.setattr(freqkd_run, "register_pair", told)
    monkeypatch.setattr(freqkd_run, "drift_shifts", lambda *_: shifts)
    report = prepare_registered(bench, 16, 0, BLOCKS)
    assert report["error_px"] == {"p50": 0, "p90": 0} and report["moved_share"] == pytest.approx(5 / 6)
    cell = Cell(parse_arm("registered"), 16, 0)
    teacher, plain = TeacherFeatures.of_run(bench, cell), TeacherFeatures.of_run(bench, Cell(parse_arm("mse"), 16, 0))
    assert teacher.valid_2NHW is not None and teacher.valid_2NHW[:, 0].all() and not teacher.valid_2NHW[:, 1:].all()
    assert np.array_equal(teacher.maps[0][:, 0], plain.maps[0][:, 0])
    assert not np.array_equal(teacher.maps[0][:, 1], plain.maps[0][:, 1])
    assert np.array_equal(teacher.valid_2NHW[0, 1], teacher.valid_2NHW[1, 1][:, ::-1])
    assert run_cell(bench, cell)["steps"] == 3
    assert prepare_registered(bench, 16, 0, BLOCKS) == report  # from its file
    assert load_file(bench.out / "adapters" / "registered-d16-s0.safetensors")
    assert json.loads((bench.out / "registered-d16-s0.json").read_text())["arm"] == "registered"


@pytest.mark.parametrize("killed_at", ["registered-d16-s0.json", "registered-d16-s0-b3.npy"])
def test_registering_goes_on_where_it_was_killed(bench: Bench, monkeypatch: pytest.MonkeyPatch, killed_at: str):
    """Killed before a file has its name: those after it are not there, those before it are whole."""

    class Killed(BaseException):
        pass

    replace = Path.replace

    def kill(partial: Path, file: Path) -> Path:
        if file.name == killed_at:
            raise Killed
        return replace(partial, file)

    monkeypatch.setattr(Path, "replace", kill)
    with pytest.raises(Killed):
        prepare_registered(bench, 16, 0, BLOCKS)
    cache = bench.out / "cache"
    assert np.load(cache / "registered-d16-s0-valid.npy").shape == (2, 6, 4, 6) and not (cache / killed_at).exists()
    monkeypatch.setattr(Path, "replace", replace)
    report = prepare_registered(bench, 16, 0, BLOCKS)
    files = {file.name: file.read_bytes() for file in cache.glob("registered*")}
    for name in files:
        (cache / name).unlink()
    assert prepare_registered(bench, 16, 0, BLOCKS) == report
    assert {file.name: file.read_bytes() for file in cache.glob("registered*")} == files


def test_what_killed_runs_left_half_written_is_removed_and_what_lives_stays(tmp_path: Path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    dead = f"{platform.node()}-{gone.pid}"
    elsewhere = f".rgb-b3.npy.another-machine-{gone.pid}"
    kept = {partial_of(Path("rgb-b3.npy")).name, elsewhere, "rgb-b3.npy", "mse-d0-s0.npz", ".hidden", "settings.json"}
    left = {f".rgb-b3.npy.{dead}", f".mse-d0-s0.{dead}.npz", f".settings.json.{dead}"}
    for name in kept | left:
        (tmp_path / name).touch()
    remove_partials(tmp_path, tmp_path / "not there")
    assert {file.name for file in tmp_path.iterdir()} == kept
