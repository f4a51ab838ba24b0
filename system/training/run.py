"""One training on Ray Train: any number of workers, continued after a kill from the last epoch that was saved."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import torch
from ray.train.torch import get_device

from system.errors import ConfigError, ModelError
from system.miner.identity import FORMAT, saved_model_id
from system.miner.miner_config import OwnHead, SceneMinerConfig
from system.miner.model import SceneMiner, Tower
from system.miner.remembered_tower import RememberedTower
from system.miner.taxonomy import Taxonomy
from system.training.certificate import choose_probe
from system.training.config import TrainConfig
from system.training.examples import Examples
from system.training.loop import Progress, Trainer
from system.training.ray_trainer import fit_on_ray
from system.training.targets import TrainingSet, make_targets
from system.training.task import BaseTask, HeadTask, Task

_SETTINGS = "settings.json"
_FEW = 32


@dataclass(frozen=True)
class Recipe:
    """What is trained, from what. base: folder of the model to upgrade, None to train a base.

    head: which head gets a reader. own_head: a new head of the user's, where `head` names it.
    """

    tower: str
    taxonomy: Taxonomy
    config: TrainConfig
    base: str | None = None
    head: str | None = None
    own_head: OwnHead | None = None
    untrained_tags: tuple[str, ...] = ()

    def build(self, tower: Tower) -> SceneMiner:
        """The model at the start of this training, the same in every process."""
        if self.base is None:
            return SceneMiner.untrained(tower, SceneMinerConfig(), self.taxonomy)
        miner = SceneMiner.load(self.base, tower)
        if self.own_head is not None and self.own_head.name not in miner.heads:
            miner.add_own_head(self.own_head)
        if self.head is not None:
            miner.add_reader(self.head)
        return miner

    def task(self, miner: SceneMiner, train: TrainingSet) -> Task:
        """Raises GuardError: the head is not private."""
        if self.head is None:
            return BaseTask(miner)
        return HeadTask(miner, self.head, choose_probe(train.features), train)

    def training_set(self, miner: SceneMiner, examples: Examples) -> TrainingSet:
        """Features and targets of some examples; tags that are left untrained are unknown."""
        lifted = examples.lifted()
        targets = make_targets(examples.labels, examples.own_NL, lifted)
        for tag in self.untrained_tags:
            targets.tags_NK[:, self.taxonomy.names.index(tag)] = -1
        return TrainingSet(miner.features_of(lifted), targets)


@dataclass(frozen=True, eq=False)
class Trained:
    """The end of a training: the model with the parameters of the best epoch, and how it went."""

    miner: SceneMiner
    trained_parameters: int
    progress: Progress


def train_on_ray(recipe: Recipe, tower: RememberedTower, train: Examples, val: Examples, run_folder: Path) -> Trained:
    """Train, or go on where an earlier call with the same folder and settings was killed.

    Args:
        tower: the recipe's, as far as cached features need it.
        run_folder: where progress is kept, seen by every worker; the caller removes it.
    Raises:
        ConfigError: the folder holds a training with other settings. GuardError: the head is not private.
        ModelError: the loss became no number, or workers died more often than `max_failures`.
    """
    _claim(run_folder, recipe, tower.tower_id, train, val)
    _try(recipe, tower, train)
    config = recipe.config
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    spec = {"recipe": recipe, "tower": tower, "train": train, "val": val}
    checkpoint = fit_on_ray(
        _train, spec, run_folder, config.workers, config.threads_per_worker, config.use_gpu, config.max_failures
    )
    miner = recipe.build(tower)
    with checkpoint.as_directory() as folder:
        return _finished(recipe, miner, train, Path(folder))


def _try(recipe: Recipe, tower: RememberedTower, train: Examples) -> None:
    """Build the task on a few scenes: what is wrong with it is told here, and not by workers that try it again.

    Raises:
        GuardError: the head is not private.
    """
    miner = recipe.build(tower)
    recipe.task(miner, recipe.training_set(miner, train.rows(np.arange(min(len(train), _FEW)))))


def _train(spec: dict[str, Any]) -> None:
    """What every worker runs."""
    recipe: Recipe = spec["recipe"]
    config, context = recipe.config, ray.train.get_context()
    torch.set_num_threads(config.threads_per_worker)
    miner = recipe.build(spec["tower"].to(get_device()))
    train, val = (recipe.training_set(miner, spec[part]) for part in ("train", "val"))
    trainer = Trainer(recipe.task(miner, train), train, val, config, context.get_world_rank(), context.get_world_size())
    saved = ray.train.get_checkpoint()
    if saved is not None:
        with saved.as_directory() as folder:
            trainer.load(Path(folder))

    def report(now: Trainer) -> None:
        row = now.progress.history[-1]
        if context.get_world_rank():
            ray.train.report(row)
            return
        with tempfile.TemporaryDirectory() as folder:
            now.save(Path(folder))
            ray.train.report(row, checkpoint=ray.train.Checkpoint.from_directory(folder))

    trainer.run(report)


def _finished(recipe: Recipe, miner: SceneMiner, train: Examples, folder: Path) -> Trained:
    """The model of the best epoch of a finished training."""
    part = recipe.training_set(miner, train.rows(np.arange(min(len(train), _FEW))))
    task = recipe.task(miner, part)
    trainer = Trainer(task, part, part, recipe.config)
    trainer.load(folder)
    progress = trainer.run() if trainer.progress.is_finished(recipe.config) else None
    if progress is None:
        raise ModelError(f"{folder}: the training ended after epoch {trainer.progress.epoch}, before its time")
    return Trained(miner, task.num_parameters, progress)


def _claim(folder: Path, recipe: Recipe, tower_id: str, train: Examples, val: Examples) -> None:
    """Begin a run folder, or check that it is of this very training."""
    settings = {
        "tower": recipe.tower,
        "taxonomy": recipe.taxonomy.model_dump(mode="json"),
        "config": recipe.config.model_dump(exclude={"workers", "threads_per_worker", "use_gpu", "max_failures"}),
        "tower_id": tower_id,
        "base": recipe.base and saved_model_id(recipe.base, tower_id),
        "format": FORMAT,
        "head": recipe.head,
        "own_head": recipe.own_head.model_dump(mode="json") if recipe.own_head else None,
        "untrained_tags": list(recipe.untrained_tags),
        "data": [train.sha256(), val.sha256()],
    }
    text = json.dumps(settings, indent=1, sort_keys=True)
    file = folder / _SETTINGS
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if file.is_file() and file.read_text("utf-8") != text:
            before = json.loads(file.read_text("utf-8"))
            differing = sorted(key for key in settings if before.get(key) != json.loads(text)[key])
            raise ConfigError(
                f"{folder}: holds an unfinished training with other settings ({', '.join(differing)}); repeat that "
                "command, choose another --out, or delete the folder"
            )
        file.write_text(text, "utf-8")
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written: {error.strerror}") from error


def discard_run(folder: Path) -> None:
    """Remove the progress of a training whose model is published."""
    shutil.rmtree(folder, ignore_errors=True)
