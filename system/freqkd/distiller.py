"""One step of distillation: infrared features of a student towards RGB features of a frozen teacher. Pure torch.

Nothing here depends on how a batch is divided among workers or pieces: losses are means over pictures, and dropout
masks are drawn for each picture from (seed, step, place in the batch).
Legend: N pictures, C channels, H x W pixels, h x w patches.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from system.backbones.loading import DINOV2
from system.backbones.vit import block_features, normalise, pad_to_patch, refuse_blocks, vit_facts
from system.config import FrozenConfig
from system.errors import ConfigError, ModelError
from system.freqkd.adapters import adapted_layers, add_adapters
from system.freqkd.losses import LossConfig, distillation_loss
from system.freqkd.student import (
    CnnStudent,
    Student,
    is_projection,
    load_trained_state,
    matched_grid,
    rate_factor,
    seed_dropout,
    student_features,
    trained_parameters,
    trained_state,
)

Precision = Literal["fp32", "bf16", "fp16"]
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# Of all steps, at most: 500 would be the whole training of a small corpus.
_MAX_WARMUP_SHARE = 0.1
# Patches of one pass on a CPU: 16 pictures of 238x322 at once take a third longer each than 4 do (measured).
_CACHED_PATCHES = 1700


class DistillConfig(FrozenConfig):
    """What is distilled and how; the defaults are FreqKD's (arXiv 2606.11572) for a ViT-S/14, its loss with bands that
    are exact projections. `system.freqkd.recipes` has the documented settings.

    tower: what learns, of `load_network`. teacher: of `load_vit`: another of the same width and patch, or None for the
    tower itself; of a convolutional network any vision transformer, and four blocks for its four stages.
    height, width: pictures are resized to it, then padded at the right and below to whole patches.
    blocks: matched, counted from 0. block_weights: of the loss, one for each block; None for 1 each.
    rank: of the adapters, 0 for full matrices; a convolutional network learns as a whole, without adapters or dropout.
    projections_first: share of all steps in which a convolutional network's projections learn alone: while they are as
    chance drew them, they would teach the network what is not there. merge_factor: of what is exported.
    warmup_steps: linear from `warmup_start` times the learning rate; a tenth of all steps at most. Then a cosine down
    to `final_learning_rate`. batch_size: pairs of one step, over all workers together. accumulate: pieces that a worker
    computes its share in. flip: half of the pairs are mirrored, both pictures of a pair together.
    """

    tower: str = DINOV2
    teacher: str | None = None
    height: int = Field(default=238, ge=14, le=8192)
    width: int = Field(default=322, ge=14, le=8192)
    blocks: tuple[int, ...] = Field(default=(3, 6, 8, 9), min_length=1)
    block_weights: tuple[float, ...] | None = None
    loss: LossConfig = LossConfig()
    rank: int = Field(default=64, ge=0, le=8192)
    alpha: float = Field(default=64.0, gt=0)
    dropout: float = Field(default=0.05, ge=0, lt=1)
    learning_rate: float = Field(default=2e-4, gt=0, le=1)
    weight_decay: float = Field(default=1e-4, ge=0, le=10)
    clip_norm: float = Field(default=1.0, gt=0)
    warmup_steps: int = Field(default=500, ge=0)
    warmup_start: float = Field(default=0.01, gt=0, le=1)
    final_learning_rate: float = Field(default=1e-7, ge=0)
    epochs: int = Field(default=12, ge=1, le=100_000)
    batch_size: int = Field(default=8, ge=1, le=65536)
    accumulate: int = Field(default=1, ge=1, le=1024)
    projections_first: float = Field(default=0.0, ge=0, lt=1)
    merge_factor: float = Field(default=0.5, ge=0, le=4)
    flip: bool = True
    seed: int = Field(default=0, ge=0)
    precision: Precision = "fp32"


class Distiller:
    """A student, its optimiser and its schedule. The same calls give the same bits on the same machine."""

    def __init__(self, student: Student, config: DistillConfig, total_steps: int) -> None:
        """Adapters are added where a vision transformer has none.

        Raises:
            ConfigError: a block that the student lacks, or weights for another number of blocks.
        """
        if not isinstance(student, CnnStudent):
            refuse_blocks(student, config.blocks)
        if len(set(config.blocks)) < len(config.blocks):
            raise ConfigError(f"blocks {', '.join(map(str, config.blocks))}: expected each once")
        if config.block_weights is not None and len(config.block_weights) != len(config.blocks):
            raise ConfigError(f"{len(config.block_weights)} block weights for {len(config.blocks)} blocks")
        if not isinstance(student, CnnStudent) and not adapted_layers(student):
            add_adapters(student, config.rank, config.alpha, config.dropout, config.seed, max(config.blocks))
        self.student: Student = student.train()
        self.config, self.total_steps = config, max(1, total_steps)
        self.steps_done = 0
        self._grid = matched_grid(student)
        self._parameters = trained_parameters(student)
        self._device = next(iter(self._parameters.values())).device
        groups: dict[float, list[torch.nn.Parameter]] = {}
        for name, parameter in self._parameters.items():
            groups.setdefault(rate_factor(name), []).append(parameter)
        self._factors = list(groups)
        self._optimizer = torch.optim.AdamW(
            [{"params": parameters} for parameters in groups.values()],
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
        )
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=config.precision == "fp16")
        # It begins with the first thing that it scales, which a worker may lack: its share of a step may be empty.
        self._scaler.scale(torch.zeros((), device=self._device))

    def step(
        self,
        infrared_NHWC: Tensor,
        teacher_features: Sequence[Tensor],
        valid_NHW: Tensor | None = None,
        places: Sequence[int] | None = None,
        batch_size: int | None = None,
        sum_over_workers: Callable[[Tensor], Any] | None = None,
    ) -> dict[str, float]:
        """One optimiser step.

        Args:
            infrared_NHWC: uint8, this worker's share of the batch; may be empty where there are other workers.
            teacher_features: for each block [N, C, h, w], as `teacher_features` gives them.
            valid_NHW: bool [N, h, w], which patches count; all, if None.
            places: where in the batch these pictures stand; their order, if None.
            batch_size: pictures of the whole batch.
            sum_over_workers: adds up a tensor over all workers, in place.
        Returns:
            Means over the batch: `total` and, where the loss has bands, `low/<block>` and `high/<block>`; `lr`.
        Raises:
            ModelError: the loss is no number, or teacher and student do not fit.
        """
        count = len(infrared_NHWC)
        places = range(count) if places is None else places
        whole = batch_size or count
        rate = self.learning_rate(self.steps_done)
        for group, factor in zip(self._optimizer.param_groups, self._factors, strict=True):
            group["lr"] = rate * factor
        self._optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        piece = self._piece(count)
        for start in range(0, count, piece):
            rows = slice(start, min(start + piece, count))
            try:
                terms = self._losses(
                    infrared_NHWC[rows],
                    [features[rows] for features in teacher_features],
                    None if valid_NHW is None else valid_NHW[rows],
                    places[rows],
                )
            except ModelError as error:
                raise ModelError(f"step {self.steps_done + 1} of {self.total_steps}: {error}") from error
            share = (rows.stop - rows.start) / whole
            self._scaler.scale(terms["total"] * share).backward()
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value.detach().double() * share
        losses = self._mean_losses(sums, sum_over_workers)
        if not all(math.isfinite(value) for value in losses.values()):
            told = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
            raise ModelError(
                f"step {self.steps_done + 1} of {self.total_steps}: the loss is no number ({told}); try a lower "
                "learning rate, precision fp32 or bf16, or look for broken pictures with jobs/check_pairs.py"
            )
        self._descend(sum_over_workers)
        self.steps_done += 1
        return losses | {"lr": rate}

    def learning_rate(self, step: int) -> float:
        """Of a step, counted from 0."""
        config = self.config
        warmup = min(config.warmup_steps, int(self.total_steps * _MAX_WARMUP_SHARE))
        if step < warmup:
            return config.learning_rate * (config.warmup_start + (1 - config.warmup_start) * step / warmup)
        share = min(1.0, (step - warmup) / max(1, self.total_steps - warmup))
        low = min(config.final_learning_rate, config.learning_rate)
        return low + (config.learning_rate - low) * 0.5 * (1 + math.cos(math.pi * share))

    def state(self) -> dict[str, Tensor]:
        """Everything that further steps depend on: copies on the CPU."""
        found = {f"now/{name}": tensor for name, tensor in trained_state(self.student).items()}
        for name, parameter in self._parameters.items():
            for key, value in self._optimizer.state.get(parameter, {}).items():
                found[f"adam.{key}/{name}"] = value.detach().cpu().clone()
        found["steps_done"] = torch.tensor(self.steps_done)
        if self._scaler.is_enabled():
            scaler = self._scaler.state_dict()
            found["scaler"] = torch.tensor([scaler["scale"], scaler["_growth_tracker"]], dtype=torch.float64)
        return found

    def restore(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`.

        Raises:
            ModelError: it is of another model.
        """
        load_trained_state(
            self.student, {key.removeprefix("now/"): v for key, v in state.items() if key.startswith("now/")}
        )
        for name, parameter in self._parameters.items():
            moments = {
                key: state[f"adam.{key}/{name}"].clone()
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"adam.{key}/{name}" in state
            }
            if moments:
                self._optimizer.state[parameter] = {
                    key: value if key == "step" else value.to(parameter.device) for key, value in moments.items()
                }
        self.steps_done = int(state["steps_done"])
        if self._scaler.is_enabled() and "scaler" in state:
            scale, tracker = state["scaler"].tolist()
            self._scaler.load_state_dict(self._scaler.state_dict() | {"scale": scale, "_growth_tracker": int(tracker)})

    def _losses(
        self,
        infrared_NHWC: Tensor,
        teacher: Sequence[Tensor],
        valid_NHW: Tensor | None,
        places: Sequence[int],
    ) -> dict[str, Tensor]:
        self._seed_dropout(places)
        with autocast(self._device, self.config.precision):
            student = student_features(self.student, infrared_NHWC.to(self._device), self.config.blocks)
        given = [features.to(self._device).float() for features in teacher]
        refuse_misfit([tuple(f.shape) for f in student], [tuple(f.shape) for f in given], self.config.blocks)
        terms = distillation_loss(
            [features.float() for features in student],
            given,
            self.config.loss,
            None if valid_NHW is None else valid_NHW.to(self._device),
            self.config.block_weights,
        )
        return {"total": terms.total} | {self._name(part): value for part, value in terms.parts.items()}

    def _piece(self, count: int) -> int:
        """Pictures computed at a time; on a CPU no more than stay in its cache."""
        piece = max(1, -(-count // self.config.accumulate))
        if self._device.type == "cpu":
            height, width = self._grid.padded(self.config.height, self.config.width)
            piece = min(piece, max(1, _CACHED_PATCHES * self._grid.patch**2 // (height * width)))
        return piece

    def _name(self, part: str) -> str:
        """`low/0` of the first block asked becomes `low/3`, its number in the network."""
        band, _, index = part.partition("/")
        return f"{band}/{self.config.blocks[int(index)]}" if index.isdigit() else part

    def _seed_dropout(self, places: Sequence[int]) -> None:
        if not self.config.dropout or not self.config.rank:
            return
        seed_dropout(self.student, [seed_of(self.config.seed, "dropout", self.steps_done, place) for place in places])

    def _mean_losses(
        self, sums: dict[str, Tensor], sum_over_workers: Callable[[Tensor], Any] | None
    ) -> dict[str, float]:
        names = loss_names(self.config) if sum_over_workers else list(sums)
        zero = torch.zeros((), dtype=torch.float64, device=self._device)
        values = torch.stack([sums.get(name, zero) for name in names])
        if sum_over_workers:
            sum_over_workers(values)
        return dict(zip(names, values.tolist(), strict=True))

    def _learning(self) -> list[torch.nn.Parameter]:
        """What learns in this step; the others lose their gradients, so that the optimiser passes them over."""
        if self.steps_done >= int(self.config.projections_first * self.total_steps):
            return list(self._parameters.values())
        if not (projections := [p for name, p in self._parameters.items() if is_projection(name)]):
            return list(self._parameters.values())
        for name, parameter in self._parameters.items():
            if not is_projection(name):
                parameter.grad = None
        return projections

    def _descend(self, sum_over_workers: Callable[[Tensor], Any] | None) -> None:
        parameters = self._learning()
        if sum_over_workers:
            flat = torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in parameters])
            sum_over_workers(flat)
            for parameter, gradient in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
                parameter.grad = gradient.view_as(parameter)
        self._scaler.unscale_(self._optimizer)
        torch.nn.utils.clip_grad_norm_(parameters, self.config.clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()


@torch.no_grad()
def teacher_features(
    teacher: VisionTransformer, rgb_NHWC: Tensor, blocks: Sequence[int], precision: Precision = "fp32"
) -> list[Tensor]:
    """What the student is to match, float32 [N, C, h, w] for each block, padded as the student's pictures are.

    Raises:
        ConfigError: a block that the teacher lacks.
    """
    facts, device = vit_facts(teacher), next(teacher.parameters()).device
    was_training = teacher.training
    teacher.eval()
    try:
        pixels = pad_to_patch(normalise(rgb_NHWC.to(device), facts), facts.patch)
        with autocast(device, precision):
            found = block_features(teacher, pixels, blocks)
    finally:
        teacher.train(was_training)
    return [features.float() for features in found]


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context that a forward pass runs in."""
    return torch.autocast(device.type, _DTYPES.get(precision, torch.bfloat16), enabled=precision != "fp32")


def refuse_misfit(
    student: Sequence[tuple[int, ...]], teacher: Sequence[tuple[int, ...]], blocks: Sequence[int]
) -> None:
    """Raises ModelError: features of teacher and student have other shapes [N, C, h, w]: which, and why it may be."""
    if len(student) != len(teacher):
        raise ModelError(f"the teacher gives {len(teacher)} feature maps for {len(student)} blocks")
    for block, ours, theirs in zip(blocks, student, teacher, strict=True):
        if ours != theirs:
            raise ModelError(
                f"block {block}: the student's features are {list(ours)}, the teacher's {list(theirs)} (pictures, "
                "channels, rows, columns); they must be of the same width, patch and picture size"
            )


def loss_names(config: DistillConfig) -> list[str]:
    """The names of `Distiller.step`'s losses, without a picture."""
    maps = [torch.zeros(1, 2, 2, 2) for _ in config.blocks]
    parts = distillation_loss(maps, maps, config.loss, None, config.block_weights).parts
    names = []
    for part in parts:
        band, _, index = part.partition("/")
        names.append(f"{band}/{config.blocks[int(index)]}" if index.isdigit() else part)
    return ["total", *names]


def seed_of(*parts: object) -> int:
    """A seed that depends on nothing but what it is made from."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7], "big")


def order_of(seed: int, epoch: int, count: int) -> list[int]:
    """The order of an epoch's pairs; the number of workers has no part in it."""
    generator = torch.Generator().manual_seed(seed_of(seed, "order", epoch))
    return torch.randperm(count, generator=generator).tolist()


def is_flipped(seed: int, epoch: int, pair: int) -> bool:
    """Whether a pair (its number in the corpus) is mirrored in an epoch."""
    return bool(seed_of(seed, "flip", epoch, pair) & 1)
