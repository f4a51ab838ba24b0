"""A study of detection refuses what no run could do before it writes anything, and tells what it has seen."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from jobs.study_detection import named_sets
from system.errors import ConfigError
from system.freqkd.distiller import DistillConfig
from system.infrared.detector_trainer import DetectorTrainConfig
from system.pairs.infrared_set import InfraredPicture, InfraredSet
from system.pairs.pixels import InfraredMapping
from system.report.console import ConsoleProgress
from system.training import detection_run, detection_study
from system.training.detection_run import DetectionBench, StudyCell, remove_leftovers, run_detection
from system.training.detection_study import TEST, DetectionStudyConfig, run_study
from system.training.freqkd_arms import parse_arm
from system.training.infrared_task import DetectionTask
from system.training.learnt import marks_of, write_learnt


class Reached(Exception):
    """Raised in place of what would come next."""


@pytest.fixture
def students(tmp_path: Path) -> Path:
    """The folder of a FreqKD study whose backbone is a ViT/16 of 6 blocks."""
    folder = tmp_path / "students"
    folder.mkdir()
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), tmp_path / "vit.safetensors")
    distill = DistillConfig(tower=f"timm:test_vit@{tmp_path / 'vit.safetensors'}", height=64, width=96, blocks=(1, 3))
    settings = {
        "distill": distill.model_dump(mode="json", exclude={"loss", "seed"}),
        "backbone": "",
        "registration": 1,
        "mapping": InfraredMapping().model_dump(mode="json"),
        "data": {},
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    return folder


class Told(ConsoleProgress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def note(self, line: str, level: str = "info", **ids: object) -> None:
        self.notes.append(line)


def pictures_of(folder: Path, count: int, seed: int) -> InfraredSet:
    """A warm square in each."""
    folder.mkdir()
    pictures = []
    for n in range(count):
        place = folder / f"{n}.png"
        pixels = np.random.default_rng([seed, n]).integers(0, 256, (64, 96), dtype=np.uint8)
        Image.fromarray(pixels).save(place)
        boxes = np.array([[8, 8, 40, 40]], np.float32)
        pictures.append(
            InfraredPicture(place.stem, str(place), boxes, np.zeros(1, int), np.zeros(1, bool), width=96, height=64)
        )
    return InfraredSet(folder.name, tuple(pictures), ("person",))


def studied(
    tmp_path: Path, students: Path, values: dict[str, Any], is_dry: bool = False, **study: object
) -> dict[str, Any]:
    train, test = (pictures_of(tmp_path / name, 3, seed) for seed, name in enumerate(("train", "test")))
    config = DetectionStudyConfig.parse(
        {"students": str(students), "train": "train", "arms": ("none",), "seeds": 1} | study, "test"
    )
    trained, progress = DetectorTrainConfig(epochs=1), ConsoleProgress()
    sets = (train, {TEST: test})
    return run_study(DetectionTask(), config, sets, values, trained, tmp_path / "out", progress, is_dry=is_dry)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"blocks": (1, 12)}, r"blocks 1,12: expected at least one, each in 0\.\."),
        ({"blocks": (1, 3), "height": 70}, "expected multiples of 16 pixels"),
        ({"blocks": (1, 3), "architecture": "yolo"}, "architecture"),
    ],
)
@pytest.mark.parametrize("is_dry", [True, False])
def test_what_does_not_fit_the_backbone_is_refused_before_anything_is_written(
    tmp_path: Path, students: Path, values: dict, words: str, is_dry: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(detection_study, "connect_to_ray", lambda: pytest.fail("it went on"))
    with pytest.raises(ConfigError, match=words):
        studied(tmp_path, students, values, is_dry)
    assert not (tmp_path / "out").exists()


def test_a_size_that_is_not_given_fits_the_patch_of_the_backbone(
    tmp_path: Path, students: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse_other_settings(out: Path, settings: dict[str, Any]) -> None:
        raise Reached(settings["detector"]["height"], settings["detector"]["width"])

    monkeypatch.setattr(detection_study, "refuse_other_settings", refuse_other_settings)
    with pytest.raises(Reached) as found:
        studied(tmp_path, students, {"blocks": (1, 3)})
    assert found.value.args == (288, 384)


@pytest.mark.parametrize(
    ("study", "words"),
    [
        ({"ours": "registred"}, "--ours registred: no recipe 'registred'"),
        ({"ours": "mse"}, "--ours mse: expected one of --arms, none"),
        ({"drifts": (0, 0)}, "--drifts 0,0: expected at least one, each once"),
        ({"drifts": ()}, "expected at least one"),
        ({"drifts": (33,)}, r"--drifts 33: expected 0\.\.32 pixels"),
    ],
)
def test_comparisons_that_would_be_left_out_or_made_twice_are_refused(
    tmp_path: Path, students: Path, study: dict, words: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(detection_study, "connect_to_ray", lambda: pytest.fail("it went on"))
    with pytest.raises(ConfigError, match=words):
        studied(tmp_path, students, {"blocks": (1, 3)}, **study)
    assert not (tmp_path / "out").exists()


def test_a_name_of_another_set_is_given_once():
    assert named_sets(["a=x", "b=y=z"]) == {"a": "x", "b": "y=z"}
    with pytest.raises(ConfigError, match="--also a=y: a is x already"):
        named_sets(["a=x", "a=y"])
    for text in ("x", "=x", "test=x", "train=x"):
        with pytest.raises(
            ConfigError, match=f"--also {text}: expected NAME=SET, with a name other than train and test"
        ):
            named_sets([text])


def test_copies_of_what_the_heads_learn_from_are_warned_of_and_counted(
    tmp_path: Path, students: Path, monkeypatch: pytest.MonkeyPatch
):
    train, test = pictures_of(tmp_path / "train", 3, 0), pictures_of(tmp_path / "test", 3, 1)
    shutil.copy(train.pictures[0].uri, test.pictures[2].uri)
    write_learnt(students, marks_of([train.pictures[1].uri]))
    counted: dict[str, int | None] = {}

    def tell_budget(_: dict[str, Any]) -> None:
        raise Reached

    count_seen = detection_study.count_seen

    def count(uris: list[str], *given: Any) -> int | None:
        counted[uris[0]] = count_seen(uris, *given)
        return counted[uris[0]]

    monkeypatch.setattr(detection_study, "count_seen", count)
    monkeypatch.setattr(detection_study, "connect_to_ray", lambda: None)
    monkeypatch.setattr(detection_study, "check_workers", lambda *_: None)
    monkeypatch.setattr(detection_study, "tasks_at_once", lambda *_: 1)
    study = DetectionStudyConfig(students=str(students), train="train", arms=("none",), seeds=1)
    progress, values, config = Told(), {"blocks": (1, 3)}, DetectorTrainConfig(epochs=1)
    with pytest.raises(Reached):
        run_study(
            DetectionTask(), study, (train, {TEST: test}), values, config, tmp_path / "out", progress, tell_budget
        )
    assert list(counted.values()) == [1]
    (warning,) = [note for note in progress.notes if "learnt from" in note]
    assert "the detectors of this study, from copies (set test) learnt from 1 of the 3 pictures" in warning


def bench_of(tmp_path: Path, students: Path, cache_gb: float) -> DetectionBench:
    sets = [pictures_of(tmp_path / name, 3, seed) for seed, name in enumerate(("train", "test"))]
    values = {"backbone": "x", "classes": ("person",), "height": 64, "width": 96, "blocks": (1, 3), "channels": 32}
    model, config = DetectionTask.config.parse(values, "test"), DetectorTrainConfig(epochs=1)
    (out := tmp_path / "out").mkdir()
    return DetectionBench(
        DetectionTask(), out, students, model, config, sets[0], {TEST: sets[1]}, 5, 1, cache_gb=cache_gb
    )


def test_a_run_keeps_its_features_below_the_study_and_takes_them_away(
    tmp_path: Path, students: Path, monkeypatch: pytest.MonkeyPatch
):
    """However it ends; a run that is killed leaves them to the next start."""
    bench, cell = bench_of(tmp_path, students, 1.0), StudyCell(parse_arm("none"), 0, 0)
    cache, held = bench.out / "cache" / cell.name, []
    draw = detection_run.draw_pictures

    def look(*given: Any, **named: Any) -> Any:
        held.append(len(list(cache.rglob("*.safetensors"))))
        return draw(*given, **named)

    monkeypatch.setattr(detection_run, "draw_pictures", look)
    told = run_detection(bench, cell)
    assert held == [3] and not cache.exists()
    again = run_detection(replace(bench, cache_gb=0.0), cell)
    assert held == [3, 0] and again["losses"] == told["losses"]

    def fail(*_: object, **__: object) -> None:
        assert cache.is_dir()
        raise Reached

    monkeypatch.setattr(detection_run, "draw_pictures", fail)
    with pytest.raises(Reached):
        run_detection(bench, cell)
    assert not cache.exists()


def test_a_start_clears_what_killed_runs_left_and_nothing_else(tmp_path: Path):
    (tmp_path / "cache" / "registered@merge=1-d0-s2" / "ab").mkdir(parents=True)
    (tmp_path / "cache" / "mine").mkdir()
    (tmp_path / "none-d0-s0.json").touch()
    remove_leftovers(tmp_path)
    kept = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert kept == {"cache", "cache/mine", "none-d0-s0.json"}
    remove_leftovers(tmp_path / "new")
