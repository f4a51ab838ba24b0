"""What a distillation and its judges are given: splits, other settings, pictures that are trained and tested on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.options import absolute_place
from system.errors import ConfigError, DataError
from system.freqkd.controls import Control
from system.freqkd.estimate import estimate
from system.freqkd.losses import RECIPES
from system.freqkd.recipes import vit_s
from system.pairs.pixels import InfraredMapping
from system.pairs.records import Pair
from system.pairs.registry import open_pairs
from system.training.distill import PairSource, gather_pairs
from system.training.freqkd_arms import parse_arms
from system.training.freqkd_study import StudyConfig, _refuse_blocks, seen_copies, study_freqkd
from system.training.probe_set import ProbeSet, read_set, refuse_shared, tell_faults
from system.training.study_folder import read_settings


def probe_set(*names: str) -> ProbeSet:
    pairs = tuple(Pair(name, "c", f"rgb/{name}", f"infrared/{name}") for name in names)
    pixels = np.zeros((len(pairs), 14, 14, 3), np.uint8)
    return ProbeSet("c", pairs, (), pixels, pixels, ((14, 14),) * len(pairs), ())


def test_pictures_that_are_trained_and_tested_on_are_refused():
    refuse_shared(probe_set("a", "b"), probe_set("c"))
    with pytest.raises(DataError, match="1 of 2 test pictures are trained on too"):
        refuse_shared(probe_set("a", "b"), probe_set("b", "c"))


def test_copies_of_training_pictures_are_counted_among_those_that_are_judged(tmp_path: Path):
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        Image.fromarray(rng.integers(0, 255, (14, 14), np.uint8)).save(tmp_path / f"{name}.png")
    shutil.copy(tmp_path / "b.png", tmp_path / "renamed.png")

    def of(*names: str) -> ProbeSet:
        made = probe_set(*names)
        pairs = (replace(pair, infrared_uri=str(tmp_path / f"{pair.pair_id}.png")) for pair in made.pairs)
        return replace(made, pairs=tuple(pairs))

    told: list[str] = []
    learnt, seen = seen_copies(of("a", "b"), of("c", "renamed"), told.append)
    assert seen == 1 and len(learnt) == 2 and "1 of the 2 pictures that are judged" in told[0]
    assert seen_copies(of("a"), of("c"), told.append)[1] == 0 and len(told) == 1


def test_test_splits_are_learnt_from_only_when_asked(data_root: Path):
    source = PairSource((str(data_root / "pairs" / "KAIST_sample"),))
    with pytest.raises(DataError, match="all 9 pairs are of the splits test; name one with --split"):
        gather_pairs(source)
    gathered = gather_pairs(replace(source, splits=("train", "test")))
    assert len(gathered.names) == 9 and gathered.other_splits == {}
    both = replace(source, uris=(*source.uris, str(data_root / "pairs" / "RoadScene")))
    assert gather_pairs(both).other_splits == {"test": 9}


def test_a_corpus_that_is_named_twice_is_refused():
    with pytest.raises(ConfigError, match="named twice"):
        gather_pairs(PairSource(("/data/kaist", "/data/msrs", "/data/kaist")))


def test_a_probe_reads_the_parts_that_it_is_for(data_root: Path):
    kaist = str(data_root / "pairs" / "KAIST_sample")
    with pytest.raises(DataError, match="expected pairs of train, found those of test"):
        read_set(kaist, ("train",), (28, 28), InfraredMapping())
    assert len(read_set(kaist, ("val", "test"), (28, 28), InfraredMapping()).pairs) == 9


def test_a_probe_tells_dropped_boxes_and_refuses_two_classes_of_one_name(tmp_path: Path):
    for name in ("a.png", "b.png"):
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (28, 28, 3), np.uint8)).save(tmp_path / name)
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(tmp_path / "b.png")
    boxes = [{"id": n, "image_id": 1, "category_id": n % 2, "bbox": [1, 1, 9, 9]} for n in range(4)]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "file_name2": "b.png", "width": 28, "height": 28}],
        "annotations": [*boxes, {"id": 9, "image_id": 7, "category_id": 0, "bbox": [1, 1, 9, 9]}],
        "categories": [{"id": 0, "name": "Person"}, {"id": 1, "name": "car"}],
    }
    (tmp_path / "x.json").write_text(json.dumps(content))
    found = read_set(str(tmp_path / "x.json"), ("train",), (28, 28), InfraredMapping())
    assert found.categories == ("person", "car") and not found.faults
    told: list[str] = []
    tell_faults((found,), told.append)
    assert len(told) == 1 and "boxes dropped or cut: 1" in told[0] and "id 7" in told[0]
    content["categories"][1]["name"] = "person"
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="two of its classes"):
        read_set(str(tmp_path / "x.json"), ("train",), (28, 28), InfraredMapping())


@pytest.mark.parametrize("arm", ["mse@rank=5000", "mse@blocks=6+6", "mse@blocks=99"])
def test_an_arm_that_cannot_be_is_refused_before_the_first_run(arm: str):
    config = StudyConfig(train="t", test="t", arms=(arm,))
    with pytest.raises(ConfigError):
        _refuse_blocks(config, parse_arms(config.arms))
    assert _refuse_blocks(config, parse_arms(("mse@rank=8@blocks=3+6",))) == (3, 6)


def test_names_of_a_list_that_are_not_there_count_as_faults(data_root: Path, tmp_path: Path):
    shutil.copytree(data_root / "pairs" / "KAIST_sample" / "images", tmp_path / "images")
    named = [pair.pair_id for pair in open_pairs(str(tmp_path)).pairs]
    (tmp_path / "imageSets").mkdir()
    (names := tmp_path / "imageSets" / "mine.txt").write_text("\n".join([*named, "set00/V000/I99999"]))
    with pytest.raises(DataError, match=r"1 of 10 pairs cannot be read, the first: set00/V000/I99999"):
        read_set(str(names), ("test",), (28, 28), InfraredMapping())


@pytest.mark.parametrize("amount", ["0.8", "0.5", "nan", "-1"])
def test_a_shift_of_less_than_a_pixel_is_no_control(amount: str):
    with pytest.raises(ConfigError, match="--controls"):
        Control.parse(f"shift:{amount}")


def test_files_of_weights_are_named_from_the_root_for_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert absolute_place("timm:x@v.safetensors") == f"timm:x@{tmp_path / 'v.safetensors'}"
    assert absolute_place("timm:x") == "timm:x" and absolute_place(None) is None
    (tmp_path / "student").mkdir()
    assert absolute_place("student") == str(tmp_path / "student")


def test_damaged_settings_of_an_unfinished_training_are_named(tmp_path: Path):
    (tmp_path / "settings.json").write_text('{"config": ')
    with pytest.raises(ConfigError, match=r"settings\.json: expected JSON.*begin in another folder"):
        read_settings(tmp_path / "settings.json")


def test_a_cutoff_is_of_losses_with_bands_alone():
    reference, registered = RECIPES["reference"], RECIPES["registered"]
    assert reference is not None and registered is not None
    assert reference.with_cutoff(0.25).cutoff == 0.25
    with pytest.raises(ConfigError, match="no bands and hence no cutoff"):
        registered.with_cutoff(0.25)
    with pytest.raises(ConfigError, match="cutoff"):
        reference.with_cutoff(1.5)


def test_an_estimate_asks_the_teacher_again_where_its_features_do_not_fit():
    config = vit_s()
    roomy, tight = estimate(config, 1000, 1.0), estimate(config, 1000, 1.0, cache_bytes=1e6)
    once_s = 1000 * roomy.teacher_operations / 1e12
    assert tight.seconds - roomy.seconds == pytest.approx((config.epochs - 2) * once_s)
    unregistered = estimate(config.model_copy(update={"loss": RECIPES["mse"]}), 1000, 1.0)
    assert roomy.seconds - unregistered.seconds == pytest.approx(2 * once_s)


def test_the_arm_that_is_compared_must_run(tmp_path: Path):
    config = StudyConfig(train="a", test="b", arms=("none,mse@merge=1@rank=4",), ours="mse@rank=8")
    with pytest.raises(ConfigError, match=r"--ours mse@rank=8: expected one of --arms, none, mse@rank=4@merge=1"):
        study_freqkd(config, tmp_path, progress=None)  # type: ignore[arg-type]
