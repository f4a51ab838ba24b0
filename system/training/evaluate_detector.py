"""Judge a detector on a labelled set: figures, curves and worst errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from system.bootstrap import draw_pictures
from system.config import FrozenConfig
from system.errors import ConfigError, DataError
from system.infrared.detections import Detections, Truth
from system.infrared.detector import detector_id, read_detector_config
from system.infrared.judge import Judged, calibration, figures, worst_errors
from system.pairs.coloured import tell_coloured
from system.pairs.infrared_set import InfraredPicture, InfraredSet, read_infrared_set, refuse_ignored
from system.pairs.pixels import InfraredMapping, read_infrared
from system.pipelines.config import PoolConfig
from system.pipelines.infrared_stream import PictureResult
from system.pipelines.predict_infrared import detect_all
from system.pipelines.resources import connect_to_ray
from system.report.console import ConsoleProgress
from system.report.detection_curves import detection_curves
from system.report.detection_sheet import DetectionCell, detection_sheet
from system.training.detect import refuse_left_out
from system.training.learnt import judge_unseen
from system.training.probe_set import JUDGED_SPLITS

FIGURES_NAME, CURVES_NAME, ERRORS_NAME = "figures.json", "curves.png", "worst_errors.jpg"


class JudgeConfig(FrozenConfig):
    """rounds: bootstrap draws of pictures. sure_score: above it a miss counts as one, on the sheet of errors. errors:
    cells of that sheet. max_bad_share: of the pictures that may be unreadable. ignored: classes in whose boxes nothing
    is right or wrong."""

    rounds: int = Field(default=1000, ge=1, le=100_000)
    sure_score: float = Field(default=0.3, ge=0, le=1)
    errors: int = Field(default=12, ge=0, le=120)
    max_bad_share: float = Field(default=0.05, ge=0, le=1)
    ignored: tuple[str, ...] = ()


def judge_detector(
    uri: str,
    images: str | None,
    model: str,
    out: Path | None,
    config: JudgeConfig,
    pool: PoolConfig,
    progress: ConsoleProgress,
) -> dict[str, Any]:
    """Detect in every picture of a labelled set, and judge.

    Returns:
        ap50, ap {value, low, high}, classes, coco, parity (pictures with objects only), calibration, counts,
        seen_in_training (how many it or its backbone learnt from as copies or without labels; None where
        that is not known), coloured (as no infrared pictures are).
    Raises:
        ConfigError: the set and the detector share no class; of `refuse_ignored`. DataError: pictures that the detector
            was trained on, or too much that cannot be read. ModelError.
    """
    if out is not None:
        claim_folder(out, FIGURES_NAME, CURVES_NAME, ERRORS_NAME)
    classes = read_detector_config(Path(model)).config.classes
    labelled = read_infrared_set(uri, images, JUDGED_SPLITS)
    refuse_left_out(labelled, config.max_bad_share)
    shared = tuple(name for name in classes if name in labelled.classes)
    if not shared:
        raise ConfigError(
            f"{uri} knows {', '.join(labelled.classes)}; the detector finds {', '.join(classes)}: no class to judge"
        )
    refuse_ignored(config.ignored, classes, [labelled])
    judged_set = labelled.of_classes(classes, config.ignored)
    connect_to_ray()
    uris = [picture.uri for picture in judged_set.pictures]
    seen = judge_unseen(Path(model), uri, uris, "detector", progress.note)
    progress.phase(f"detecting in {len(judged_set.pictures)} pictures")
    progress.expect(len(judged_set.pictures))
    results = detect_all(uris, model, pool, progress)
    pictures, found, faults = _readable(judged_set, results, classes, shared)
    if len(faults) > config.max_bad_share * len(judged_set.pictures):
        raise DataError(
            "too_many_bad", f"{len(faults)} of {len(judged_set.pictures)} pictures cannot be judged, e.g. {faults[0]}"
        )
    coloured = sum(result.is_coloured for result in results.values())
    tell_coloured(coloured, len(results) - len(faults), progress.note)
    truths = [_truth(picture, classes, shared) for picture in pictures]
    with_objects = [n for n, truth in enumerate(truths) if not truth.is_ignored.all()]
    if not with_objects:
        raise DataError(
            "no_objects", f"{uri}: none of its pictures shows {', '.join(shared)}; there is nothing to find"
        )
    progress.phase("judging")
    judged = Judged.of(shared, found, truths)
    told = figures(judged, draw_pictures(len(pictures), config.rounds, seed=0))
    told["calibration"] = calibration(judged)
    parity = Judged.of(shared, [found[n] for n in with_objects], [truths[n] for n in with_objects])
    told["parity"] = figures(parity, draw_pictures(len(with_objects), config.rounds, seed=0))
    told["counts"] = {
        "pictures": len(pictures),
        "pictures_without_objects": len(pictures) - len(with_objects),
        "unreadable": len(faults),
        "faults": len(labelled.faults),
    }
    told |= {"seen_in_training": seen, "coloured": coloured}
    told |= {"model": model, "detector_id": detector_id(model), "data": uri, "not_judged": _others(classes, shared)}
    told["ignored"] = list(config.ignored)
    told["faults"] = [*faults, *map(str, labelled.faults)][:20]
    if out is not None:
        mapping = read_detector_config(Path(model)).config.mapping
        named = dict(zip(shared, judged.matches, strict=True))
        detection_curves(named, told["calibration"], out / CURVES_NAME)
        (out / FIGURES_NAME).write_text(json.dumps(told, indent=1) + "\n", "utf-8")
        (out / ERRORS_NAME).write_bytes(_sheet(judged, pictures, mapping, config))
    return told


def _readable(
    judged: InfraredSet, results: dict[str, PictureResult], classes: tuple[str, ...], shared: tuple[str, ...]
) -> tuple[list[InfraredPicture], list[Detections], list[str]]:
    """Pictures that were read and are of their annotations' size, with labels that are places in `shared`."""
    place = np.array([shared.index(name) if name in shared else -1 for name in classes])
    pictures, found, faults = [], [], []
    for picture in judged.pictures:
        result = results[picture.uri]
        if result.found is None:
            faults.append(f"{picture.picture_id}: {result.code}: {result.message}")
            continue
        size = result.found.image_size
        if picture.width and picture.height and size != (picture.height, picture.width):
            told = f"{size[1]}x{size[0]} pixels, its annotations state {picture.width}x{picture.height}"
            faults.append(f"{picture.picture_id}: wrong_shape: {told}")
            continue
        labels = place[result.found.labels]
        kept = result.found.chosen(labels >= 0)
        pictures.append(picture)
        found.append(Detections.of(kept.boxes_xyxy, kept.scores, labels[labels >= 0], size))
    return pictures, found, faults


def _truth(picture: InfraredPicture, classes: tuple[str, ...], shared: tuple[str, ...]) -> Truth:
    place = np.array([shared.index(name) if name in shared else -1 for name in classes])
    labels = place[picture.labels]
    kept = labels >= 0
    return Truth(picture.boxes_xyxy[kept], labels[kept], picture.is_ignored[kept])


def _others(classes: tuple[str, ...], shared: tuple[str, ...]) -> list[str]:
    return [name for name in classes if name not in shared]


def _sheet(judged: Judged, pictures: list[InfraredPicture], mapping: InfraredMapping, config: JudgeConfig) -> bytes:
    cells = []
    for error in worst_errors(judged, config.sure_score, config.errors):
        picture, name = pictures[error.picture], judged.classes[error.label]
        told = f"false alarm: {name} {error.score:.2f}" if error.kind == "false_alarm" else f"missed: {name}"
        cells.append(
            DetectionCell(
                read_infrared(picture.uri, mapping).pixels_HW,
                judged.found[error.picture].above(config.sure_score),
                judged.truths[error.picture],
                (told, picture.picture_id),
                (error.box_xyxy,),
            )
        )
    title = f"worst errors (red); detections above {config.sure_score:g} (yellow), objects (green), ignored (grey)"
    return detection_sheet(title, cells, judged.classes)


def claim_folder(out: Path, *names: str) -> None:
    """Make the folder of a judgement. names: of its files, which replace those of an earlier one.

    Raises:
        ConfigError: it cannot be made, or holds something else.
    """
    if out.is_dir() and (others := sorted({file.name for file in out.iterdir()} - set(names))):
        raise ConfigError(f"--out {out}: holds {', '.join(others[:3])}; expected a new folder, or one of this job")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written: {error.strerror}") from error
