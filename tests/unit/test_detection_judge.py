"""Our matching says what COCO's own says, miss rates are those that were published; intervals hold what they should."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from system.bootstrap import draw_pictures
from system.errors import ConfigError, DataError
from system.infrared.detections import Detections, Truth
from system.infrared.judge import Judged, calibration, coco_figures, figures, worst_errors
from system.infrared.kaist import (
    SUBSETS,
    KaistImage,
    infrared_pictures,
    read_kaist_annotations,
    read_kaist_results,
    write_kaist_results,
)
from system.infrared.kaist_judge import kaist_figures, kaist_matches
from system.infrared.matching import (
    COCO_OVERLAPS,
    RECALLS_R,
    Matches,
    average_precision,
    drawn_average_precision,
    match,
    precision_recall,
)
from system.infrared.miss_rate import log_average_miss_rate
from system.pipelines.config import PoolConfig
from system.pipelines.infrared_reading import Shot
from system.pipelines.infrared_stream import PictureResult
from system.report.console import ConsoleProgress
from system.training import evaluate_detector, evaluate_kaist
from system.training.evaluate_detector import JudgeConfig, claim_folder

SIZE = (120, 160)


def truth(*boxes: tuple[float, ...], labels: list[int] | None = None, ignored: tuple[int, ...] = ()) -> Truth:
    is_ignored = np.isin(np.arange(len(boxes)), ignored)
    return Truth(np.array(boxes, np.float32).reshape(-1, 4), np.array(labels or [0] * len(boxes), np.int64), is_ignored)


def found(*rows: tuple[float, ...], label: int = 0) -> Detections:
    values = np.array(rows, np.float32).reshape(-1, 5)
    return Detections.of(values[:, :4], values[:, 4], [label] * len(values), SIZE)


def random_case(seed: int, pictures: int = 6, classes: int = 2) -> Judged:
    rng = np.random.default_rng(seed)
    all_found, truths = [], []
    for _ in range(pictures):
        count = int(rng.integers(0, 6))
        corner, side = rng.uniform(0, 80, (count, 2)), rng.uniform(4, 60, (count, 2))
        boxes = np.concatenate([corner, corner + side], 1)
        labels = rng.integers(0, classes, count)
        truths.append(Truth(boxes.astype(np.float32), labels, rng.random(count) < 0.2))
        near = np.repeat(boxes, 3, axis=0) + rng.normal(0, 4, (3 * count, 4))
        extra = np.concatenate([rng.uniform(0, 60, (3, 2)), rng.uniform(70, 120, (3, 2))], 1)
        guessed = np.concatenate([near, extra])
        guessed[:, 2:] = np.maximum(guessed[:, 2:], guessed[:, :2] + 1)
        guessed_labels = np.concatenate([np.repeat(labels, 3), rng.integers(0, classes, 3)])
        # COCO sorts equal scores in its own order.
        scores = rng.permutation(len(guessed)) / len(guessed) * 0.99 + rng.random() * 0.001
        all_found.append(Detections.of(guessed, scores, guessed_labels, SIZE))
    return Judged.of(tuple(f"c{k}" for k in range(classes)), all_found, truths)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000))
def test_average_precision_is_that_of_coco(seed: int):
    judged = random_case(seed)
    theirs = coco_figures(judged)
    ours = judged.average_precision()
    known = ours[np.isfinite(ours).all(1)]
    if not len(known):
        assert theirs["ap"] is None
        return
    assert theirs["ap"] == pytest.approx(100 * known.mean(), abs=0.006)
    assert theirs["ap50"] == pytest.approx(100 * known[:, 0].mean(), abs=0.006)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000))
def test_a_draw_is_judged_as_if_its_pictures_were_there_so_many_times(seed: int):
    judged = random_case(seed)
    counts_BN = np.random.default_rng(seed).multinomial(6, [1 / len(judged.found)] * len(judged.found), 3)
    for k in range(len(judged.classes)):
        drawn_BT = drawn_average_precision(judged.matches[k], counts_BN.astype(float))
        for counts_N, drawn_T in zip(counts_BN, drawn_BT, strict=True):
            chosen = np.repeat(np.arange(len(judged.found)), counts_N)
            again = match([judged.found[n] for n in chosen], [judged.truths[n] for n in chosen], k)
            np.testing.assert_allclose(drawn_T, average_precision(again))


def test_many_draws_of_many_pictures_are_judged_each_alike_and_in_little_memory():
    rng = np.random.default_rng(0)
    pictures, detections = 2000, 8000
    outcome_TM = rng.integers(-1, 2, (1, detections)).astype(np.int8)
    image_M = rng.integers(0, pictures, detections)
    matches = Matches(
        scores_M=np.linspace(1, 0, detections), image_M=image_M, outcome_TM=outcome_TM,
        place_M=np.zeros(detections, int), truths_N=np.bincount(image_M, minlength=pictures),
    )  # fmt: skip
    counts_BN = draw_pictures(pictures, 300, seed=0)
    tracemalloc.start()
    drawn_B1 = drawn_average_precision(matches, counts_BN)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # A number for each found object and picture alone is 43 MB.
    assert peak_bytes < 40e6
    for draw in range(0, 300, 23):
        again_M = counts_BN[draw][image_M]
        true_M = (again_M * (outcome_TM[0] == 1)).cumsum()
        false_M = (again_M * (outcome_TM[0] == 0)).cumsum()
        precision_M = true_M / np.maximum(true_M + false_M, np.finfo(float).eps)
        recall_M = true_M / (counts_BN[draw] @ matches.truths_N)
        best_R = [precision_M[recall_M >= recall].max(initial=0.0) for recall in RECALLS_R]
        assert drawn_B1[draw, 0] == pytest.approx(np.mean(best_R), rel=1e-12)


def test_an_ignored_region_takes_many_detections_and_an_object_one():
    real = truth((10, 10, 30, 50), (60, 10, 100, 60), ignored=(1,))
    guesses = found(
        (10, 10, 30, 50, 0.9),
        (11, 10, 31, 50, 0.8),
        (62, 12, 70, 30, 0.7),
        (80, 20, 90, 40, 0.6),
        (0, 100, 9, 110, 0.5),
    )
    matches = match([guesses], [real], 0, [0.5])
    assert matches.outcome_TM[0].tolist() == [1, 0, -1, -1, 0]
    precision, recall = precision_recall(matches, 0)
    assert recall[0] == 1 and precision[0] == 1
    assert average_precision(matches)[0] == 1


def test_a_class_that_is_not_there_has_no_figure_and_leaves_the_others_theirs():
    judged = Judged.of(("person", "elk"), [found((10, 10, 30, 50, 0.9))], [truth((10, 10, 30, 50))])
    told = figures(judged, np.ones((5, 1)))
    assert told["ap50"] == {"value": 100.0, "low": 100.0, "high": 100.0}
    assert told["classes"]["elk"]["ap50"]["value"] is None and told["classes"]["elk"]["objects"] == 0


def test_an_interval_over_pictures_holds_the_value_and_narrows_with_more_of_them():
    few, many = random_case(3, 8), random_case(3, 60)
    widths = []
    for judged in (few, many):
        counts = np.random.default_rng(0).multinomial(
            len(judged.found), [1 / len(judged.found)] * len(judged.found), 200
        )
        told = figures(judged, counts.astype(float))["ap50"]
        assert told["low"] <= told["value"] <= told["high"]
        widths.append(told["high"] - told["low"])
    assert widths[1] < widths[0]


def test_a_detector_that_finds_nothing_has_figures_of_nought():
    told = figures(Judged.of(("person",), [found()], [truth((10, 10, 30, 50))]), np.ones((5, 1)))
    assert told["ap50"]["value"] == told["coco"]["ap50"] == 0 and told["coco"]["ap_large"] is None


def test_calibration_and_the_worst_errors_name_what_is_wrong():
    judged = Judged.of(
        ("person",),
        [found((10, 10, 30, 50, 0.95), (100, 10, 120, 50, 0.91)), found()],
        [truth((10, 10, 30, 50)), truth((5, 5, 100, 100))],
    )
    told = calibration(judged)
    assert told["bins"] == [{"low": 0.9, "high": 1.0, "detections": 2, "mean_score": 0.93, "precision": 0.5}]
    assert told["expected_calibration_error"] == pytest.approx(0.43)
    alarm, missed = worst_errors(judged, 0.3, 4)
    assert (alarm.kind, alarm.picture, missed.kind, missed.picture) == ("false_alarm", 0, "missed", 1)


def test_a_miss_rate_by_hand():
    real = [truth((10, 10, 30, 50)), truth((10, 10, 30, 50))]
    # One found at once, one false alarm in two pictures, then the other found.
    guesses = [found((10, 10, 30, 50, 0.9), (90, 90, 110, 110, 0.8)), found((10, 10, 30, 50, 0.7))]
    matches = match(guesses, real, 0, [0.5])
    # At FPPI under 0.5 half is missed; at 0.56 and 1 nobody is.
    expected = np.exp((7 * np.log(0.5) + 2 * np.log(1e-10)) / 9)
    assert log_average_miss_rate(matches) == pytest.approx(expected)
    assert np.isnan(log_average_miss_rate(match([found()], [truth()], 0, [0.5])))


# Of the tables of both papers: near, medium, far; no, partial, heavy occlusion. Boxes of exactly 45 and 115 px count.
_PUBLISHED_SUBSETS = {
    "MLPD": (0.00, 12.10, 52.79, 25.18, 29.84, 55.05),
    "MBNet": (0.00, 16.07, 55.99, 27.74, 35.43, 59.14),
}


@pytest.mark.parametrize("method", ["MLPD", "MBNet"])
def test_published_miss_rates_are_met(data_root: Path, method: str):
    folder = data_root / "pairs" / "KAIST_eval"
    expected = json.loads((folder / "expected.json").read_text())[method]
    images = read_kaist_annotations(folder / "KAIST_annotation.json")
    told = kaist_figures(kaist_matches(images, read_kaist_results(folder / f"{method}_result.txt", images)), 20)
    for name, published, persons in zip(
        ("all", "day", "night"), expected["published_MR_all_day_night"], expected["n_gt_reasonable"], strict=True
    ):
        assert told[f"mr_{name}"] == pytest.approx(published, abs=0.02)
        assert told["counts"][name]["persons"] == persons
        assert told["intervals"][f"mr_{name}"]["low"] < published < told["intervals"][f"mr_{name}"]["high"]
    subsets = ("near", "medium", "far", "no_occlusion", "partial_occlusion", "heavy_occlusion")
    assert [told[f"mr_{name}"] for name in subsets] == pytest.approx(_PUBLISHED_SUBSETS[method], abs=0.02)
    assert {f"mr_{name}" for name in SUBSETS} <= told.keys()


@pytest.mark.parametrize(("height", "subsets"), [(44, {"far"}), (45, {"far", "medium"}), (115, {"medium", "near"})])
def test_a_person_as_tall_as_a_bound_belongs_to_both_sides(height: int, subsets: set[str]):
    image = KaistImage(
        "set06/V000/I00019", (512, 640), np.float32([[50, 50, 70, 50 + height]]), np.int64([0]), np.array([False])
    )
    sizes = ("near", "medium", "far")
    assert {name for name in sizes if not image.truth(SUBSETS[name]).is_ignored[0]} == subsets


@pytest.mark.parametrize(
    ("line", "code"),
    [("1,2,3,4", "bad_line"), ("1,2,3,4,5,x", "bad_line"), ("9,1,2,3,4,0.5", "unknown_image"), ("", "empty_file"),
     ("1,2,3,nan,5,0.5", "bad_line")],
)  # fmt: skip
def test_a_result_file_that_cannot_be_judged_names_the_line(tmp_path: Path, line: str, code: str):
    annotations = {
        "images": [{"id": 0, "im_name": "set06/V000/I00019", "height": 512, "width": 640}],
        "annotations": [], "categories": [{"id": 1, "name": "person"}],
    }  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(annotations))
    (tmp_path / "r.txt").write_text(line + "\n")
    images = read_kaist_annotations(tmp_path / "a.json")
    with pytest.raises(DataError) as raised:
        read_kaist_results(tmp_path / "r.txt", images)
    assert raised.value.code == code and "r.txt" in raised.value.message
    (endless := json.loads(json.dumps(annotations)))["images"][0]["id"] = float("inf")
    nobody = annotations | {"categories": [{"id": 1, "name": "car"}]}
    for text in ('{"images": [1]}', json.dumps(endless), json.dumps(nobody), "[" * 100_000):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(DataError, match=r"a\.json"):
            read_kaist_annotations(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("drive", "light"), [("set00", "day"), ("set02", "day"), ("set03", "night"), ("set11", "night")]
)
def test_the_light_of_a_drive_is_its_makers(drive: str, light: str):
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.bool_)
    assert KaistImage(f"{drive}/V000/I00019", (512, 640), *nothing).light == light


def test_a_written_result_file_is_read_back_as_it_was(data_root: Path, tmp_path: Path):
    folder = data_root / "pairs" / "KAIST_eval"
    images = read_kaist_annotations(folder / "KAIST_annotation.json")
    published = read_kaist_results(folder / "MLPD_result.txt", images)
    write_kaist_results(tmp_path / "ours" / "r.txt", published)
    again = read_kaist_results(tmp_path / "ours" / "r.txt", images)
    assert [len(found) for found in again] == [len(found) for found in published]
    line = (folder / "MLPD_result.txt").read_text().splitlines()[0]
    assert (tmp_path / "ours" / "r.txt").read_text().splitlines()[0] == line
    for ours, theirs in zip(again, published, strict=True):
        assert np.allclose(ours.boxes_xyxy, theirs.boxes_xyxy, atol=1e-3)
        assert np.allclose(ours.scores, theirs.scores, atol=1e-7)
    assert [file.name for file in (tmp_path / "ours").iterdir()] == ["r.txt"]


@pytest.fixture
def kaist_subset(data_root: Path, tmp_path: Path) -> tuple[Path, str]:
    """Annotations of the few pictures that are here, and of one that is not."""
    content = json.loads((data_root / "pairs" / "KAIST_eval" / "KAIST_annotation.json").read_text())
    root = data_root / "pairs" / "KAIST_sample"
    present = {f"{f.parts[-4]}/{f.parts[-3]}/{f.stem}" for f in (root / "images").glob("set*/V*/lwir/*")}
    kept = [image for image in content["images"] if image["im_name"] in present]
    kept.append({"id": 99_999, "im_name": "set06/V000/I99999", "height": 512, "width": 640})
    ids = {image["id"] for image in kept}
    content |= {"images": kept, "annotations": [row for row in content["annotations"] if row["image_id"] in ids]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    return tmp_path / "a.json", str(root)


def test_a_detectors_persons_on_kaist_are_written_and_judged(
    kaist_subset: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The detector tells the truth, and of cars, which do not count; images are numbered in the annotation's order."""
    annotations, root = kaist_subset
    images = read_kaist_annotations(annotations)
    assert len(images) > 3
    truths = dict(zip(infrared_pictures(root, images), images, strict=True))

    def detect_all(uris: list[str], *_: object) -> dict[str, PictureResult]:
        results = {}
        for uri in uris:
            boxes = truths[uri].boxes_xyxy
            labels, scores = [1] * len(boxes) + [0], [0.9] * len(boxes) + [0.99]
            found = Detections.of([*boxes, [0, 0, 50, 90]], scores, labels, (512, 640))
            results[uri] = PictureResult(Shot(uri), 1, found)
        return results

    config = SimpleNamespace(config=SimpleNamespace(classes=("car", "person")))
    monkeypatch.setattr(evaluate_kaist, "detect_all", detect_all)
    monkeypatch.setattr(evaluate_kaist, "read_detector_config", lambda _: config)
    monkeypatch.setattr(evaluate_kaist, "detector_id", lambda _: "d")
    monkeypatch.setattr(evaluate_kaist, "connect_to_ray", lambda: None)

    def judged(share: float, name: str) -> dict:
        config, progress = JudgeConfig(rounds=5, max_bad_share=share), ConsoleProgress()
        return evaluate_kaist.judge_on_kaist(
            annotations, root, str(tmp_path), tmp_path / name, None, config, PoolConfig(), progress
        )

    with pytest.raises(DataError, match="set06/V000/I99999: missing_file"):
        judged(0.0, "r.txt")
    told = judged(0.5, "r.txt")
    assert told["unreadable"] == 1 and told["pictures"] == len(images) and told["seen_in_training"] is None
    assert told["mr_every_size"] == pytest.approx(0, abs=0.01)
    lines = [line.split(",") for line in (tmp_path / "r.txt").read_text().splitlines()]
    assert len(lines) == sum(len(image.boxes_xyxy) for image in images)
    assert {int(line[0]) for line in lines} == {n for n, image in enumerate(images, 1) if len(image.boxes_xyxy)}
    with pytest.raises(ConfigError, match="never overwritten"):
        judged(0.5, "r.txt")


def test_what_lies_in_boxes_of_an_ignored_class_is_neither_right_nor_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    Image.fromarray(np.zeros((64, 80), np.uint8)).save(tmp_path / "a.png")
    boxes = [[1.0, 1.0, 20.0, 30.0], [40.0, 1.0, 20.0, 30.0]]
    annotations = [{"id": k, "image_id": 1, "category_id": k, "bbox": box} for k, box in enumerate(boxes)]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 80, "height": 64}],
        "annotations": annotations,
        "categories": [{"id": 0, "name": "person"}, {"id": 1, "name": "People"}],
    }
    (tmp_path / "x.json").write_text(json.dumps(content))

    def detect_all(uris: list[str], *_: object) -> dict[str, PictureResult]:
        corners = [[x, y, x + w, y + h] for x, y, w, h in boxes]
        return {uri: PictureResult(Shot(uri), 1, Detections.of(corners, [0.5, 0.9], [0, 0], (64, 80))) for uri in uris}

    config = SimpleNamespace(config=SimpleNamespace(classes=("person",)))
    monkeypatch.setattr(evaluate_detector, "detect_all", detect_all)
    monkeypatch.setattr(evaluate_detector, "read_detector_config", lambda _: config)
    monkeypatch.setattr(evaluate_detector, "detector_id", lambda _: "d")
    monkeypatch.setattr(evaluate_detector, "connect_to_ray", lambda: None)

    def judged(*ignored: str) -> dict:
        config = JudgeConfig(rounds=5, ignored=ignored)
        uri = str(tmp_path / "x.json")
        return evaluate_detector.judge_detector(uri, None, str(tmp_path), None, config, PoolConfig(), ConsoleProgress())

    assert judged()["ap50"]["value"] < 60
    told = judged("people")
    assert told["ap50"]["value"] == pytest.approx(100) and told["ignored"] == ["people"]
    with pytest.raises(ConfigError, match="--ignore tram: not known to x, which knows person, people"):
        judged("tram")
    with pytest.raises(ConfigError, match="--ignore person: is one of person, which are to be found"):
        judged("person")


def test_real_pictures_are_judged_as_coco_does(data_root: Path):
    """The real boxes of MSRS as detections of themselves, moved a little."""
    from system.pairs.infrared_set import read_infrared_set

    labelled = read_infrared_set(str(data_root / "pairs/MSRS/labels_det/coco_infrared_val.json"))
    rng = np.random.default_rng(0)
    guesses, truths = [], []
    for picture in labelled.pictures:
        boxes = picture.boxes_xyxy + rng.normal(0, 3, picture.boxes_xyxy.shape).astype(np.float32)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        size = (picture.height or 1, picture.width or 1)
        guesses.append(Detections.of(boxes, rng.random(len(boxes)), picture.labels, size))
        truths.append(Truth(picture.boxes_xyxy, picture.labels, picture.is_ignored))
    judged = Judged.of(labelled.classes, guesses, truths)
    assert coco_figures(judged)["ap"] == pytest.approx(100 * judged.average_precision().mean(), abs=0.006)
    assert len(COCO_OVERLAPS) == 10


def test_a_judgement_replaces_an_earlier_one_and_nothing_else(tmp_path: Path):
    claim_folder(tmp_path / "judged", "figures.json")
    (tmp_path / "judged" / "figures.json").touch()
    claim_folder(tmp_path / "judged", "figures.json")
    (tmp_path / "judged" / "detector.json").touch()
    with pytest.raises(ConfigError, match=r"holds detector\.json; expected a new folder"):
        claim_folder(tmp_path / "judged", "figures.json")
