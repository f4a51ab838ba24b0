"""Judge by KAIST's rules: a result file of anybody's, or what a detector finds in KAIST's pictures, written as such."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from system.errors import ConfigError, DataError
from system.infrared.detections import Detections
from system.infrared.detector import detector_id, read_detector_config
from system.infrared.kaist import (
    PERSON,
    KaistImage,
    infrared_pictures,
    read_kaist_annotations,
    read_kaist_results,
    write_kaist_results,
)
from system.infrared.kaist_judge import kaist_figures, kaist_matches
from system.pairs.coloured import tell_coloured
from system.pipelines.config import PoolConfig
from system.pipelines.infrared_stream import PictureResult
from system.pipelines.predict_infrared import detect_all
from system.pipelines.resources import connect_to_ray
from system.report.console import ConsoleProgress
from system.report.detection_curves import detection_curves
from system.training.evaluate_detector import CURVES_NAME, FIGURES_NAME, JudgeConfig, claim_folder
from system.training.learnt import judge_unseen

_CURVES = ("all", "day", "night")


def judge_kaist(annotations: Path, results: Path, out: Path | None, config: JudgeConfig) -> dict[str, Any]:
    """KAIST's miss rates of a result file, of all pictures and, as `parity`, of those with people only.

    Raises:
        DataError: a file is not of its form.
    """
    if out is not None:
        claim_folder(out, FIGURES_NAME, CURVES_NAME)
    images = read_kaist_annotations(annotations)
    return _figures(images, read_kaist_results(results, images), out, config)


def _figures(
    images: tuple[KaistImage, ...], found: list[Detections], out: Path | None, config: JudgeConfig
) -> dict[str, Any]:
    """What `judge_kaist` returns, which is left at `out` too."""
    matched = kaist_matches(images, found)
    told = kaist_figures(matched, config.rounds)
    told["parity"] = kaist_figures(kaist_matches(images, found, only_with_people=True), config.rounds)
    if out is not None:
        detection_curves({name: matched[name] for name in _CURVES}, None, out / CURVES_NAME)
        (out / FIGURES_NAME).write_text(json.dumps(told, indent=1) + "\n", "utf-8")
    return told


def judge_on_kaist(
    annotations: Path,
    pictures: str,
    model: str,
    results: Path,
    out: Path | None,
    config: JudgeConfig,
    pool: PoolConfig,
    progress: ConsoleProgress,
) -> dict[str, Any]:
    """Detect persons in the pictures that the annotations name, write a result file of KAIST's form, and judge it.

    Args:
        pictures: root of KAIST's pictures. results: the new file.
    Returns:
        As `judge_kaist`; and model, detector_id, results, pictures, unreadable, faults, seen_in_training, coloured.
    Raises:
        ConfigError: the detector finds no persons, or the file is there. DataError: pictures that the detector was
            trained on, or too many that are missing, unreadable or of another size. ModelError.
    """
    if results.exists():
        raise ConfigError(f"--kaist-out {results}: exists already and is never overwritten; name another file")
    if out is not None:
        claim_folder(out, FIGURES_NAME, CURVES_NAME)
    classes = read_detector_config(Path(model)).config.classes
    if PERSON not in classes:
        raise ConfigError(f"{model} finds {', '.join(classes)}; KAIST's results are of the class {PERSON}")
    images = read_kaist_annotations(annotations)
    uris = infrared_pictures(pictures, images)
    there = [uri for uri in uris if uri is not None]
    if not there:
        raise DataError(
            "missing_file", f"{pictures}: holds none of the pictures of {annotations}, e.g. {images[0].name}"
        )
    connect_to_ray()
    seen = judge_unseen(Path(model), str(annotations), there, "detector", progress.note)
    progress.phase(f"detecting in {len(there)} pictures")
    progress.expect(len(there))
    answers = detect_all(there, model, pool, progress)
    found, faults = _persons(images, uris, answers, classes.index(PERSON))
    if len(faults) > config.max_bad_share * len(images):
        raise DataError("too_many_bad", f"{len(faults)} of {len(images)} pictures cannot be judged, e.g. {faults[0]}")
    coloured = sum(answer.is_coloured for answer in answers.values())
    tell_coloured(coloured, len(images) - len(faults), progress.note)
    write_kaist_results(results, found)
    progress.phase("judging")
    told = _figures(images, found, out, config)
    told |= {"model": model, "detector_id": detector_id(model), "results": str(results), "pictures": len(images)}
    told |= {"unreadable": len(faults), "faults": faults[:20], "seen_in_training": seen, "coloured": coloured}
    return told


def _persons(
    images: tuple[KaistImage, ...], uris: list[str | None], answers: dict[str, PictureResult], label: int
) -> tuple[list[Detections], list[str]]:
    """Of each picture the persons, none where it cannot be judged; and why not."""
    found, faults = [], []
    for image, uri in zip(images, uris, strict=True):
        answer = None if uri is None else answers[uri]
        persons = Detections.none(image.size)
        if answer is None:
            faults.append(f"{image.name}: missing_file: no picture of its name")
        elif answer.found is None:
            faults.append(f"{image.name}: {answer.code}: {answer.message}")
        elif answer.found.image_size != image.size:
            sizes = ["x".join(map(str, size[::-1])) for size in (answer.found.image_size, image.size)]
            faults.append(f"{image.name}: wrong_shape: {sizes[0]} pixels, its annotations state {sizes[1]}")
        else:
            persons = answer.found.chosen(answer.found.labels == label)
            persons = replace(persons, labels=np.zeros_like(persons.labels))
        found.append(persons)
    return found, faults
