"""Base training: the stream's trunk with the first risk and forecast readers, on a frozen tower."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from system.backbones.loading import describe_tower, load_tower
from system.backbones.runtime import Runtime
from system.drafts import new_draft, publish_draft, refuse_existing
from system.errors import DataError
from system.miner.remembered_tower import RememberedTower
from system.miner.taxonomy import Taxonomy
from system.pipelines.resources import check_workers, connect_to_ray
from system.report.console import ConsoleProgress
from system.store.runs import git_commit
from system.training.certificate import library_versions, now
from system.training.config import TrainConfig
from system.training.examples import (
    Examples,
    SourceConfig,
    gather,
    groups_of,
    known_scenes,
    logs_of,
    split_examples,
)
from system.training.publish import write_card, write_history
from system.training.records import Training, TrainingRecord
from system.training.run import Recipe, Trained, discard_run, train_on_ray
from system.training.task import BASE_HEADS


@dataclass(frozen=True)
class BaseResult:
    """A published base model."""

    checkpoint: str
    model_id: str
    trained_parameters: int
    scenes: dict[str, int]
    best_epoch: int
    epochs: int
    figures: dict[str, float]


def train_base(
    source: SourceConfig, taxonomy: Taxonomy, config: TrainConfig, out: Path, progress: ConsoleProgress
) -> BaseResult:
    """Train a base and publish it at `out`.

    Raises:
        ConfigError, DataError, ModelError: checked before anything is computed where that is possible.
    """
    refuse_existing(out)
    describe_tower(source.tower)

    def divided(examples: Examples) -> dict[str, Examples]:
        parts = split_examples(examples, {}, source.test_share)
        _refuse_nothing_to_learn(parts)
        return parts

    examples = gather(source, taxonomy, progress, check=divided)
    parts = divided(examples)
    run_folder = out.with_name(f".{out.name}.training")
    recipe = Recipe(source.tower, taxonomy, config)
    progress.phase(f"training on {len(parts['train'])} scenes, judged on {len(parts['val'])}")
    connect_to_ray()
    check_workers(config.workers, config.threads_per_worker, config.use_gpu, progress.note)
    tower = RememberedTower.of(load_tower(source.tower, Runtime()), taxonomy)
    trained = train_on_ray(recipe, tower, parts["train"], parts["val"], run_folder)
    folder = new_draft(out)
    trained.miner.save(folder)
    training = describe_training("base", source, config, parts, examples, trained, None)
    write_history(folder, trained.progress.history, trained.progress.best_epoch)
    write_card(folder, trained.miner, TrainingRecord(trainings=(training,)))
    publish_draft(folder, out)
    discard_run(run_folder)
    return BaseResult(
        checkpoint=str(out),
        model_id=trained.miner.model_id,
        trained_parameters=trained.trained_parameters,
        scenes=training.scenes,
        best_epoch=training.best_epoch,
        epochs=training.epochs,
        figures=training.figures,
    )


def describe_training(
    head: str,
    source: SourceConfig,
    config: TrainConfig,
    parts: dict[str, Examples],
    examples: Examples,
    trained: Trained,
    base_model_id: str | None,
    positives: dict[str, int] | None = None,
) -> Training:
    """The entry of this training in the model's record."""
    progress = trained.progress
    best: dict[str, Any] = next(row for row in progress.history if row["epoch"] == progress.best_epoch)
    return Training(
        head=head,
        model_id=trained.miner.model_id,
        base_model_id=base_model_id,
        trained_parameters=trained.trained_parameters,
        config=config.model_dump(mode="json"),
        logs=source.logs,
        tower=source.tower,
        windows=source.windows,
        labels=source.labels,
        rules=source.rules,
        parts=groups_of(parts),
        log_parts=logs_of(parts),
        scenes={part: len(rows) for part, rows in parts.items()},
        left_out=len(examples.faults),
        data_sha256=examples.sha256(),
        positives=positives or {},
        best_epoch=progress.best_epoch,
        epochs=progress.epoch,
        figures={name: value for name, value in best.items() if "/" in name},
        created=now(),
        commit=git_commit() or "",
        libraries=library_versions(),
    )


def _refuse_nothing_to_learn(parts: dict[str, Examples]) -> None:
    for part in ("train", "val"):
        if any(known_scenes(head, parts[part]) for head in BASE_HEADS):
            continue
        raise DataError(
            "nothing_to_learn",
            f"none of the {len(parts[part])} scenes of part {part} has tracks and pictures, or an ego path of 3 s "
            "beyond its end: a base learns risk and forecast from these. Add logs that have them, as the demo logs do",
        )
