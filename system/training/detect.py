"""Train a model of infrared pictures: labelled pictures in, a published folder out."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from system.backbones.cnn import is_cnn
from system.backbones.vit import vit_hash
from system.config import FrozenConfig
from system.drafts import new_draft, publish_draft, refuse_existing
from system.errors import ConfigError, DataError
from system.infrared.detector import Detector, InfraredModel, count, model_id, read_model_config
from system.infrared.detector_config import InfraredModelConfig, sizes_for
from system.infrared.detector_trainer import DetectorTrainConfig
from system.infrared.start import is_folder, read_start
from system.pairs.coloured import count_coloured
from system.pairs.infrared_set import InfraredSet, read_infrared_set, refuse_ignored
from system.pairs.records import PairFault
from system.pipelines.resources import check_workers, connect_to_ray
from system.report.console import ConsoleProgress
from system.store.runs import git_commit
from system.training.certificate import library_versions, now
from system.training.detect_data import sha256_of
from system.training.detect_publish import DetectRecord, write_model
from system.training.detect_run import SAMPLES, DetectRun, new_model, train_on_ray
from system.training.infrared_task import DetectionTask, InfraredTask
from system.training.learnt import (
    BACKBONE_NAME,
    learnt_by_backbone,
    learnt_with_start,
    marks_of,
    tell_seen,
    write_learnt,
)
from system.training.position import shown
from system.training.probe import named_backbone
from system.training.probe_set import JUDGED_SPLITS
from system.training.run import discard_run
from system.training.student import mapping_of
from system.training.study_folder import read_settings, write_json

_SETTINGS = "settings.json"
_FAULTS_TOLD = 5
_OF_A_START = ("architecture", "backbone", "merge", "blocks", "channels", "convs")


class DetectSource(FrozenConfig):
    """train, val: COCO files or corpora; val is judged after each epoch and chooses nothing.

    splits: parts of a corpus of pairs that are learnt from, as its layout names them. images: folder of a COCO file's
    pictures. classes: that are learnt; those of the start, or all of `train`, if none are named. ignored: classes in
    whose boxes nothing is right or wrong. licence: of the pictures, as the user says. start: what the training begins
    with, a name of `system.infrared.start`.
    """

    train: tuple[str, ...]
    val: str | None = None
    splits: tuple[str, ...] = ("train",)
    images: str | None = None
    classes: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    licence: str = "not stated"
    start: str | None = None


def model_values(task: InfraredTask, source: DetectSource, values: Mapping[str, Any]) -> dict[str, Any]:
    """Of the task's configuration, but for what `train` decides: those given, then the start's, then the backbone's.

    Args:
        values: None where they were not given.
    Returns:
        With `classes` where the start brings a model's own and the source names none.
    Raises:
        ConfigError: a value that only a model from the beginning can choose.
    """
    given = {key: value for key, value in values.items() if value is not None}
    start = {} if source.start is None else dict(read_start(source.start, task.model).values)
    if source.start is not None and is_folder(source.start):
        odd = [key for key in _OF_A_START if key in given and given[key] != start[key]]
        if odd:
            told = ", ".join(f"{key} {given[key]} in place of {start[key]}" for key in odd)
            raise ConfigError(f"--start {source.start} brings its own backbone and head, but was given {told}")
        return start | given
    backbone = given.get("backbone", task.config.model_fields["backbone"].default)
    found = {"mapping": mapping_of(backbone)} | sizes_for(is_cnn(named_backbone(backbone).name))
    return found | start | given


def gather_labelled(
    uris: tuple[str, ...],
    images: str | None,
    classes: tuple[str, ...],
    splits: tuple[str, ...] = ("train",),
    ignored: tuple[str, ...] = (),
    val: InfraredSet | None = None,
) -> InfraredSet:
    """Several sets as one, with the classes that are asked for, or all of the first that show an object.

    Args:
        ignored: classes in whose boxes nothing is right or wrong. val: which may know them too.
    Raises:
        DataError: no object of a class. ConfigError: a set that knows none of the classes; of `refuse_ignored`.
    """
    sets = [read_infrared_set(uri, images, splits) for uri in uris]
    refuse_ignored(ignored, classes, [*sets, val] if val else sets)
    classes = classes or tuple(name for name in sets[0].shown_classes() if name not in ignored)
    if not classes:
        raise DataError("no_positive", f"{sets[0].name}: shows no object to learn from")
    joined = [found.of_classes(classes, ignored) for found in sets]
    whole = InfraredSet(
        ", ".join(found.name for found in joined),
        tuple(picture for found in joined for picture in found.pictures),
        classes,
        (*_left_to_background(sets, (*classes, *ignored)), *(fault for found in joined for fault in found.faults)),
    )
    if missing := [name for name, objects in whole.counts().items() if not objects]:
        raise DataError(
            "no_positive", f"{whole.name}: shows no {', '.join(missing)} to learn from; name other --classes"
        )
    return whole


def _left_to_background(sets: Sequence[InfraredSet], named: Sequence[str]) -> Iterator[PairFault]:
    """Objects that a set shows and nobody named; a class of another name may be one of those that are learnt."""
    for found in sets:
        counts = found.counts()
        if others := [f"{counts[name]} {name}" for name in found.shown_classes() if name not in named]:
            told = f"{', '.join(others)}: not among the classes that are learnt, and background to them"
            yield PairFault(found.name, "other_class", told, is_skipped=False)


def start_classes(source: DetectSource, kind: type[InfraredModel]) -> tuple[str, ...]:
    """Of a model of ours that a training goes on from; () without one."""
    if source.start is None or not is_folder(source.start):
        return ()
    return read_model_config(Path(source.start), kind).config.classes


def refuse_left_out(labelled: InfraredSet, max_share: float) -> None:
    """Raises DataError: too many of a set's pictures are missing or damaged before any is read."""
    left_out = [fault for fault in labelled.faults if fault.is_skipped]
    listed = len(labelled.pictures) + len(left_out)
    if len(left_out) > max_share * listed:
        raise DataError(
            "too_many_bad",
            f"{labelled.name}: {len(left_out)} of {listed} pictures are left out, more than --max-bad-share "
            f"{max_share:g}, e.g. {left_out[0]}",
        )


def train_detector(
    source: DetectSource,
    values: dict[str, Any],
    config: DetectorTrainConfig,
    run: DetectRun,
    out: Path,
    progress: ConsoleProgress,
) -> dict[str, Any]:
    """Train and publish a detector at `out`, as `train_model`.

    Args:
        values: of `DetectorConfig` without its classes; None where the backbone decides.
    """
    refuse_existing(out)
    classes = source.classes or start_classes(source, Detector)
    val = read_infrared_set(source.val, source.images, JUDGED_SPLITS) if source.val else None
    train = gather_labelled(source.train, source.images, classes, source.splits, source.ignored, val)
    if val is not None:
        val = val.of_classes(train.classes, source.ignored)
    return train_model(DetectionTask(), train, val, train.counts(), source, values, config, run, out, progress)


def train_model(
    task: InfraredTask,
    train: InfraredSet,
    val: InfraredSet | None,
    objects: dict[str, int],
    source: DetectSource,
    values: dict[str, Any],
    config: DetectorTrainConfig,
    run: DetectRun,
    out: Path,
    progress: ConsoleProgress,
) -> dict[str, Any]:
    """Train and publish at `out`; what can be refused is refused before anything is computed.

    Args:
        objects: of each class that is learnt, for the record. values: of the task's configuration without classes.
    Returns:
        Keys of the job's last line: checkpoint, <noun>_id, classes, trained_parameters, images, seconds, epochs, loss,
        the task's figures (of the last epoch on at most 500 pictures of `val`, in points), skipped, left_out, mended
        (boxes dropped or cut), coloured (of at most 64 pictures that were looked at), resumed_from.
    Raises:
        ConfigError, DataError, ModelError.
    """
    refuse_existing(out)
    for found in (train, val):
        if found is not None:
            refuse_left_out(found, run.max_bad_share)
    if val is not None:
        known = {picture.uri for picture in train.pictures}
        if shared := [picture.uri for picture in val.pictures if picture.uri in known]:
            raise DataError("leak", f"{len(shared)} pictures of --val are learnt from too, e.g. {shared[0]}")
    chosen = model_values(task, source, values)
    model_config = task.config.parse(chosen | {"classes": train.classes}, "options")
    fresh = new_model(task, model_config, config.seed, source.start)
    begun = model_id(source.start, task.model) if source.start and is_folder(source.start) else None
    trained_parameters = count(fresh.trained_parameters().values())
    run_folder = out.with_name(f".{out.name}.training")
    backbone_hash = vit_hash(fresh.backbone.network)
    started = {"start": begun or source.start, "head_hash": vit_hash(fresh.head)} if source.start else {}
    _claim(run_folder, task.model.format, model_config, config, train, val, {"backbone_hash": backbone_hash} | started)
    progress.phase(
        f"learning {', '.join(train.classes)} from {len(train.pictures)} pictures, {trained_parameters} parameters"
    )
    for fault in train.faults[:_FAULTS_TOLD]:
        progress.note(f"{'left out' if fault.is_skipped else 'mended'}: {fault}")
    for fault in [fault for fault in val.faults if fault.is_skipped][:_FAULTS_TOLD] if val else ():
        progress.note(f"--val: left out: {fault}")
    if len(train.faults) > _FAULTS_TOLD:
        progress.note(f"and {len(train.faults) - _FAULTS_TOLD} more pictures left out, boxes dropped or cut")
    coloured = count_coloured(train.pictures, train.name, progress.note)
    if val is not None:
        count_coloured(val.pictures, val.name, progress.note)
    connect_to_ray()
    check_workers(run.workers, run.threads, run.use_gpu, progress.note)
    learnt, of_backbone = (
        marks_of([picture.uri for picture in train.pictures]),
        learnt_by_backbone(model_config.backbone),
    )
    if source.start and begun:
        learnt, of_backbone = learnt_with_start(learnt, Path(source.start), progress.note)
    if val is not None:
        judged = [picture.uri for picture in val.pictures]
        marks = marks_of(judged)
        tell_seen("this training (from copies)", judged, marks, learnt, progress.note)
        tell_seen(f"the backbone {model_config.backbone}", judged, marks, of_backbone, progress.note)
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    per_epoch = math.ceil(len(train.pictures) / config.batch_size)
    progress.expect(config.epochs * per_epoch)
    with shown(run_folder, config.batch_size, "pictures", progress):
        state, trained = train_on_ray(task, model_config, config, run, train, val, run_folder, source.start)
    if not trained.images:
        discard_run(run_folder)
        raise DataError("no_readable_picture", f"none of {len(train.pictures)} pictures could be read")
    progress.phase("writing")
    _fill(fresh, state)
    last = trained.history[-1]
    record = DetectRecord(
        detector=model_config,
        config=config,
        train=source.train,
        val=source.val,
        licence=source.licence,
        start=source.start,
        start_id=begun,
        objects=objects,
        ignored=source.ignored,
        masks=train.masks,
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
    folder = new_draft(out)
    write_model(folder, task, fresh, record, trained.history)
    write_learnt(folder, learnt)
    if of_backbone is not None:
        write_learnt(folder, of_backbone, BACKBONE_NAME)
    shutil.copytree(run_folder / SAMPLES, folder / SAMPLES, dirs_exist_ok=True)
    publish_draft(folder, out)
    discard_run(run_folder)
    return {
        "checkpoint": str(out),
        f"{task.model.noun}_id": model_id(out, task.model),
        "classes": list(train.classes),
        "trained_parameters": trained_parameters,
        "images": trained.images,
        "seconds": round(trained.seconds, 1),
        "epochs": trained.epoch,
        "loss": last["train/total"],
        **{name: last.get(f"val/{name}") for name in task.figures},
        "skipped": len(trained.skipped),
        "left_out": record.left_out,
        "mended": len(train.faults) - record.left_out,
        "coloured": coloured,
        "resumed_from": trained.resumed_from,
    }


def _fill(model: InfraredModel, state: dict[str, Any]) -> None:
    """The moving average of a finished training."""
    for name, parameter in model.trained_parameters().items():
        parameter.data.copy_(state[f"average/{name}"])


def _claim(
    folder: Path,
    model_format: str,
    model: InfraredModelConfig,
    config: DetectorTrainConfig,
    train: InfraredSet,
    val: InfraredSet | None,
    weights: dict[str, str],
) -> None:
    """Begin a run folder, or check that it is of this very training. weights: what it begins with."""
    settings = model.model_dump(mode="json") | config.model_dump(mode="json")
    settings |= {"train": sha256_of(train), "val": sha256_of(val) if val else None, "format": model_format}
    settings |= weights
    file = folder / _SETTINGS
    try:
        folder.mkdir(parents=True, exist_ok=True)
        asked = json.loads(json.dumps(settings))
        before = read_settings(file) if file.is_file() else asked
        if differing := sorted(key for key in asked if before.get(key) != asked[key]):
            raise ConfigError(
                f"{folder}: holds an unfinished training with other settings ({', '.join(differing)}); repeat that "
                "command, choose another --out, or delete the folder"
            )
        write_json(file, settings)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written: {error.strerror}") from error
