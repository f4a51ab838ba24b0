"""What a distillation and its judges are given: splits, other settings, pictures that are trained and tested on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from system.errors import ConfigError, DataError
from system.freqkd.estimate import estimate
from system.freqkd.losses import RECIPES
from system.freqkd.recipes import vit_s
from system.pairs.records import Pair
from system.training.distill import PairSource, gather_pairs
from system.training.freqkd_study import StudyConfig, study_freqkd
from system.training.probe_set import ProbeSet, refuse_shared


def probe_set(*names: str) -> ProbeSet:
    pairs = tuple(Pair(name, "c", f"rgb/{name}", f"infrared/{name}") for name in names)
    pixels = np.zeros((len(pairs), 14, 14, 3), np.uint8)
    return ProbeSet("c", pairs, (), pixels, pixels, ((14, 14),) * len(pairs), ())


def test_pictures_that_are_trained_and_tested_on_are_refused():
    refuse_shared(probe_set("a", "b"), probe_set("c"))
    with pytest.raises(DataError, match="1 of 2 test pictures are trained on too"):
        refuse_shared(probe_set("a", "b"), probe_set("b", "c"))


def test_test_splits_are_learnt_from_only_when_asked(data_root: Path):
    source = PairSource((str(data_root / "pairs" / "KAIST_sample"),))
    with pytest.raises(DataError, match="all 9 pairs are of the splits test; name one with --split"):
        gather_pairs(source)
    gathered = gather_pairs(replace(source, splits=("train", "test")))
    assert len(gathered.names) == 9 and gathered.other_splits == {}
    both = replace(source, uris=(*source.uris, str(data_root / "pairs" / "RoadScene")))
    assert gather_pairs(both).other_splits == {"test": 9}


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
