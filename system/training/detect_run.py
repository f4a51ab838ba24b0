"""One training of a detector or a segmenter on Ray Train: any number of workers, continued after a kill.

It goes on from the last whole epoch.

Legend: N pictures, H x W pixels.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import torch
import torch.distributed
from pydantic import Field
from ray.train.torch import get_device
from torch import Tensor

from system.backbones.vit import vit_hash
from system.config import FrozenConfig
from system.errors import DataError, ModelError
from system.freqkd.distiller import order_of
from system.infrared.augment import Example
from system.infrared.detector import InfraredModel
from system.infrared.detector_config import InfraredModelConfig
from system.infrared.detector_trainer import DetectorTrainConfig, DetectorTrainer
from system.infrared.start import begin, read_start
from system.pairs.infrared_set import InfraredPicture, InfraredSet
from system.pipelines.teacher_cache import TeacherCache, kept_as, key_of
from system.training.detect_data import PictureReader, stream_views
from system.training.infrared_task import InfraredTask, mean_points
from system.training.position import note_position
from system.training.ray_trainer import fit_on_ray, load_checkpoint, refuse_bad, report_checkpoint
from system.training.student import load_backbone

SAMPLES = "samples"
_SAMPLE_PICTURES, _LOOKED_AT = 6, 500


class DetectRun(FrozenConfig):
    """Where a training runs. None of it changes what is learnt but `workers`, by the order of sums.

    cache: folder of the frozen backbone's features, seen by every worker; cache_gb: its bound. max_bad_share: of the
    pictures may be unreadable; more of them end the training.
    """

    workers: int = 1
    threads: int = 1
    use_gpu: bool = False
    max_failures: int = 3
    cache: str = "out/detector_features"
    cache_gb: float = 20.0
    max_bad_share: float = Field(default=0.05, ge=0, le=1)


@dataclass
class DetectProgress:
    """How far a training is. history: a row an epoch. skipped: {picture: why it could not be read}."""

    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    images: int = 0
    seconds: float = 0.0
    skipped: dict[str, str] = field(default_factory=dict)
    resumed_from: int | None = None


@dataclass(frozen=True)
class DetectSpec:
    """Everything that a worker has to know."""

    task: InfraredTask
    model: InfraredModelConfig
    config: DetectorTrainConfig
    run: DetectRun
    train: tuple[InfraredPicture, ...]
    val: tuple[InfraredPicture, ...]
    folder: str
    start: str | None = None


def train_on_ray(
    task: InfraredTask,
    model: InfraredModelConfig,
    config: DetectorTrainConfig,
    run: DetectRun,
    train: InfraredSet,
    val: InfraredSet | None,
    run_folder: Path,
    start: str | None = None,
) -> tuple[dict[str, Tensor], DetectProgress]:
    """Train, or go on where an earlier call with the same folder was killed.

    Args:
        start: as of `new_model`.
    Returns:
        (state of the `DetectorTrainer`, progress) at the end.
    Raises:
        DataError: too many pictures cannot be read. ModelError: the loss became no number, or workers died more often
            than `max_failures`.
    """
    folder = str(run_folder.absolute())
    spec = DetectSpec(task, model, config, run, train.pictures, val.pictures if val else (), folder, start)
    checkpoint = fit_on_ray(_train, spec, run_folder, run.workers, run.threads, run.use_gpu, run.max_failures)
    with checkpoint.as_directory() as folder:
        state, progress = load_checkpoint(Path(folder), DetectProgress)
    if progress.epoch < config.epochs:
        raise ModelError(f"{run_folder}: the training ended in epoch {progress.epoch + 1}, before its time")
    return state, progress


def new_model(task: InfraredTask, config: InfraredModelConfig, seed: int, start: str | None = None) -> InfraredModel:
    """At the start of a training, the same in every process.

    Args:
        start: what it begins with in place of chance, a name of `read_start`.
    Raises:
        ConfigError, ModelError: as `load_backbone`, `read_start` and `begin`.
    """
    if start is None:
        return task.model.untrained(config, load_backbone(config.backbone, config.merge), seed)
    begun = read_start(start, task.model)
    network = begun.network if begun.network is not None else load_backbone(config.backbone, config.merge)
    return begin(task.model, config, begun, network, seed)


class FeatureReader:
    """Features of a frozen backbone, kept on disk from epoch to epoch."""

    def __init__(self, model: InfraredModel, run: DetectRun) -> None:
        self._model = model
        facts = model.backbone.facts
        space = f"detector {vit_hash(model.backbone.network)} {facts.mean} {facts.std} {model.config.blocks}"
        self._cache = TeacherCache(Path(run.cache), space, int(run.cache_gb * 1e9))

    def __call__(self, examples: Sequence[Example], device: torch.device) -> list[Tensor]:
        """[N, C, h, w] of each map; pictures go through the backbone one by one, so that bits hang on nobody else."""
        rows = [self._of(torch.from_numpy(example.picture_HW)) for example in examples]
        return [torch.stack([row[k] for row in rows]).to(device).float() for k in range(len(rows[0]))]

    def _of(self, picture_HW: Tensor) -> list[Tensor]:
        key = key_of(picture_HW)
        found = self._cache.get(key)
        if found is None:
            device = next(self._model.parameters()).device
            with torch.no_grad():
                features = self._model.features(as_images([picture_HW]).to(device))
            found = kept_as([f[0].cpu() for f in features])
            self._cache.put(key, found)
        return found


def as_images(pictures: Sequence[Tensor]) -> Tensor:
    """uint8 [H, W] each -> [N, H, W, 3]."""
    return torch.stack(list(pictures))[..., None].expand(-1, -1, -1, 3)


def _train(spec: DetectSpec) -> None:
    """What every worker runs."""
    torch.set_num_threads(spec.run.threads)
    context, config = ray.train.get_context(), spec.config
    rank, world = context.get_world_rank(), context.get_world_size()
    device = get_device()
    assert isinstance(device, torch.device)
    task = spec.task
    model = new_model(task, spec.model, config.seed, spec.start).to(device)
    epoch_steps = math.ceil(len(spec.train) / config.batch_size)
    trainer = DetectorTrainer(model, config, config.epochs * epoch_steps)
    keeps = spec.model.is_frozen and config.augment != "full"
    features = FeatureReader(model, spec.run) if keeps else None
    reader = PictureReader(model.size, spec.model.mapping, config.augment, config.seed)
    progress = DetectProgress()
    if (saved := ray.train.get_checkpoint()) is not None:
        with saved.as_directory() as folder:
            state, progress = load_checkpoint(Path(folder), DetectProgress)
        trainer.restore(state)
        progress.resumed_from = progress.epoch
    sum_up = torch.distributed.all_reduce if world > 1 else None
    while progress.epoch < config.epochs:
        started_s, sums, seen, bad_of_epoch = time.monotonic(), dict[str, float](), 0, 0
        order = order_of(config.seed, progress.epoch, len(spec.train))
        steps = [order[k * config.batch_size : (k + 1) * config.batch_size][rank::world] for k in range(epoch_steps)]
        for step, views in zip(steps, stream_views(spec.train, steps, progress.epoch, reader), strict=True):
            examples = [view for view in views if isinstance(view, Example)]
            bad_views = [(n, view) for n, view in zip(step, views, strict=True) if isinstance(view, DataError)]
            problems = {spec.train[n].uri: str(view) for n, view in bad_views}
            progress.skipped |= problems
            # Of this step: pictures at hand, pictures that could not be read.
            counts = torch.tensor([len(examples), len(problems)], device=device)
            if sum_up is not None:
                sum_up(counts)
            count, bad = counts.tolist()
            bad_of_epoch += bad
            refuse_bad(bad_of_epoch, len(spec.train), "pictures", spec.run.max_bad_share, progress.skipped.values())
            if not count:
                trainer.steps_done += 1
                continue
            targets = [task.target(example, device) for example in examples]
            given = features(examples, device) if features and examples else None
            pictures = [torch.from_numpy(example.picture_HW) for example in examples]
            images = as_images(pictures) if pictures and given is None else None
            for name, value in trainer.step(images, given, targets, count, sum_up).items():
                sums[name] = sums.get(name, 0.0) + value * count
            seen += count
            if rank == 0:
                note_position(Path(spec.folder), trainer.steps_done, len(progress.skipped))
        progress.epoch += 1
        progress.images += seen
        row = {"epoch": float(progress.epoch), "lr": trainer.learning_rate()}
        row |= {f"train/{name}": value / max(1, seen) for name, value in sums.items()}
        progress.seconds += time.monotonic() - started_s
        if rank == 0:
            row |= _look(trainer.averaged(), spec, progress.epoch, features)
        progress.history.append(row)
        report_checkpoint(row, trainer.state, progress)


def _spread(pictures: Sequence[InfraredPicture], count: int) -> Sequence[InfraredPicture]:
    """At most so many, evenly over all."""
    return pictures[:: max(1, -(-len(pictures) // count))]


def _look(model: InfraredModel, spec: DetectSpec, epoch: int, features: FeatureReader | None) -> dict[str, float]:
    """Judge and draw the averaged weights on pictures that are not learnt from, where there are any.

    One worker does it while the others wait, so it looks at some hundreds of them at most.
    """
    reader = PictureReader(model.size, spec.model.mapping)
    pictures = _spread(spec.val, _LOOKED_AT) or spec.train[:_SAMPLE_PICTURES]
    evidence: list[Any] = []
    drawn: list[tuple[Example, Any, str]] = []
    for picture in pictures:
        try:
            example = reader.example(picture)
        except DataError:
            continue
        found = answer(spec.task, model, example, features)
        evidence.append(spec.task.evidence(spec.model.classes, example, found))
        if len(drawn) < _SAMPLE_PICTURES:
            drawn.append((example, found, picture.picture_id))
    folder = Path(spec.folder) / SAMPLES
    folder.mkdir(exist_ok=True)
    sheet = spec.task.sheet(f"epoch {epoch}", spec.model.classes, drawn)
    (folder / f"epoch-{epoch:03d}.jpg").write_bytes(sheet)
    if not spec.val:
        return {}
    unreadable = len(pictures) - len(evidence)
    told = {"unreadable": float(unreadable)} if unreadable else {}
    if evidence:
        told |= mean_points(spec.task.judge(spec.model.classes, evidence, np.zeros((0, len(evidence)))))
    return {f"val/{name}": value for name, value in told.items()}


@torch.no_grad()
def answer(task: InfraredTask, model: InfraredModel, example: Example, features: FeatureReader | None) -> Any:
    """What a model says of a picture, at the model's size."""
    device = next(model.parameters()).device
    if features is None:
        maps = model.features(as_images([torch.from_numpy(example.picture_HW)]).to(device))
    else:
        maps = features([example], device)
    return task.answer(model, maps)
