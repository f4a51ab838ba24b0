"""One training of a detector on Ray Train: any number of workers, continued after a kill from the last whole epoch.

Legend: N pictures, H x W pixels.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import ray.train
import torch
import torch.distributed
from pydantic import Field
from ray.train.torch import get_device
from safetensors.torch import load_file, save_file
from torch import Tensor

from system.backbones.vit import vit_hash
from system.config import FrozenConfig
from system.errors import DataError, ModelError
from system.freqkd.distiller import order_of
from system.infrared.augment import Example
from system.infrared.detections import Detections, Truth
from system.infrared.detector import Detector
from system.infrared.detector_config import DetectorConfig
from system.infrared.detector_trainer import DetectorTrainConfig, DetectorTrainer
from system.infrared.judge import Judged
from system.infrared.targets import Target
from system.pairs.infrared_set import InfraredPicture, InfraredSet
from system.pipelines.teacher_cache import TeacherCache, kept_as, key_of
from system.report.detection_sheet import DetectionCell, detection_sheet
from system.training.detect_data import PictureReader, stream_views
from system.training.position import note_position
from system.training.ray_trainer import fit_on_ray
from system.training.student import load_backbone

_TENSORS, _PROGRESS = "state.safetensors", "progress.json"
SAMPLES = "samples"
_SAMPLE_PICTURES, _SAMPLE_SCORE, _LOOKED_AT = 6, 0.3, 500


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

    detector: DetectorConfig
    config: DetectorTrainConfig
    run: DetectRun
    train: tuple[InfraredPicture, ...]
    val: tuple[InfraredPicture, ...]
    folder: str


def train_on_ray(
    detector: DetectorConfig,
    config: DetectorTrainConfig,
    run: DetectRun,
    train: InfraredSet,
    val: InfraredSet | None,
    run_folder: Path,
) -> tuple[dict[str, Tensor], DetectProgress]:
    """Train, or go on where an earlier call with the same folder was killed.

    Returns:
        (state of the `DetectorTrainer`, progress) at the end.
    Raises:
        DataError: too many pictures cannot be read. ModelError: the loss became no number, or workers died more often
            than `max_failures`.
    """
    spec = DetectSpec(detector, config, run, train.pictures, val.pictures if val else (), str(run_folder.absolute()))
    checkpoint = fit_on_ray(_train, spec, run_folder, run.workers, run.threads, run.use_gpu, run.max_failures)
    with checkpoint.as_directory() as folder:
        state, progress = _load(Path(folder))
    if progress.epoch < config.epochs:
        raise ModelError(f"{run_folder}: the training ended in epoch {progress.epoch + 1}, before its time")
    return state, progress


def new_detector(config: DetectorConfig, seed: int) -> Detector:
    """At the start of a training, the same in every process.

    Raises:
        ConfigError, ModelError: as `load_backbone`.
    """
    return Detector.untrained(config, load_backbone(config.backbone, config.merge), seed)


class FeatureReader:
    """Features of a frozen backbone, kept on disk from epoch to epoch."""

    def __init__(self, detector: Detector, run: DetectRun) -> None:
        self._detector = detector
        space = f"detector {vit_hash(detector.backbone.network)} {detector.config.blocks}"
        self._cache = TeacherCache(Path(run.cache), space, int(run.cache_gb * 1e9))

    def __call__(self, examples: Sequence[Example], device: torch.device) -> list[Tensor]:
        """[N, C, h, w] of each map; pictures go through the backbone one by one, so that bits hang on nobody else."""
        rows = [self._of(torch.from_numpy(example.picture_HW)) for example in examples]
        return [torch.stack([row[k] for row in rows]).to(device).float() for k in range(len(rows[0]))]

    def _of(self, picture_HW: Tensor) -> list[Tensor]:
        key = key_of(picture_HW)
        found = self._cache.get(key)
        if found is None:
            device = next(self._detector.parameters()).device
            with torch.no_grad():
                features = self._detector.features(as_images([picture_HW]).to(device))
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
    detector = new_detector(spec.detector, config.seed).to(device)
    epoch_steps = math.ceil(len(spec.train) / config.batch_size)
    trainer = DetectorTrainer(detector, config, config.epochs * epoch_steps)
    keeps = spec.detector.is_frozen and config.augment != "full"
    features = FeatureReader(detector, spec.run) if keeps else None
    reader = PictureReader(detector.size, spec.detector.mapping, config.augment, config.seed)
    progress = DetectProgress()
    if (saved := ray.train.get_checkpoint()) is not None:
        with saved.as_directory() as folder:
            state, progress = _load(Path(folder))
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
            _refuse_bad(bad_of_epoch, len(spec.train), spec.run.max_bad_share, progress.skipped)
            if not count:
                trainer.steps_done += 1
                continue
            targets = [Target.of(example.truth, device) for example in examples]
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
        _report(trainer, progress, rank, world)


def _spread(pictures: Sequence[InfraredPicture], count: int) -> Sequence[InfraredPicture]:
    """At most so many, evenly over all."""
    return pictures[:: max(1, -(-len(pictures) // count))]


def _look(detector: Detector, spec: DetectSpec, epoch: int, features: FeatureReader | None) -> dict[str, float]:
    """Judge and draw the averaged weights on pictures that are not learnt from, where there are any.

    One worker does it while the others wait, so it looks at some hundreds of them at most.
    """
    reader = PictureReader(detector.size, spec.detector.mapping)
    pictures = _spread(spec.val, _LOOKED_AT) or spec.train[:_SAMPLE_PICTURES]
    found: list[Detections] = []
    truths: list[Truth] = []
    cells: list[DetectionCell] = []
    unreadable = 0
    for picture in pictures:
        try:
            example = reader.example(picture)
        except DataError:
            unreadable += 1
            continue
        detections = detect_example(detector, example, features)
        found.append(detections)
        truths.append(example.truth)
        if len(cells) < _SAMPLE_PICTURES:
            shown = detections.above(_SAMPLE_SCORE)
            cells.append(DetectionCell(example.picture_HW, shown, example.truth, (picture.picture_id,)))
    folder = Path(spec.folder) / SAMPLES
    folder.mkdir(exist_ok=True)
    title = f"epoch {epoch}: detections above {_SAMPLE_SCORE:g} (yellow), objects (green)"
    (folder / f"epoch-{epoch:03d}.jpg").write_bytes(detection_sheet(title, cells, spec.detector.classes))
    if not spec.val:
        return {}
    precision_KT = Judged.of(spec.detector.classes, found, truths).average_precision()
    known_KT = precision_KT[np.isfinite(precision_KT).all(1)]
    told = {"val/unreadable": float(unreadable)} if unreadable else {}
    if not len(known_KT):
        return told
    return told | {"val/ap50": 100 * float(known_KT[:, 0].mean()), "val/ap": 100 * float(known_KT.mean())}


@torch.no_grad()
def detect_example(detector: Detector, example: Example, features: FeatureReader | None) -> Detections:
    """Detections at the detector's size."""
    device = next(detector.parameters()).device
    if features is None:
        maps = detector.features(as_images([torch.from_numpy(example.picture_HW)]).to(device))
    else:
        maps = features([example], device)
    return detector.head.detect(maps, detector.size)[0].detections(detector.size)


def _refuse_bad(bad: int, pictures: int, max_share: float, skipped: dict[str, str]) -> None:
    if bad > max_share * pictures:
        example = f", e.g. {next(iter(skipped.values()))}" if skipped else ""
        raise DataError(
            "too_many_bad",
            f"{bad} of {pictures} pictures could not be read, more than --max-bad-share {max_share:g}{example}; mend "
            "them or their storage and repeat the command",
        )


def _report(trainer: DetectorTrainer, progress: DetectProgress, rank: int, world: int) -> None:
    if world > 1:
        everybody: list[dict[str, str]] = [{}] * world
        torch.distributed.all_gather_object(everybody, progress.skipped)
        if rank == 0:
            for skipped in everybody:
                progress.skipped |= skipped
    if rank:
        ray.train.report({"epoch": progress.epoch})
        return
    with tempfile.TemporaryDirectory() as folder:
        save_file(trainer.state(), Path(folder) / _TENSORS)
        (Path(folder) / _PROGRESS).write_text(json.dumps(vars(progress)), "utf-8")
        ray.train.report(progress.history[-1], checkpoint=ray.train.Checkpoint.from_directory(folder))


def _load(folder: Path) -> tuple[dict[str, Tensor], DetectProgress]:
    return load_file(folder / _TENSORS), DetectProgress(**json.loads((folder / _PROGRESS).read_text("utf-8")))
