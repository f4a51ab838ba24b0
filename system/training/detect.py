"""Train an infrared detector: labelled pictures in, a published folder out."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from system.config import FrozenConfig
from system.errors import ConfigError, DataError
from system.infrared.detector import FORMAT, Detector, count, detector_id
from system.infrared.detector_config import DetectorConfig
from system.infrared.detector_trainer import DetectorTrainConfig
from system.pairs.infrared_set import InfraredSet, read_infrared_set
from system.pipelines.resources import check_workers, connect_to_ray
from system.report.console import ConsoleProgress
from system.store.runs import git_commit
from system.training.certificate import library_versions, now
from system.training.detect_data import sha256_of
from system.training.detect_publish import DetectRecord, write_detector
from system.training.detect_run import SAMPLES, DetectRun, new_detector, train_on_ray
from system.training.publish import publish, refuse_existing, unpublished
from system.training.run import discard_run

_SETTINGS = "settings.json"


class DetectSource(FrozenConfig):
    """train, val: COCO files or corpora; val is judged after each epoch and chooses nothing. images: folder of a COCO
    file's pictures. classes: that are learnt; all of `train`, if none are named. licence: of the pictures, in the
    user's words.
    """

    train: tuple[str, ...]
    val: str | None = None
    images: str | None = None
    classes: tuple[str, ...] = ()
    licence: str = "not stated"


def gather_labelled(uris: tuple[str, ...], images: str | None, classes: tuple[str, ...]) -> InfraredSet:
    """Several sets as one, with the classes that are asked for, or all of the first that show an object.

    Raises:
        DataError: no object of a class. ConfigError: a set that knows none of the classes.
    """
    sets = [read_infrared_set(uri, images) for uri in uris]
    if not classes:
        classes = tuple(name for name, objects in sets[0].counts().items() if objects)
    joined = [found.of_classes(classes) for found in sets]
    whole = InfraredSet(
        ", ".join(found.name for found in joined),
        tuple(picture for found in joined for picture in found.pictures),
        classes,
        tuple(fault for found in joined for fault in found.faults),
    )
    if missing := [name for name, objects in whole.counts().items() if not objects]:
        raise DataError(
            "no_positive", f"{whole.name}: shows no {', '.join(missing)} to learn from; name other --classes"
        )
    return whole


def train_detector(
    source: DetectSource,
    values: dict[str, Any],
    config: DetectorTrainConfig,
    run: DetectRun,
    out: Path,
    progress: ConsoleProgress,
) -> dict[str, Any]:
    """Train and publish at `out`; what can be refused is refused before anything is computed.

    Args:
        values: of `DetectorConfig` without its classes.
    Returns:
        Keys of the job's last line: checkpoint, classes, trained_parameters, images, seconds, epochs, loss, ap50, ap
        (of the last epoch on `val`, in points), skipped, left_out, resumed_from.
    Raises:
        ConfigError, DataError, ModelError.
    """
    refuse_existing(out)
    train = gather_labelled(source.train, source.images, source.classes)
    val = read_infrared_set(source.val, source.images).of_classes(train.classes) if source.val else None
    if val is not None:
        known = {picture.uri for picture in train.pictures}
        if shared := [picture.uri for picture in val.pictures if picture.uri in known]:
            raise DataError("leak", f"{len(shared)} pictures of --val are learnt from too, e.g. {shared[0]}")
    detector_config = DetectorConfig.parse(values | {"classes": train.classes}, "options")
    fresh = new_detector(detector_config, config.seed)
    trained_parameters = count(fresh.trained_parameters().values())
    run_folder = out.with_name(f".{out.name}.training")
    _claim(run_folder, detector_config, config, train, val)
    progress.phase(
        f"learning {', '.join(train.classes)} from {len(train.pictures)} pictures, {trained_parameters} parameters"
    )
    for fault in train.faults[:5]:
        progress.note(f"{'left out' if fault.is_skipped else 'mended'}: {fault}")
    connect_to_ray()
    check_workers(run.workers, run.threads, run.use_gpu, progress.note)
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    state, trained = train_on_ray(detector_config, config, run, train, val, run_folder)
    if not trained.images:
        discard_run(run_folder)
        raise DataError("no_readable_picture", f"none of {len(train.pictures)} pictures could be read")
    progress.phase("writing")
    _fill(fresh, state)
    last = trained.history[-1]
    record = DetectRecord(
        detector=detector_config,
        config=config,
        train=source.train,
        val=source.val,
        licence=source.licence,
        objects=train.counts(),
        pictures=len(train.pictures),
        data_sha256=sha256_of(train),
        trained_parameters=trained_parameters,
        figures={name: value for name, value in last.items() if name not in ("epoch", "lr")},
        skipped=tuple(f"{name}: {why}" for name, why in trained.skipped.items()),
        left_out=sum(fault.is_skipped for fault in train.faults),
        seconds=trained.seconds,
        created=now(),
        commit=git_commit() or "",
        libraries=library_versions(),
    )
    folder = unpublished(out)
    write_detector(folder, fresh, record, trained.history)
    shutil.copytree(run_folder / SAMPLES, folder / SAMPLES, dirs_exist_ok=True)
    publish(folder, out)
    discard_run(run_folder)
    return {
        "checkpoint": str(out),
        "detector_id": detector_id(out),
        "classes": list(train.classes),
        "trained_parameters": trained_parameters,
        "images": trained.images,
        "seconds": round(trained.seconds, 1),
        "epochs": trained.epoch,
        "loss": last["train/total"],
        "ap50": last.get("val/ap50"),
        "ap": last.get("val/ap"),
        "skipped": len(trained.skipped),
        "left_out": record.left_out,
        "resumed_from": trained.resumed_from,
    }


def _fill(detector: Detector, state: dict[str, Any]) -> None:
    """The moving average of a finished training."""
    for name, parameter in detector.trained_parameters().items():
        parameter.data.copy_(state[f"average/{name}"])


def _claim(
    folder: Path, detector: DetectorConfig, config: DetectorTrainConfig, train: InfraredSet, val: InfraredSet | None
) -> None:
    """Begin a run folder, or check that it is of this very training."""
    settings = detector.model_dump(mode="json") | config.model_dump(mode="json")
    settings |= {"train": sha256_of(train), "val": sha256_of(val) if val else None, "format": FORMAT}
    text = json.dumps(settings, indent=1, sort_keys=True)
    file = folder / _SETTINGS
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if file.is_file() and file.read_text("utf-8") != text:
            before, asked = json.loads(file.read_text("utf-8")), json.loads(text)
            differing = sorted(key for key in asked if before.get(key) != asked[key])
            raise ConfigError(
                f"{folder}: holds an unfinished training with other settings ({', '.join(differing)}); repeat that "
                "command, choose another --out, or delete the folder"
            )
        file.write_text(text, "utf-8")
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written: {error.strerror}") from error
