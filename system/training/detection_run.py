"""One run of a detection study: a student of a FreqKD study, frozen, with a head trained on it and judged. No Ray.

Legend: N pictures, K classes, T overlap thresholds, B bootstrap draws.
"""

from __future__ import annotations

import functools
import json
import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file
from torch import nn

from system.backbones.cnn import load_network
from system.backbones.runtime import device_of
from system.bootstrap import draw_pictures
from system.errors import ConfigError, DataError
from system.freqkd.distiller import DistillConfig, order_of
from system.freqkd.student import merged_network
from system.infrared.augment import Example
from system.infrared.detector import InfraredModel
from system.infrared.detector_config import InfraredModelConfig
from system.infrared.detector_trainer import DetectorTrainConfig, DetectorTrainer
from system.pairs.infrared_set import InfraredSet
from system.training.detect_data import PictureReader, stream_views
from system.training.detect_run import DetectRun, FeatureReader, answer
from system.training.freqkd_arms import NO_KD, Arm
from system.training.freqkd_run import ADAPTERS, CACHE
from system.training.infrared_task import Floats, InfraredTask, Judgement
from system.training.study_folder import SETTINGS_NAME, partial_of, remove_partials, write_json


@dataclass(frozen=True, eq=False)
class DetectionBench:
    """What all runs of a study have in common.

    out: folder of the study; students: of a FreqKD study; both seen by every worker. tests: by name. threads, use_gpu:
    what a run has been given. cache_gb: bound of the features that it keeps until it ends.
    """

    task: InfraredTask
    out: Path
    students: Path
    model: InfraredModelConfig
    config: DetectorTrainConfig
    train: InfraredSet
    tests: dict[str, InfraredSet]
    rounds: int
    threads: int
    use_gpu: bool = False
    cache_gb: float = 20.0


@dataclass(frozen=True)
class StudyCell:
    """One run: an arm, a drift of the pairs that its student learnt from, a seed of student and head."""

    arm: Arm
    drift_px: int
    seed: int

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.arm.name}-d{self.drift_px}-s{self.seed}"


def student_file(students: Path, cell: StudyCell) -> Path:
    """Where a FreqKD study leaves the adapters of a run."""
    return students / ADAPTERS / f"{cell.arm.trained_as}-d{cell.drift_px}-s{cell.seed}.safetensors"


@functools.lru_cache(maxsize=4)
def distillation_of(students: Path) -> DistillConfig:
    """How the students of a FreqKD study were trained.

    Raises:
        ConfigError: there is no study.
    """
    return DistillConfig.parse(settings_of(students)["distill"], str(students))


def settings_of(students: Path) -> dict[str, Any]:
    """What all runs of a FreqKD study have in common but its arms' recipes: distill, backbone, registration, mapping,
    data.

    Raises:
        ConfigError: there is no study.
    """
    try:
        settings = json.loads((students / SETTINGS_NAME).read_text("utf-8"))
        return {key: settings[key] for key in ("distill", "backbone", "registration", "mapping", "data")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"--students {students}: expected the folder of jobs/study_freqkd.py: {error!r}") from error


def load_student(students: Path, cell: StudyCell) -> nn.Module:
    """The merged backbone of a run; of the arm without distillation the untouched one.

    Raises:
        ModelError: what it learnt does not fit.
    """
    distilled = distillation_of(students)
    if cell.arm.loss is None:
        return load_network(distilled.tower)
    state = load_file(student_file(students, cell))
    config = cell.arm.config(distilled, cell.seed)
    return merged_network(config, state, config.merge_factor)


def run_detection(bench: DetectionBench, cell: StudyCell) -> dict[str, Any]:
    """Train and judge; leaves `<name>.npz` with what intervals are made from, then `<name>.json`, and returns it.

    Raises:
        DataError: a picture that cannot be read. ModelError: the loss is no number.
    """
    started_s = time.monotonic()
    config = bench.config.model_copy(update={"seed": cell.seed})
    model = bench.task.model.untrained(bench.model, load_student(bench.students, cell), cell.seed)
    model = model.to(device_of(bench.use_gpu))
    cache = bench.out / CACHE / cell.name
    try:
        features = FeatureReader(model, DetectRun(cache=str(cache), cache_gb=bench.cache_gb))
        trainer, losses = _trained(bench.task, model, config, bench.train, features)
        trained_s = time.monotonic()
        counts = {name: draw_pictures(len(test.pictures), bench.rounds, seed=0) for name, test in bench.tests.items()}
        averaged = trainer.averaged()
        judged = {name: _judge(bench.task, averaged, test, counts[name]) for name, test in bench.tests.items()}
    finally:
        shutil.rmtree(cache, ignore_errors=True)
    arrays: dict[str, np.ndarray] = {}
    told: dict[str, Any] = {"arm": cell.arm.name, "drift_px": cell.drift_px, "seed": cell.seed, "losses": losses}
    for name, figures in judged.items():
        told[name] = {figure: _points(value_K) for figure, (value_K, _) in figures.items()}
        for figure, (value_K, drawn_BK) in figures.items():
            arrays |= {f"{name}/{figure}": value_K, f"{name}/drawn_{figure}": drawn_BK}
    told["seconds"] = {"train": round(trained_s - started_s, 1), "judge": round(time.monotonic() - trained_s, 1)}
    partial = partial_of(bench.out / cell.name, ".npz")
    np.savez(partial, **{key: value.astype(np.float32) for key, value in arrays.items()})  # type: ignore[arg-type]
    partial.replace(bench.out / f"{cell.name}.npz")
    write_json(bench.out / f"{cell.name}.json", told)
    return told


def remove_leftovers(out: Path) -> None:
    """Remove features and half-written files of runs that were killed; for a driver before its first task."""
    remove_partials(out)
    for cache in (out / CACHE).glob("*-d*-s*"):
        shutil.rmtree(cache, ignore_errors=True)


def _trained(
    task: InfraredTask, model: InfraredModel, config: DetectorTrainConfig, train: InfraredSet, features: FeatureReader
) -> tuple[DetectorTrainer, list[dict[str, float]]]:
    count = len(train.pictures)
    steps = math.ceil(count / config.batch_size)
    trainer = DetectorTrainer(model, config, config.epochs * steps)
    device = next(model.parameters()).device
    reader = PictureReader(model.size, model.config.mapping, config.augment, config.seed)
    history = []
    for epoch in range(config.epochs):
        order = order_of(config.seed, epoch, count)
        batches = [order[k * config.batch_size : (k + 1) * config.batch_size] for k in range(steps)]
        sums: dict[str, float] = {}
        for views in stream_views(train.pictures, batches, epoch, reader, threads=1):
            examples = [_whole(view) for view in views]
            targets = [task.target(example, device) for example in examples]
            for name, value in trainer.step(None, features(examples, device), targets).items():
                sums[name] = sums.get(name, 0.0) + value * len(examples) / count
        history.append({name: round(value, 5) for name, value in sums.items()})
    return trainer, history


def _whole(view: Example | DataError) -> Example:
    """A study compares arms on the same pictures, so all of them must be there."""
    if isinstance(view, DataError):
        raise view
    return view


def _judge(task: InfraredTask, model: InfraredModel, test: InfraredSet, counts_BN: Floats) -> Judgement:
    classes, mapping = model.config.classes, model.config.mapping
    reader = PictureReader(model.size, mapping)
    evidence = [
        task.own_evidence(classes, picture, mapping, answer(task, model, reader.example(picture), None))
        for picture in test.pictures
    ]
    return task.judge(classes, evidence, counts_BN)


def _points(values_K: np.ndarray) -> list[float | None]:
    return [round(100 * float(value), 2) if np.isfinite(value) else None for value in values_K]


def refuse_missing_students(students: Path, cells: list[StudyCell]) -> None:
    """Raises ConfigError: a FreqKD study has not made a student yet."""
    missing = [
        c for c in cells if c.arm.loss is not None and c.arm.name != NO_KD and not student_file(students, c).is_file()
    ]
    if missing:
        arms = ",".join(dict.fromkeys(c.arm.name for c in missing))
        drifts = ",".join(dict.fromkeys(str(c.drift_px) for c in missing))
        raise ConfigError(
            f"--students {students}: lacks {len(missing)} students, e.g. {missing[0].name}; make them with "
            f"jobs/study_freqkd.py --arms {arms} --drifts {drifts} --seeds {max(c.seed for c in missing) + 1} --out "
            f"{students}"
        )
