"""One distillation on Ray Train: any number of workers, continued after a kill from the last step that was saved.

A position is (epoch, steps done in it). The order of an epoch, its mirrored pairs and its dropout come from (seed,
epoch, step, place in the batch), never from who computes them.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray.train
import torch
import torch.distributed
from pydantic import Field
from ray.train.torch import get_device
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from system.backbones.cnn import load_network
from system.backbones.vit import load_vit, twin
from system.config import FrozenConfig
from system.errors import DataError, ModelError, NightminerError
from system.freqkd.distiller import DistillConfig, Distiller, order_of
from system.freqkd.student import new_student, teacher_name
from system.pairs.pixels import InfraredMapping
from system.pipelines.pair_stream import PairName, StreamConfig, stream_steps, trainer_cpus
from system.pipelines.teacher_cache import TeacherCache
from system.training.distill_teacher import Lesson, PairTeacher
from system.training.position import note_position
from system.training.ray_trainer import fit_on_ray, load_checkpoint, refuse_bad, report_checkpoint

_NAMED_PAIRS = 16
# Rows of the curve, about.
_CURVE_ROWS = 500


class DistillRun(FrozenConfig):
    """Where and on what a training runs; none of it changes what is learnt.

    workers, threads, use_gpu, max_failures: of Ray Train. save_steps: between checkpoints, besides the ends of epochs.
    cache: folder of teacher features, seen by every worker; cache_gb: its bound, 0 for none. max_bad_share: of the
    pairs may be unreadable; more of them end the training.
    """

    workers: int = 1
    threads: int = 1
    use_gpu: bool = False
    max_failures: int = 3
    save_steps: int = 200
    cache: str = "out/teacher"
    cache_gb: float = 20.0
    max_bad_share: float = Field(default=0.05, ge=0, le=1)


@dataclass
class DistillProgress:
    """How far a training is.

    epoch: whole epochs done; step: steps done of the next. history: {"epoch", "step", "steps", "lr", loss...}, means
    over `steps` steps that end at `step`, counted from the start. open_row: the one that is being filled.
    images: pairs learnt from; seconds: of training, over all attempts; session_...: of the last attempt.
    skipped: {pair number: why it could not be read}. resumed_from: "epoch E, step S" of the last attempt, or None.
    """

    epoch: int = 0
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    open_row: dict[str, float] = field(default_factory=dict)
    images: int = 0
    seconds: float = 0.0
    session_images: int = 0
    session_seconds: float = 0.0
    skipped: dict[str, str] = field(default_factory=dict)
    resumed_from: dict[str, int] | None = None

    def add(self, step: int, epoch: int, losses: dict[str, float], rows_every: int, is_last: bool) -> None:
        """Note a step's losses; `step` counts from 1."""
        if losses:
            row = self.open_row or {"steps": 0.0}
            self.open_row = {name: row.get(name, 0.0) + value for name, value in losses.items()}
            self.open_row["steps"] = row["steps"] + 1
        row = self.open_row
        if row and (step % rows_every == 0 or is_last):
            means = {name: value / row["steps"] for name, value in row.items() if name != "steps"}
            self.history.append({"epoch": float(epoch), "step": float(step), "steps": row["steps"]} | means)
            self.open_row = {}


def distill_on_ray(
    config: DistillConfig, run: DistillRun, pairs: list[PairName], mapping: InfraredMapping, run_folder: Path
) -> tuple[dict[str, Tensor], DistillProgress]:
    """Train, or go on where an earlier call with the same folder was killed.

    Args:
        run_folder: where progress is kept, seen by every worker.
    Returns:
        (state of the `Distiller`, progress) at the end.
    Raises:
        DataError: too many pairs cannot be read. ModelError: the loss became no number, or workers died more often than
            `max_failures`.
    """
    spec = {"config": config, "run": run, "pairs": pairs, "mapping": mapping, "folder": str(run_folder.absolute())}
    cpus = trainer_cpus(run.threads)
    checkpoint = fit_on_ray(_train, spec, run_folder, run.workers, cpus, run.use_gpu, run.max_failures)
    with checkpoint.as_directory() as folder:
        state, progress = load_checkpoint(Path(folder), DistillProgress)
    if progress.epoch < config.epochs:
        raise ModelError(f"{run_folder}: the training ended in epoch {progress.epoch + 1}, before its time")
    return state, progress


def steps_of_epoch(config: DistillConfig, pairs: int) -> int:
    """Optimiser steps of one epoch."""
    return math.ceil(pairs / config.batch_size)


def _train(spec: dict[str, Any]) -> None:
    """What every worker runs."""
    config: DistillConfig = spec["config"]
    run: DistillRun = spec["run"]
    pairs: list[PairName] = spec["pairs"]
    torch.set_num_threads(run.threads)
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = get_device()
    assert isinstance(device, torch.device)
    network = load_network(config.tower).to(device)
    # Made first: what a student adds to itself, its twin does not have.
    teacher = (
        twin(network)
        if config.teacher is None and isinstance(network, VisionTransformer)
        else load_vit(teacher_name(config)).to(device)
    )
    student = new_student(config, network)
    epoch_steps = steps_of_epoch(config, len(pairs))
    total = config.epochs * epoch_steps
    distiller = Distiller(student, config, total)
    max_bytes = int(run.cache_gb * 1e9)
    teach = PairTeacher(teacher, config, TeacherCache(Path(run.cache), PairTeacher.space(teacher, config), max_bytes))
    progress = DistillProgress()
    if (saved := ray.train.get_checkpoint()) is not None:
        with saved.as_directory() as folder:
            state, progress = load_checkpoint(Path(folder), DistillProgress)
        distiller.restore(state)
        progress.resumed_from = {"epoch": progress.epoch, "step": progress.step}
        progress.session_images, progress.session_seconds = 0, 0.0
    stream = StreamConfig((config.height, config.width), spec["mapping"], tasks=max(1, 2 // world))
    sum_up = torch.distributed.all_reduce if world > 1 else None
    rows_every = max(1, total // _CURVE_ROWS)
    clock_s = time.monotonic()
    while progress.epoch < config.epochs:
        order = order_of(config.seed, progress.epoch, len(pairs))
        bad_of_epoch = 0
        steps = []
        for k in range(progress.step, epoch_steps):
            batch = list(enumerate(pairs[n] for n in order[k * config.batch_size : (k + 1) * config.batch_size]))
            steps.append((k, batch[rank::world]))
        for data in stream_steps(steps, stream):
            # Of this step: pairs at hand, pairs that could not be read.
            counts = torch.tensor([len(data.places), len(data.problems)], device=device)
            if sum_up is not None:
                sum_up(counts)
            count, bad = counts.tolist()
            done = progress.epoch * epoch_steps + data.step + 1
            bad_of_epoch += bad
            try:
                refuse_bad(bad_of_epoch, len(pairs), "pairs", run.max_bad_share, data.problems.values())
                losses = _step(distiller, teach(data, progress.epoch), data.places, count, sum_up)
            except NightminerError as error:
                names = ", ".join(pairs[number].pair_id for number in data.numbers[:_NAMED_PAIRS])
                told = f" (pairs of this step: {names})" if isinstance(error, ModelError) and names else ""
                epoch = f"epoch {progress.epoch + 1}"
                if isinstance(error, DataError):
                    raise DataError(error.code, f"{epoch}: {error.message}") from error
                raise ModelError(f"{epoch}: {error}{told}") from error
            is_last = data.step + 1 == epoch_steps
            progress.add(done, progress.epoch + 1, losses, rows_every, is_last)
            progress.skipped |= {str(number): problem for number, problem in data.problems.items()}
            progress.step = data.step + 1
            progress.images += count
            progress.session_images += count
            spent_s, clock_s = time.monotonic() - clock_s, time.monotonic()
            progress.seconds += spent_s
            progress.session_seconds += spent_s
            if rank == 0:
                note_position(Path(spec["folder"]), done, len(progress.skipped))
            if is_last:
                progress.epoch, progress.step = progress.epoch + 1, 0
            if is_last or done % run.save_steps == 0:
                row = {"epoch": float(progress.epoch), "step": float(progress.step)}
                report_checkpoint(row, distiller.state, progress)


def _step(distiller: Distiller, lesson: Lesson, places: list[int], count: int, sum_up: Any) -> dict[str, float]:
    """A step none of whose pairs could be read passes without one."""
    if not count:
        distiller.steps_done += 1
        return {}
    return distiller.step(lesson.infrared_NHWC, lesson.teacher, lesson.valid_NHW, places, count, sum_up)
