"""Study what distillation is worth to a detector or a segmenter: every arm, drift and seed on Ray, resumable.

The students are those of a FreqKD study. Their backbone stays frozen, so that arms differ in nothing but what was
distilled into it, and its features are computed once a run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import torch
from pydantic import Field
from timm.models.vision_transformer import VisionTransformer

from system.backbones.cnn import load_network
from system.backbones.vit import vit_facts
from system.config import FrozenConfig
from system.errors import ConfigError, DataError
from system.infrared.detector_config import sizes_for
from system.infrared.detector_trainer import DetectorTrainConfig
from system.pairs.coloured import count_coloured
from system.pairs.infrared_set import InfraredPicture, InfraredSet, read_infrared_set
from system.pairs.masks import PSEUDO
from system.pairs.pixels import InfraredMapping
from system.pipelines.resources import check_workers, connect_to_ray, tasks_at_once
from system.pipelines.task_results import as_they_end
from system.report.console import ConsoleProgress
from system.report.detection_study import detection_markdown
from system.training.detect import gather_labelled, refuse_left_out
from system.training.detect_data import read_pixels, sha256_of
from system.training.detection_run import (
    DetectionBench,
    StudyCell,
    distillation_of,
    refuse_missing_students,
    remove_leftovers,
    run_detection,
    settings_of,
)
from system.training.detection_summary import DetectionFigures, summarise_detection
from system.training.freqkd_arms import compared_arm, parse_arms, refuse_drifts
from system.training.infrared_task import DetectionTask, InfraredTask
from system.training.learnt import Marks, count_seen, marks_of, read_learnt
from system.training.probe_set import JUDGED_SPLITS
from system.training.study_folder import FINISHED_STAY, refuse_other_settings, write_json, write_settings

_RESULT, _TABLES = "study.json", "study.md"
_RETRIES = 3
# 280x378 for a ViT/14, 288x384 for a ViT/16.
_SCALE = 5 / 6
TEST = "test"
# Of a set's pictures that may be missing or damaged, and how many of them are told.
_MAX_BAD_SHARE, _FAULTS_TOLD = 0.05, 5
_READ_AT_ONCE = 4


class DetectionStudyConfig(FrozenConfig):
    """What is compared.

    students: folder of a FreqKD study. train: labelled pictures. test: others; without it the last `hold_out` of train
    by name, in one block. also: sets by name on which the detectors are judged without having seen any of their kind.
    arms, drifts, seeds, ours, threads, use_gpu: as of a FreqKD study. cache_gb: bound of the features of the frozen
    backbone that each run keeps below the study's folder until it ends; 0 keeps nothing.
    """

    students: str
    train: str
    test: str | None = None
    hold_out: float = Field(default=0.3, gt=0, lt=1)
    also: dict[str, str] = Field(default_factory=dict)
    classes: tuple[str, ...] = ()
    arms: tuple[str, ...] = Field(min_length=1)
    drifts: tuple[int, ...] = (0,)
    seeds: int = Field(default=3, ge=1, le=1000)
    ours: str | None = None
    rounds: int = Field(default=1000, ge=10, le=100_000)
    threads: int = Field(default=1, ge=1, le=256)
    use_gpu: bool = False
    cache_gb: float = Field(default=20.0, ge=0)


def study_detection(
    study: DetectionStudyConfig,
    values: dict[str, Any],
    config: DetectorTrainConfig,
    out: Path,
    progress: ConsoleProgress,
    tell_budget: Callable[[dict[str, Any]], None] = lambda _: None,
    is_dry: bool = False,
) -> dict[str, Any]:
    """What distillation is worth to a detector, as `run_study`.

    Args:
        values: of `DetectorConfig` without classes and backbone; None where the backbone decides.
    """
    train = gather_labelled((study.train,), None, study.classes)

    def read(uri: str, splits: Sequence[str] | None) -> InfraredSet:
        return read_infrared_set(uri, splits=splits).of_classes(train.classes)

    sets = study_sets(study, train, read)
    return run_study(DetectionTask(), study, sets, values, config, out, progress, tell_budget, is_dry)


def run_study(
    task: InfraredTask,
    study: DetectionStudyConfig,
    sets: tuple[InfraredSet, dict[str, InfraredSet]],
    values: dict[str, Any],
    config: DetectorTrainConfig,
    out: Path,
    progress: ConsoleProgress,
    tell_budget: Callable[[dict[str, Any]], None] = lambda _: None,
    is_dry: bool = False,
) -> dict[str, Any]:
    """Do every run that `out` lacks, and sum up all that were asked for.

    Args:
        sets: of `study_sets`. values: of the task's configuration without classes and backbone; None where the backbone
            decides.
    Returns:
        What lies in study.json: for each test set the arms' figures and their differences, how many of its pictures the
        students have learnt from without labels, or the heads as copies (None where that is not known), and the budget.
    Raises:
        ConfigError: an arm or drift that cannot be, students that are missing, a size, block or architecture that does
            not fit their backbone, or `out` holds a study with other settings. DataError, ModelError.
    """
    students = Path(study.students).absolute()
    distilled, made = distillation_of(students), settings_of(students)
    tower, arms = distilled.tower, parse_arms(study.arms)
    ours = compared_arm(study.ours, arms)
    refuse_drifts(study.drifts, distilled.height, distilled.width)
    cells = [StudyCell(arm, 0, seed) for seed in range(study.seeds) for arm in arms if arm.loss is None]
    cells += [
        StudyCell(arm, drift, seed)
        for seed in range(study.seeds)
        for drift in study.drifts
        for arm in arms
        if arm.loss is not None
    ]
    cells.sort(key=lambda cell: cell.seed)
    refuse_missing_students(students, cells)
    train, tests = sets
    for name, found in {"train": train, **tests}.items():
        for fault in [fault for fault in found.faults if fault.is_skipped][:_FAULTS_TOLD]:
            progress.note(f"{name}: left out: {fault}")
    given = {"mapping": made["mapping"]} | {key: value for key, value in values.items() if value is not None}
    network = load_network(tower)
    if isinstance(network, VisionTransformer):
        sizes = sizes_for(False, _SCALE, vit_facts(network).patch)
    else:
        sizes = sizes_for(True, _SCALE)
    model = task.config.parse(sizes | given | {"backbone": tower, "classes": train.classes}, "options")
    # What no run could be built of is told before anything is written.
    task.model.untrained(model, network)
    del network
    settings = {
        task.model.noun: model.model_dump(mode="json"),
        "config": config.model_dump(mode="json", exclude={"seed"}),
        "rounds": study.rounds,
        "data": {name: sha256_of(found) for name, found in {"train": train, **tests}.items()},
        "students": made,
    }
    refuse_other_settings(out, settings)
    missing = [cell for cell in cells if not (out / f"{cell.name}.json").is_file()]
    connect_to_ray()
    check_workers(1, study.threads, study.use_gpu, progress.note)
    for name, found in {"train": train, **tests}.items():
        count_coloured(found.pictures, f"{found.name} ({name})", progress.note)
    learners = {
        f"the {task.model.noun}s of this study, from copies": marks_of([picture.uri for picture in train.pictures]),
        f"the students of {students}": read_learnt(students),
    }
    seen = {name: _seen(learners, name, found, progress) for name, found in tests.items()}
    budget = {
        "runs": len(cells),
        "runs_done": len(cells) - len(missing),
        "at_once": tasks_at_once(study.threads, study.use_gpu),
        "images_per_run": config.epochs * len(train.pictures),
        "epochs": config.epochs,
        "size": [model.height, model.width],
        "train_pictures": len(train.pictures),
        "test_pictures": {name: len(found.pictures) for name, found in tests.items()},
        "left_out": {
            name: sum(fault.is_skipped for fault in found.faults) for name, found in {"train": train, **tests}.items()
        },
    }
    tell_budget(budget)
    if is_dry:
        return {"budget": budget}
    write_settings(out, settings)
    remove_leftovers(out)
    bench = DetectionBench(
        task, out.absolute(), students, model, config, train, tests, study.rounds, study.threads, study.use_gpu,
        study.cache_gb,
    )  # fmt: skip
    if missing:
        progress.phase("reading every picture once")
        for found in (train, *tests.values()):
            refuse_unreadable(found, model.mapping)
    _run(bench, missing, progress)
    seconds = [json.loads((out / f"{cell.name}.json").read_text("utf-8"))["seconds"] for cell in cells]
    budget["seconds_per_run"] = {part: round(sum(s[part] for s in seconds) / len(seconds), 1) for part in seconds[0]}
    result: dict[str, Any] = {"budget": budget, "drifts": list(study.drifts), "classes": list(train.classes)}
    result |= {
        "ours": ours,
        "noun": task.model.noun,
        "figures": list(task.figures),
        "masks": train.masks,
        "pseudo": train.masks.startswith(PSEUDO),
        "seen_in_training": seen,
        "sets": {},
    }
    for name in tests:
        runs = {
            (cell.arm.name, cell.drift_px, cell.seed): DetectionFigures.read(
                out / f"{cell.name}.npz", name, task.figures
            )
            for cell in cells
        }
        names = [arm.name for arm in arms]
        result["sets"][name] = summarise_detection(runs, names, study.drifts, study.seeds, train.classes, ours)
    write_json(out / _RESULT, result)
    (out / _TABLES).write_text(detection_markdown(result), "utf-8")
    return result


def study_sets(
    study: DetectionStudyConfig, train: InfraredSet, read: Callable[[str, Sequence[str] | None], InfraredSet]
) -> tuple[InfraredSet, dict[str, InfraredSet]]:
    """What is learnt from, and what is judged on, by name.

    Args:
        train: all of `study.train`. read: a set by its URI and the parts of a corpus that are taken, with train's
            classes.
    Raises:
        DataError: too many pictures that are missing, pictures of both, or pictures whose annotations do not state a
            size; a held-out part without which a class shows no box. ConfigError: it leaves no picture to learn from.
    """
    others = {name: read(uri, None) for name, uri in study.also.items()}
    if study.test is not None:
        others = {TEST: read(study.test, JUDGED_SPLITS)} | others
    for found in (train, *others.values()):
        refuse_left_out(found, _MAX_BAD_SHARE)
    if study.test is None:
        ordered = tuple(sorted(train.pictures, key=lambda picture: picture.picture_id))
        held = max(1, round(study.hold_out * len(ordered)))
        # What was left out is told once, with the part that is learnt from.
        others = {TEST: replace(train, pictures=ordered[-held:], faults=())} | others
        train = replace(train, pictures=ordered[:-held])
        if not train.pictures:
            raise ConfigError(
                f"--hold-out {study.hold_out:g} of {len(ordered)} pictures of {train.name} leaves none to learn from; "
                "hold out less, or name a --test set"
            )
        if not train.masks:
            refuse_unshown(train, [name for name, objects in train.counts().items() if not objects])
    known = {picture.uri for picture in train.pictures}
    for name, judged in others.items():
        if shared := [picture.uri for picture in judged.pictures if picture.uri in known]:
            raise DataError("leak", f"{name}: {len(shared)} pictures are trained on too, e.g. {shared[0]}")
        if unsized := [p.uri for p in judged.pictures if not judged.masks and not (p.width and p.height)]:
            raise DataError("no_size", f"{name}: {unsized[0]}: expected width and height in its annotations")
    return train, others


def refuse_unshown(learnt: InfraredSet, missing: Sequence[str]) -> None:
    """Raises DataError: classes that are compared are shown by the part that is held out alone."""
    if missing:
        raise DataError(
            "no_positive",
            f"{learnt.name}: without the part that is held out shows no {', '.join(missing)} to learn from; "
            "hold out less, name a --test set or other --classes",
        )


def refuse_unreadable(found: InfraredSet, mapping: InfraredMapping) -> None:
    """Before any run, each of which would end with it.

    Raises:
        DataError: a picture cannot be read, or is not of the size that its boxes were drawn on.
    """

    def problem(picture: InfraredPicture) -> DataError | None:
        try:
            read_pixels(picture, mapping)
        except DataError as error:
            return error
        return None

    with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
        if problems := [error for error in pool.map(problem, found.pictures) if error is not None]:
            raise DataError(
                problems[0].code,
                f"{found.name}: {len(problems)} pictures cannot be compared on, e.g. {problems[0].message}; mend them, "
                "or leave them out of the set",
            )


def _seen(
    learners: Mapping[str, list[Marks] | None], name: str, test: InfraredSet, progress: ConsoleProgress
) -> int | None:
    """How many pictures of a test set one of the learners knows, as of `count_seen`."""
    uris = [picture.uri for picture in test.pictures]
    named = [(f"{who} (set {name})", learnt) for who, learnt in learners.items()]
    return count_seen(uris, marks_of(uris), named, progress.note)


@ray.remote(max_retries=_RETRIES)
def _cell(bench: DetectionBench, cell: StudyCell) -> str:
    torch.set_num_threads(bench.threads)
    return str(run_detection(bench, cell)["arm"])


def _run(bench: DetectionBench, missing: Sequence[StudyCell], progress: ConsoleProgress) -> None:
    """Raises NightminerError: what a run raised, or that Ray lost it; runs that are done stay done."""
    progress.phase(f"{len(missing)} runs")
    progress.expect(len(missing))
    shared = ray.put(bench)
    asked = _cell.options(num_cpus=bench.threads, num_gpus=float(bench.use_gpu))
    pending = [asked.remote(shared, cell) for cell in missing]
    for _ in as_they_end(pending, FINISHED_STAY):
        progress.advanced(1, 0, 0)
