"""A model knows which pictures it and its backbone learnt from, whatever these are called when it is judged."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from system.errors import DataError
from system.freqkd.distiller import DistillConfig
from system.infrared import detector, segmenter
from system.pipelines.pair_stream import PairName
from system.report.console import ConsoleProgress
from system.training.distill import GatheredPairs, learnt_from
from system.training.distill_publish import DISTILL_NAME
from system.training.learnt import (
    BACKBONE_NAME,
    count_seen,
    judge_unseen,
    learnt_by_backbone,
    learnt_with_start,
    marks_of,
    read_learnt,
    seen_before,
    tell_seen,
    write_learnt,
)


@pytest.fixture
def uris(tmp_path: Path) -> list[str]:
    """Four pictures and a name without a file."""
    rng = np.random.default_rng(0)
    for n in range(4):
        Image.fromarray(rng.integers(0, 256, (8, 9), dtype=np.uint8)).save(tmp_path / f"{n}.png")
    return [str(tmp_path / f"{n}.png") for n in range(4)] + [str(tmp_path / "gone.png")]


def model(folder: Path, own: list[str] | None, backbone: list[str] | None) -> Path:
    folder.mkdir()
    if own is not None:
        write_learnt(folder, marks_of(own))
    if backbone is not None:
        write_learnt(folder, marks_of(backbone), BACKBONE_NAME)
    return folder


def test_a_picture_is_known_by_name_and_as_a_copy_elsewhere(tmp_path: Path, uris: list[str]):
    folder = model(tmp_path / "m", [*uris[:2], uris[4]], None)
    shutil.copy(uris[1], tmp_path / "renamed.png")
    asked = [uris[0], uris[2], str(tmp_path / "renamed.png"), uris[4]]
    assert seen_before(marks_of(asked), read_learnt(folder) or []) == [0, 2, 3]


def test_pictures_of_the_backbone_are_counted_and_warned_of(tmp_path: Path, uris: list[str]):
    told: list[str] = []
    folder = model(tmp_path / "m", uris[:1], uris[1:3])
    assert judge_unseen(folder, "val.json", uris[1:4], "detector", told.append) == 2
    assert len(told) == 1 and "warning" in told[0] and "backbone" in told[0] and "2 of the 3" in told[0]
    assert judge_unseen(folder, "val.json", uris[3:], "detector", told.append) == 0 and len(told) == 1


def test_training_pictures_are_refused_by_name_and_their_copies_warned_of(tmp_path: Path, uris: list[str]):
    folder = model(tmp_path / "m", uris[:2], [])
    with pytest.raises(DataError, match=r"was trained on 1 of the 2 pictures of val\.json"):
        judge_unseen(folder, "val.json", uris[1:3], "detector", lambda _: None)
    shutil.copy(uris[1], tmp_path / "copy.png")
    told: list[str] = []
    assert judge_unseen(folder, "val.json", [str(tmp_path / "copy.png")], "detector", told.append) == 1
    assert "the detector" in told[0] and "copy.png" in told[0]


def test_what_is_not_told_is_not_counted_as_unseen(tmp_path: Path, uris: list[str]):
    told: list[str] = []
    assert judge_unseen(model(tmp_path / "old", uris[:1], None), "v", uris[2:], "detector", told.append) is None
    assert len(told) == 1 and "is not told" in told[0]
    assert tell_seen("x", uris, marks_of(uris), None, told.append) is None and len(told) == 2


def test_a_picture_that_several_learnt_from_counts_once(uris: list[str]):
    told: list[str] = []
    marks = marks_of(uris)
    learners = [("the heads", marks[:2]), ("the students", marks[1:3])]
    assert count_seen(uris, marks, learners, told.append) == 3
    assert [line.split(" learnt")[0] for line in told] == ["warning: the heads", "warning: the students"]
    assert count_seen(uris, marks, [("a", marks[:1]), ("b", None)], told.append) == 1
    assert count_seen(uris[3:], marks[3:], [("a", marks[:1]), ("b", None)], told.append) is None


def test_a_model_that_went_on_from_one_that_does_not_tell_does_not_pass_for_one_that_has_seen_nothing(
    tmp_path: Path, uris: list[str]
):
    told: list[str] = []
    learnt, of_backbone = learnt_with_start(marks_of(uris[:1]), model(tmp_path / "old", None, []), told.append)
    assert learnt == marks_of(uris[:1]) and of_backbone is None and "not told" in told[0]
    fresh = model(tmp_path / "fresh", uris[:1], None)
    assert judge_unseen(fresh, "v", uris[2:], "detector", told.append) is None
    with pytest.raises(DataError, match="was trained on 1 of the 2"):
        judge_unseen(fresh, "v", uris[:2], "detector", told.append)
    telling = model(tmp_path / "telling", uris[1:2], uris[2:3])
    learnt, of_backbone = learnt_with_start(marks_of(uris[:1]), telling, told.append)
    assert learnt == marks_of(uris[:2]) and of_backbone == marks_of(uris[2:3]) and len(told) == 2
    (telling / detector.CONFIG_NAME).write_text('{"is_frozen": false}')
    _, of_backbone = learnt_with_start(marks_of(uris[:1]), telling, told.append)
    assert of_backbone == marks_of(uris[1:3]), "a backbone that learnt with the earlier model"


def test_a_backbone_is_asked_by_folder_and_by_file_and_a_strangers_weights_saw_nothing_of_ours(
    tmp_path: Path, uris: list[str]
):
    distilled = model(tmp_path / "distilled", uris[:2], None)
    (distilled / DISTILL_NAME).write_text("{}")
    marks = sorted(marks_of(uris[:2]))
    assert learnt_by_backbone(str(distilled)) == marks
    assert learnt_by_backbone(f"timm:test_vit@{distilled}/merged.safetensors") == marks
    assert learnt_by_backbone("dinov2-packaged") == [] == learnt_by_backbone(f"timm:test_vit@{tmp_path}/w.safetensors")
    old = tmp_path / "old"
    old.mkdir()
    (old / DISTILL_NAME).write_text("{}")
    assert learnt_by_backbone(str(old)) is None


@pytest.mark.parametrize("config_name", [detector.CONFIG_NAME, segmenter.CONFIG_NAME])
def test_a_backbone_that_a_model_learnt_with_has_seen_what_it_saw_before(
    tmp_path: Path, uris: list[str], config_name: str
):
    whole = model(tmp_path / "whole", uris[:1], uris[1:2])
    silent = [model(tmp_path / "half", uris[:1], None), model(tmp_path / "none", None, None)]
    for folder in (whole, *silent):
        (folder / config_name).write_text("{}")
    backbones = [f"timm:test_vit@{folder}/backbone.safetensors" for folder in (whole, *silent)]
    assert learnt_by_backbone(backbones[0]) == marks_of(uris[:2])
    assert learnt_by_backbone(backbones[1]) is None and learnt_by_backbone(backbones[2]) is None
    (tmp_path / "whole" / config_name).write_text('{"is_frozen": true}')
    assert learnt_by_backbone(backbones[0]) == marks_of(uris[1:2]), "merged, but not trained on the model's pictures"


def test_a_student_of_a_distilled_backbone_has_seen_what_that_one_saw(tmp_path: Path, uris: list[str]):
    first = model(tmp_path / "first", uris[:1], None)
    (first / DISTILL_NAME).write_text("{}")
    gathered = GatheredPairs([PairName(0, "1", uris[2], uris[1])], {}, [], {})
    config = DistillConfig(tower=f"timm:test_vit@{first}/merged.safetensors", blocks=(1,))
    marks = marks_of(uris[:3])
    assert seen_before(marks, learnt_from(gathered, config, ConsoleProgress())) == [0, 1], "RGB pictures are not judged"
