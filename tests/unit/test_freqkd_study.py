"""Arms are read strictly, drift is the same for all of them, and intervals pair what belongs together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from system.backbones.runtime import LOGICAL_GPUS, device_of
from system.bootstrap import draw_pictures
from system.errors import ConfigError, DataError
from system.freqkd.distiller import DistillConfig
from system.report.console import ConsoleProgress
from system.report.freqkd_study import freqkd_table, study_markdown, write_plot
from system.training.freqkd_arms import compared_arm, drift_shifts, drifted, parse_arm, parse_arms
from system.training.freqkd_study import StudyConfig, other_recipes, study_freqkd
from system.training.freqkd_summary import RunFigures, summarise

CLASSES = ("person", "car")


def run(precision: float, per_round: np.ndarray, recalled: float = 0.5) -> RunFigures:
    """A run whose two classes are equally good."""
    drawn_BK = np.repeat(per_round[:, None], 2, 1)
    return RunFigures(
        np.full(2, precision), drawn_BK, {1: recalled, 5: 1.0}, {k: np.full(len(per_round), recalled) for k in (1, 5)}
    )


def study(rounds: int = 200) -> dict:
    """Three seeds at two drifts: `good` is always two points above `mse`, whatever the pictures and the seed."""
    pictures = np.random.default_rng(0).normal(0, 0.05, rounds)
    runs = {("none", 0, 0): run(0.4, 0.4 + pictures)}
    for drift in (0, 8):
        for seed in range(3):
            level = 0.5 + 0.03 * seed - 0.01 * drift
            runs["mse", drift, seed] = run(level, level + pictures)
            runs["good", drift, seed] = run(level + 0.02, level + 0.02 + pictures)
    return summarise(runs, ("none", "mse", "good"), (0, 8), 3, CLASSES, "good")


def test_a_run_that_is_given_a_gpu_computes_there(monkeypatch: pytest.MonkeyPatch):
    config = StudyConfig(train="a", test="b", arms=("mse",), threads=4)
    assert config.resources == {"num_cpus": 4, "num_gpus": 0} and device_of(config.use_gpu) == "cpu"
    config = config.model_copy(update={"use_gpu": True})
    assert config.resources == {"num_cpus": 4, "num_gpus": 1} and device_of(config.use_gpu) == "cuda"
    monkeypatch.setenv(LOGICAL_GPUS, "1")
    assert device_of(config.use_gpu) == "cpu"


def test_projections_that_a_transformer_lacks_cannot_learn_first(tmp_path: Path):
    config = StudyConfig(train="a", test="b", arms=("none,mse@first=0.3",))
    with pytest.raises(ConfigError, match=r"mse@first=0\.3: first= is of a CNN's projections"):
        study_freqkd(config, tmp_path, ConsoleProgress())
    assert not list(tmp_path.iterdir())


def test_an_arm_has_one_name_however_its_options_are_written():
    arm = parse_arm("reference@rank=16@cutoff=0.250")
    assert arm.name == "reference@cutoff=0.25@rank=16" and arm.loss is not None and arm.loss.cutoff == 0.25
    config = arm.config(DistillConfig(height=28, width=28), seed=3)
    assert (config.rank, config.alpha, config.seed, config.loss.bands) == (16, 16.0, 3, "reference")
    arm = parse_arm("mse@blocks=6+9@rank=full@merge=0.25")
    config = arm.config(DistillConfig(), seed=0)
    assert (config.blocks, config.rank, config.merge_factor) == ((6, 9), 0, 0.25)
    assert arm.name == "mse@rank=full@blocks=6+9@merge=0.25" and arm.trained_as == "mse@rank=full@blocks=6+9"
    assert parse_arm("mse@first=0.3@merge=0.5").trained_as == "mse@first=0.3"
    assert parse_arm("mse@first=0.3").config(DistillConfig(), 0).projections_first == 0.3
    assert parse_arm("mse").config(DistillConfig(), 0).merge_factor == 0.5, "judged as it is exported"
    assert parse_arm("registered").is_registered and not parse_arm("none").is_registered


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected some of"),
        ("mse,mse", "stands there twice"),
        ("ms", "no recipe 'ms'"),
        ("none@rank=4", "takes no options"),
        ("mse@cutoff=0.5", "has no bands"),
        ("reference@cutoff=0", r"\(0, 1\]"),
        ("reference@cutoff=x", "cutoff=x"),
        ("reference@cut=0.5", "expected each of"),
        ("reference@rank=2@rank=4", "expected each of"),
        ("reference@rank=0", "or full"),
        ("reference@blocks=", "blocks="),
        ("reference@merge=nan", "merge=nan"),
        ("reference@first=1", "first=1"),
    ],
)
def test_arms_that_cannot_be_are_refused_with_what_was_expected(text: str, words: str):
    with pytest.raises(ConfigError, match=words):
        parse_arms([text])


def test_the_arm_that_is_compared_has_one_name_however_it_is_written():
    arms = parse_arms(["none,registered@merge=1"])
    assert compared_arm("registered@merge=1.0", arms) == "registered@merge=1"
    assert compared_arm(None, arms) == "registered", "compared with none where it does not run"


def test_drift_is_fixed_for_each_pair_and_seed_and_grows_in_one_direction():
    short, long = drift_shifts(4, 1, 500), drift_shifts(28, 1, 500)
    assert np.array_equal(short, drift_shifts(4, 1, 500)) and not np.array_equal(short, drift_shifts(4, 2, 500))
    assert np.abs(long).max() == 28 and np.abs(short).max() == 4 and abs(long.mean()) < 1
    assert np.abs(long / 7 - short).max() <= 1
    assert not drift_shifts(0, 1, 5).any()


def test_a_drifted_picture_is_moved_and_its_edge_repeated():
    picture = np.arange(12, dtype=np.uint8).reshape(1, 3, 4, 1).repeat(3, 3)
    moved = drifted(picture, np.array([[1, -2]]))[0, ..., 0]
    assert moved.tolist() == [[2, 3, 3, 3], [2, 3, 3, 3], [6, 7, 7, 7]]
    assert np.array_equal(drifted(picture, np.array([[0, 0]])), picture)


def test_a_difference_that_no_draw_changes_has_no_width_though_each_arm_has():
    result = study()
    against = result["differences"]["ours_against"]
    for drift in ("0", "8"):
        assert against["mse"][drift] == {"mean": 2.0, "low": 2.0, "high": 2.0}
        row = result["arms"]["mse"][drift]
        assert row["high"] - row["low"] > 10 and row["seeds"] == 3
        assert row["person"]["mean"] == row["car"]["mean"] == row["mean"]
    assert result["arms"]["none"]["0"] == result["arms"]["none"]["8"] and result["arms"]["none"]["0"]["seeds"] == 1
    gain = result["differences"]["against_none"]["mse"]["0"]  # the seeds alone make its width
    assert gain["mean"] == 13.0 and 10 <= gain["low"] <= 11 and 15 <= gain["high"] <= 16


def test_a_class_that_a_draw_of_pictures_lacks_is_left_out_of_its_mean():
    drawn_BK = np.array([[0.2, np.nan], [0.2, 0.4], [np.nan, np.nan]])
    figures = RunFigures(np.array([0.2, 0.4]), drawn_BK, {}, {})
    value, drawn_B = figures.values("mean", CLASSES)
    assert value == pytest.approx(0.3) and drawn_B[:2] == pytest.approx([0.2, 0.3]) and np.isnan(drawn_B[2])


def test_figures_of_a_run_are_read_back_and_a_damaged_file_is_named(tmp_path: Path):
    file = tmp_path / "mse-d0-s0.npz"
    np.savez(file, precision_K=np.ones(2), drawn_precision_BK=np.ones((6, 2), np.float32), rank_N=np.array([1, 3, 9]))
    found = RunFigures.read(file, draw_pictures(3, 6, 0))
    assert found.recall == {1: pytest.approx(1 / 3), 5: pytest.approx(2 / 3)}
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match="mse-d0-s0"):
        RunFigures.read(file, draw_pictures(3, 6, 0))


def test_a_study_is_told_in_words_tables_and_a_plot(tmp_path: Path):
    budget = {"runs": 13, "images_per_run": 182, "steps_per_run": 91, "batch_size": 2, "epochs": 1, "test_pictures": 42}
    found = {"confident_share": 0.9, "moved_share": 0.8, "error_px": {"p50": 1, "p90": 3}}
    registration = {"8": found | {"injected_px": {"p50": 5, "p90": 8}}}
    result = study() | {"budget": budget | {"size": [126, 168]}, "registration": registration}
    text = study_markdown(result, "study.png")
    assert "| mse | +2.0 (+2.0 to +2.0) | +2.0 (+2.0 to +2.0) |" in text
    assert "| 8 px | 80 % | 5 | 8 | 1 | 3 |" in text and "retrieval, R@5" in text
    write_plot(result, tmp_path / "study.png")
    assert (tmp_path / "study.png").stat().st_size > 10_000
    assert freqkd_table(result).row_count == 3
    assert "copies" not in text
    assert "4 of the test pictures are copies" in study_markdown(result | {"seen_in_training": 4}, "study.png")


def test_a_study_folder_takes_new_arms_but_no_arm_that_became_another(tmp_path: Path):
    settings = {"distill": {"epochs": 1}, "recipes": {"mse": {"kind": "mse"}}}
    assert other_recipes(tmp_path, settings) == {}
    (tmp_path / "settings.json").write_text(json.dumps(settings), "utf-8")
    more = settings | {"recipes": {"cosine": {"kind": "cosine"}}}
    assert other_recipes(tmp_path, more) == {"mse": {"kind": "mse"}}
    with pytest.raises(ConfigError, match=r"other settings \(recipe of mse\)"):
        other_recipes(tmp_path, settings | {"recipes": {"mse": {"kind": "log_mse"}}})
    with pytest.raises(ConfigError, match=r"other settings \(distill\)"):
        other_recipes(tmp_path, settings | {"distill": {"epochs": 2}})
