"""One training function on Ray Train's workers, whose driver hears in its own words what it could not go on with."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import ray.train
import torch
import torch.distributed
from ray.train.torch import TorchTrainer
from safetensors.torch import load_file, save_file
from torch import Tensor

from system.errors import ConfigError, DataError, ModelError, NightminerError

_PROBLEM = "problem.json"
_TENSORS, _PROGRESS = "state.safetensors", "progress.json"
ProgressT = TypeVar("ProgressT")


class SkippingProgress(Protocol):
    """How far a training is. skipped: {what could not be read: why}."""

    skipped: dict[str, str]


def fit_on_ray(
    train: Callable[[Any], None],
    spec: Any,
    run_folder: Path,
    workers: int,
    cpus: float,
    use_gpu: bool,
    max_failures: int,
) -> ray.train.Checkpoint:
    """Run `train(spec)` on every worker, or go on where an earlier call with the same folder was killed.

    Args:
        run_folder: where checkpoints are kept, seen by every worker.
        cpus: that each worker reserves. max_failures: how often workers may die.
    Returns:
        The last checkpoint.
    Raises:
        NightminerError: what a worker raised; it is not tried again. ModelError: workers died too often.
    """
    folder = run_folder.absolute()
    (folder / _PROBLEM).unlink(missing_ok=True)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"train": train, "spec": spec, "folder": folder},
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": cpus} | ({"GPU": 1} if use_gpu else {}),
        ),
        run_config=ray.train.RunConfig(
            name="ray",
            storage_path=str(folder),
            failure_config=ray.train.FailureConfig(max_failures=max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
    )
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise _problem_of(folder, error) from error
    if (folder / _PROBLEM).is_file():
        raise _problem_of(folder, None)
    assert result.checkpoint is not None
    return result.checkpoint


def refuse_bad(bad: int, count: int, of: str, max_share: float, problems: Iterable[str]) -> None:
    """End a training of whose pictures too many cannot be read.

    Args:
        of: what they are, for the message. problems: some of them.
    Raises:
        DataError: too_many_bad.
    """
    if bad > max_share * count:
        example = next((f", e.g. {problem}" for problem in problems), "")
        raise DataError(
            "too_many_bad",
            f"{bad} of {count} {of} could not be read, more than --max-bad-share {max_share:g}{example}; mend them or "
            "their storage and repeat the command, which goes on",
        )


def report_checkpoint(
    row: dict[str, float], state: Callable[[], dict[str, Tensor]], progress: SkippingProgress
) -> None:
    """Report from every worker at the same step; the first one leaves a checkpoint with what all of them skipped.

    Args:
        state: asked of the first worker alone. progress: a dataclass of what JSON holds.
    """
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    if world > 1:
        everybody: list[dict[str, str]] = [{}] * world
        torch.distributed.all_gather_object(everybody, progress.skipped)
        for skipped in everybody:
            progress.skipped |= skipped
    if rank:
        ray.train.report(row)
        return
    with tempfile.TemporaryDirectory() as folder:
        save_file(state(), Path(folder) / _TENSORS)
        (Path(folder) / _PROGRESS).write_text(json.dumps(vars(progress)), "utf-8")
        ray.train.report(row, checkpoint=ray.train.Checkpoint.from_directory(folder))


def load_checkpoint(folder: Path, progress: type[ProgressT]) -> tuple[dict[str, Tensor], ProgressT]:
    """State and progress, as `report_checkpoint` left them."""
    return load_file(folder / _TENSORS), progress(**json.loads((folder / _PROGRESS).read_text("utf-8")))


def _worker(loop: dict[str, Any]) -> None:
    folder: Path = loop["folder"]
    if (folder / _PROBLEM).is_file():
        # Ray tries again whatever failed; here to the same end.
        return
    try:
        loop["train"](loop["spec"])
    except NightminerError as error:
        code = error.code if isinstance(error, DataError) else None
        told = error.message if isinstance(error, DataError) else str(error)
        row = {"code": code, "message": told, "is_config": isinstance(error, ConfigError)}
        (folder / _PROBLEM).write_text(json.dumps(row), "utf-8")
        if ray.train.get_context().get_world_size() > 1:
            raise  # only so do the others learn of it, who wait for this worker's sums


def _problem_of(folder: Path, error: BaseException | None) -> NightminerError:
    """What a worker wrote down; where none did, the words of Ray's error without the frames around them."""
    if (folder / _PROBLEM).is_file():
        found = json.loads((folder / _PROBLEM).read_text("utf-8"))
        if found["code"]:
            return DataError(found["code"], found["message"])
        return ConfigError(found["message"]) if found["is_config"] else ModelError(found["message"])
    lines = [line for line in str(error).splitlines() if "Error: " in line]
    return ModelError(lines[-1].split("Error: ", 1)[1] if lines else str(error))
