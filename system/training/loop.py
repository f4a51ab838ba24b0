"""The training loop: deterministic, the same for any number of workers, and continued from where it was saved."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from safetensors.torch import load_file, save_file
from torch import Tensor

from system.errors import ModelError
from system.training.config import TrainConfig
from system.training.targets import TrainingSet
from system.training.task import Task

_TENSORS, _PROGRESS = "state.safetensors", "progress.json"
_VALIDATION_BATCH = 256


@dataclass
class Progress:
    """How far a training is.

    epoch: epochs that are done. history: {"epoch", "lr", "train/...", "val/..."} of each.
    best_loss, best_epoch: of the validation; the model of that epoch is the result.
    """

    epoch: int = 0
    best_epoch: int = 0
    best_loss: float = math.inf
    history: list[dict[str, float]] = field(default_factory=list)

    def is_finished(self, config: TrainConfig) -> bool:
        return self.epoch >= config.epochs or self.epoch - self.best_epoch >= config.patience


class Trainer:
    """Trains a task on this worker's share of every batch."""

    def __init__(
        self, task: Task, train: TrainingSet, val: TrainingSet, config: TrainConfig, rank: int = 0, world: int = 1
    ) -> None:
        self._task, self._config = task, config
        device = next(iter(task.parameters.values())).device
        self._train, self._val = task.prepare(train.to(device)), task.prepare(val.to(device))
        self._rank, self._world = rank, world
        self._parameters = list(task.parameters.values())
        for parameter in self._parameters:
            parameter.requires_grad_(True)
        # Norms, biases and lone vectors are not decayed.
        decayed = [p for p in self._parameters if p.ndim >= 2]
        plain = [p for p in self._parameters if p.ndim < 2]
        self._optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=config.learning_rate,
        )
        self.progress = Progress()
        self._best = task.state()

    def run(self, on_epoch: Callable[[Trainer], None] = lambda _: None) -> Progress:
        """Train to the end; afterwards the task holds the parameters of the best epoch.

        Args:
            on_epoch: called after every epoch, and once before the first.
        Raises:
            ModelError: the loss is no number: in which epoch and step.
        """
        if not self.progress.history:
            self._validate({"epoch": 0.0, "lr": 0.0})
            on_epoch(self)
        while not self.progress.is_finished(self._config):
            self.progress.epoch += 1
            self._validate(self._train_epoch())
            on_epoch(self)
        self._task.restore(self._best)
        for parameter in self._parameters:
            parameter.requires_grad_(False)
        return self.progress

    def save(self, folder: Path) -> None:
        """Write everything that the rest of the training depends on."""
        tensors = {f"now/{name}": tensor for name, tensor in self._task.state().items()}
        tensors |= {f"best/{name}": tensor for name, tensor in self._best.items()}
        for name, parameter in self._task.parameters.items():
            for key, value in self._optimizer.state.get(parameter, {}).items():
                tensors[f"adam.{key}/{name}"] = value.detach().cpu().clone()
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / _TENSORS)
        (folder / _PROGRESS).write_text(json.dumps(vars(self.progress)), "utf-8")

    def load(self, folder: Path) -> None:
        """Continue from what `save` wrote."""
        tensors = load_file(folder / _TENSORS)
        self.progress = Progress(**json.loads((folder / _PROGRESS).read_text("utf-8")))
        self._task.restore({name: tensors[f"now/{name}"] for name in self._task.state()})
        self._best = {name: tensors[f"best/{name}"] for name in self._task.state()}
        for name, parameter in self._task.parameters.items():
            keys = [key for key in tensors if key.startswith("adam.") and key.split("/", 1)[1] == name]
            state: dict[str, Any] = {key.split("/", 1)[0].removeprefix("adam."): tensors[key] for key in keys}
            if state:
                self._optimizer.state[parameter] = {
                    key: value if key == "step" else value.to(parameter.device) for key, value in state.items()
                }

    def _train_epoch(self) -> dict[str, float]:
        config, epoch = self._config, self.progress.epoch
        generator = torch.Generator().manual_seed(hash((config.seed, epoch)) % (1 << 62))
        order = torch.randperm(len(self._train), generator=generator)
        steps = math.ceil(len(order) / config.batch_size)
        cells = self._train.features.tokens.is_seen_NK.shape[1]
        sums: dict[str, Tensor] = {}
        for step in range(steps):
            rate = self._rate((epoch - 1) * steps + step, config.epochs * steps)
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            batch = order[step * config.batch_size : (step + 1) * config.batch_size]
            # Drawn for the whole batch, so that it does not depend on the number of workers.
            draw = torch.rand(len(batch), cells, generator=generator)
            mine = slice(self._rank, None, self._world)
            data = self._train.rows(batch[mine]).with_hidden_cells(config.hidden_cells, draw[mine])
            losses = self._step(data, f"epoch {epoch}, step {step + 1}")
            for name, pair in losses.items():
                sums[name] = sums.get(name, torch.zeros(2)) + pair.cpu()
        return {"epoch": float(epoch), "lr": rate} | _means("train", sums)

    def _step(self, data: TrainingSet, where: str) -> dict[str, Tensor]:
        """One step; returns {loss: (sum, count) over all workers}."""
        losses = self._task.losses(data)
        names = list(losses)
        pairs = torch.stack([torch.stack([part.detach().double() for part in losses[name]]) for name in names])
        self._sum_over_workers(pairs)
        total = sum(
            (self._task.weights[name] * losses[name][0] / max(1.0, float(pairs[k, 1])) for k, name in enumerate(names)),
            start=torch.zeros((), device=pairs.device),
        )
        if not pairs.isfinite().all():
            told = ", ".join(f"{name} {_mean(pairs[k]):.4g}" for k, name in enumerate(names))
            raise ModelError(f"{where}: the loss is no number ({told}); try a lower --learning-rate")
        self._optimizer.zero_grad(set_to_none=False)
        if total.requires_grad:
            total.backward()
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self._parameters]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        self._sum_over_workers(flat)
        offset = 0
        for parameter in self._parameters:
            size = parameter.numel()
            parameter.grad = flat[offset : offset + size].view_as(parameter)
            offset += size
        torch.nn.utils.clip_grad_norm_(self._parameters, self._config.clip_norm)
        self._optimizer.step()
        return {name: pairs[k] for k, name in enumerate(names)}

    def _validate(self, row: dict[str, float]) -> None:
        """Note the validation losses, and the parameters where they are the best so far."""
        sums: dict[str, Tensor] = {}
        with torch.no_grad():
            for start in range(0, len(self._val), _VALIDATION_BATCH):
                part = self._val.rows(torch.arange(start, min(start + _VALIDATION_BATCH, len(self._val))))
                for name, pair in self._task.losses(part).items():
                    sums[name] = sums.get(name, torch.zeros(2)) + torch.stack([x.double().cpu() for x in pair])
        row |= _means("val", sums)
        loss = sum(self._task.weights[name] * _mean(pair) for name, pair in sums.items() if pair[1] > 0)
        if not math.isfinite(loss):
            told = ", ".join(f"{name} {value:.4g}" for name, value in _means("val", sums).items())
            raise ModelError(
                f"epoch {self.progress.epoch}: the validation loss is no number ({told}); try a lower --learning-rate"
            )
        row["val/total"] = loss
        self.progress.history.append(row)
        if loss < self.progress.best_loss:
            self.progress.best_loss, self.progress.best_epoch = loss, self.progress.epoch
            self._best = self._task.state()

    def _rate(self, step: int, steps: int) -> float:
        warmup = max(1.0, self._config.warmup_share * steps)
        if step < warmup:
            return self._config.learning_rate * (step + 1) / (warmup + 1)
        return self._config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1.0, steps - warmup)))

    def _sum_over_workers(self, tensor: Tensor) -> None:
        if self._world > 1:
            torch.distributed.all_reduce(tensor)


def _means(part: str, sums: dict[str, Tensor]) -> dict[str, float]:
    """Losses by name; one of which no scene of the part knows anything is left out."""
    return {f"{part}/{name}": _mean(pair) for name, pair in sums.items() if pair[1] > 0}


def _mean(pair: Tensor) -> float:
    return float(pair[0] / pair[1].clamp_min(1.0))
