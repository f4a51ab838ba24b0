"""One run of a detection study: a student of a FreqKD study, frozen, with a detector trained on it and judged. No Ray.

Legend: N pictures, K classes, T overlap thresholds, B bootstrap draws.
"""

from __future__ import annotations

import functools
import json
import math
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file
from torch import nn

from system.backbones.cnn import load_network
from system.errors import ConfigError, DataError
from system.freqkd.distiller import DistillConfig, order_of
from system.freqkd.probe import draw_pictures
from system.freqkd.student import merged_network
from system.infrared.augment import Example
from system.infrared.detections import Truth
from system.infrared.detector import Detector
from system.infrared.detector_config import DetectorConfig
from system.infrared.detector_trainer import DetectorTrainConfig, DetectorTrainer
from system.infrared.judge import Judged
from system.infrared.targets import Target
from system.pairs.infrared_set import InfraredSet
from system.training.detect_data import PictureReader, stream_views
from system.training.detect_run import DetectRun, FeatureReader, detect_example
from system.training.freqkd_arms import NO_KD, Arm
from system.training.freqkd_run import ADAPTERS, write_json

_SETTINGS = "settings.json"


@dataclass(frozen=True, eq=False)
class DetectionBench:
    """What all runs of a study have in common.

    out: folder of the study; students: of a FreqKD study; both seen by every worker. tests: by name.
    """

    out: Path
    students: Path
    detector: DetectorConfig
    config: DetectorTrainConfig
    train: InfraredSet
    tests: dict[str, InfraredSet]
    rounds: int
    threads: int


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
    try:
        settings = json.loads((students / _SETTINGS).read_text("utf-8"))
        return DistillConfig.parse(settings["distill"], str(students))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"--students {students}: expected the folder of jobs/study_freqkd.py: {error}") from error


def load_student(students: Path, cell: StudyCell) -> nn.Module:
    """The merged backbone of a run; of the arm without distillation the untouched one.

    Raises:
        ModelError: what it learnt does not fit.
    """
    distilled = distillation_of(students)
    if cell.arm.loss is None:
        return load_network(distilled.tower)
    state = load_file(student_file(students, cell))
    return merged_network(cell.arm.config(distilled, cell.seed), state, cell.arm.merge)


def run_detection(bench: DetectionBench, cell: StudyCell) -> dict[str, Any]:
    """Train and judge; leaves `<name>.npz` with what intervals are made from, then `<name>.json`, and returns it.

    Raises:
        DataError: a picture that cannot be read. ModelError: the loss is no number.
    """
    started_s = time.monotonic()
    config = bench.config.model_copy(update={"seed": cell.seed})
    detector = Detector.untrained(bench.detector, load_student(bench.students, cell), cell.seed)
    with tempfile.TemporaryDirectory() as cache:
        features = FeatureReader(detector, DetectRun(cache=cache, cache_gb=50))
        trainer, losses = _trained(detector, config, bench.train, features)
        trained_s = time.monotonic()
        judged = {name: _judge(trainer.averaged(), test) for name, test in bench.tests.items()}
    arrays: dict[str, np.ndarray] = {}
    told: dict[str, Any] = {"arm": cell.arm.name, "drift_px": cell.drift_px, "seed": cell.seed, "losses": losses}
    for name, result in judged.items():
        counts_BN = draw_pictures(len(result.found), bench.rounds, seed=0)
        precision_KT, drawn_BKT = result.average_precision(), result.drawn(counts_BN)
        told[name] = {"ap50": _points(precision_KT[:, 0]), "ap": _points(precision_KT.mean(1))}
        arrays |= {f"{name}/ap50": precision_KT[:, 0], f"{name}/ap": precision_KT.mean(1)}
        arrays |= {f"{name}/drawn_ap50": drawn_BKT[:, :, 0], f"{name}/drawn_ap": drawn_BKT.mean(2)}
    told["seconds"] = {"train": round(trained_s - started_s, 1), "judge": round(time.monotonic() - trained_s, 1)}
    partial = bench.out / f".{cell.name}.{os.getpid()}.npz"
    np.savez(partial, **{key: value.astype(np.float32) for key, value in arrays.items()})  # type: ignore[arg-type]
    partial.replace(bench.out / f"{cell.name}.npz")
    write_json(bench.out / f"{cell.name}.json", told)
    return told


def _trained(
    detector: Detector, config: DetectorTrainConfig, train: InfraredSet, features: FeatureReader
) -> tuple[DetectorTrainer, list[dict[str, float]]]:
    count = len(train.pictures)
    steps = math.ceil(count / config.batch_size)
    trainer = DetectorTrainer(detector, config, config.epochs * steps)
    device = next(detector.parameters()).device
    reader = PictureReader(detector.size, detector.config.mapping, config.augment, config.seed)
    history = []
    for epoch in range(config.epochs):
        order = order_of(config.seed, epoch, count)
        batches = [order[k * config.batch_size : (k + 1) * config.batch_size] for k in range(steps)]
        sums: dict[str, float] = {}
        for views in stream_views(train.pictures, batches, epoch, reader, threads=1):
            examples = [_whole(view) for view in views]
            targets = [Target.of(example.truth, device) for example in examples]
            for name, value in trainer.step(None, features(examples, device), targets).items():
                sums[name] = sums.get(name, 0.0) + value * len(examples) / count
        history.append({name: round(value, 5) for name, value in sums.items()})
    return trainer, history


def _whole(view: Example | DataError) -> Example:
    """A study compares arms on the same pictures, so all of them must be there."""
    if isinstance(view, DataError):
        raise view
    return view


def _judge(detector: Detector, test: InfraredSet) -> Judged:
    reader = PictureReader(detector.size, detector.config.mapping)
    found, truths = [], []
    for picture in test.pictures:
        example = reader.example(picture)
        assert picture.width and picture.height, "checked before the first run"
        size = (picture.height, picture.width)
        found.append(detect_example(detector, example, None).resized(size))
        truths.append(Truth(picture.boxes_xyxy, picture.labels, picture.is_ignored))
    return Judged.of(detector.config.classes, found, truths)


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
