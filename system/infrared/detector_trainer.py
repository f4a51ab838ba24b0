"""The training of a detector or a segmenter, step by step. Pure torch; the same calls give the same bits on a machine.

Stage 2 of FreqKD: the backbone is frozen, or learns a tenth as fast as the head while a frozen copy of what it was at
the start, which sees the same infrared picture, holds it back:

    loss = of the head + 0.1 x sum over feature maps of mean(1 - cos over channels)

Legend: N pictures, C channels, h x w places of a feature map.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Generic, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from system.config import FrozenConfig
from system.errors import ModelError
from system.infrared.augment import Augment
from system.infrared.detector import InfraredModel

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_MAX_WARMUP_SHARE = 0.1
Model = TypeVar("Model", bound=InfraredModel)
_ADAM = ("step", "exp_avg", "exp_avg_sq")


class DetectorTrainConfig(FrozenConfig):
    """How a detector or a segmenter learns.

    batch_size: pictures of one step, over all workers together. backbone_factor: of the learning rate, for a backbone
    that is not frozen. anchor_weight: of the term that holds it back. Rates rise linearly over `warmup_steps` (a tenth
    of all steps at most), then fall to zero along a cosine. ema_decay: of the moving average of the weights that is
    judged and published; it forgets its start faster. augment: of `system.infrared.augment`; `full` with a frozen
    backbone computes its features anew at each step.
    """

    epochs: int = Field(default=24, ge=1, le=100_000)
    batch_size: int = Field(default=2, ge=1, le=65536)
    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    backbone_factor: float = Field(default=0.1, ge=0, le=1)
    anchor_weight: float = Field(default=0.1, ge=0)
    weight_decay: float = Field(default=1e-4, ge=0, le=10)
    clip_norm: float = Field(default=10.0, gt=0)
    warmup_steps: int = Field(default=100, ge=0)
    ema_decay: float = Field(default=0.998, ge=0, lt=1)
    augment: Augment = "flip"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    seed: int = Field(default=0, ge=0)


class DetectorTrainer(Generic[Model]):
    """A model, its optimiser, its schedule and the moving average of its weights."""

    def __init__(self, detector: Model, config: DetectorTrainConfig, total_steps: int) -> None:
        self.detector, self.config, self.total_steps = detector.train(), config, max(1, total_steps)
        self.steps_done = 0
        self._trained = detector.trained_parameters()
        self._device = next(iter(self._trained.values())).device
        groups: dict[bool, list[torch.nn.Parameter]] = {}
        for name, parameter in self._trained.items():
            groups.setdefault(name.startswith("backbone."), []).append(parameter)
        self._factors = [config.backbone_factor if is_backbone else 1.0 for is_backbone in groups]
        self._optimizer = torch.optim.AdamW(
            [{"params": parameters} for parameters in groups.values()],
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
        )
        self._order = [p for parameters in groups.values() for p in parameters]
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=config.precision == "fp16")
        self._scaler.scale(torch.zeros((), device=self._device))
        self._average = {name: p.detach().clone() for name, p in self._trained.items()}
        self._anchor = None
        if not detector.config.is_frozen and config.anchor_weight:
            self._anchor = copy.deepcopy(detector.backbone).requires_grad_(False).eval()

    def step(
        self,
        images_NHWC: Tensor | None,
        features: Sequence[Tensor] | None,
        targets: Sequence[Any],
        count: int | None = None,
        sum_up: Callable[[Tensor], object] | None = None,
    ) -> dict[str, float]:
        """One step of the optimiser.

        Args:
            images_NHWC: uint8 pictures, or None where `features` are given, of a frozen backbone.
            targets: of each picture at the model's size; none of them where this worker has no part of the batch.
            count: pictures of the step over all workers. sum_up: adds a tensor up over all of them, in place.
        Returns:
            Losses of this step, over all workers, by name, and their `total`.
        Raises:
            ModelError: the loss is no number.
        """
        count = count or len(targets)
        share = len(targets) / max(1, count)
        losses = self._backward(images_NHWC, features, targets, share) if targets else {}
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._order]
        if sum_up is not None:
            for gradient in gradients:
                sum_up(gradient)
            for parameter, gradient in zip(self._order, gradients, strict=True):
                parameter.grad = gradient
        told = self._told(losses, sum_up)
        if not all(math.isfinite(value) for value in told.values()):
            self._optimizer.zero_grad(set_to_none=True)
            raise ModelError(
                f"step {self.steps_done + 1}: the loss is no number ({told}); lower the learning rate or choose "
                "another --precision, with another --out"
            )
        for group, factor in zip(self._optimizer.param_groups, self._factors, strict=True):
            group["lr"] = self.learning_rate() * factor
        self._scaler.unscale_(self._optimizer)
        torch.nn.utils.clip_grad_norm_(self._order, self.config.clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        self.steps_done += 1
        self._average_weights()
        return told

    def _backward(
        self,
        images_NHWC: Tensor | None,
        features: Sequence[Tensor] | None,
        targets: Sequence[Any],
        share: float,
    ) -> dict[str, Tensor]:
        dtype = _DTYPES.get(self.config.precision)
        with self._drawing(), torch.autocast(self._device.type, dtype=dtype, enabled=dtype is not None):
            if features is None:
                assert images_NHWC is not None
                features = self.detector.features(images_NHWC.to(self._device))
            losses = self.detector.losses([f.float() for f in features], targets)
            if self._anchor is not None and images_NHWC is not None:
                with torch.no_grad():
                    held = self._anchor(self._anchor.pixels(images_NHWC.to(self._device)))
                apart = [
                    1 - F.cosine_similarity(a.float(), b.float()).mean() for a, b in zip(features, held, strict=True)
                ]
                losses["anchor"] = self.config.anchor_weight * torch.stack(apart).sum()
        self._scaler.scale(torch.stack(list(losses.values())).sum() * share).backward()
        return {name: value.detach().float() * share for name, value in losses.items()}

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """What a head draws hangs on seed and step alone, so that a training goes on to the same bits after a kill."""
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed((self.config.seed << 32) + self.steps_done)
            yield

    def _told(self, losses: Mapping[str, Tensor], sum_up: Callable[[Tensor], object] | None) -> dict[str, float]:
        names = (*self.detector.head.loss_names, *(["anchor"] if self._anchor is not None else []))
        values = torch.stack([losses.get(name, torch.zeros((), device=self._device)) for name in names])
        if sum_up is not None:
            sum_up(values)
        return dict(zip(names, values.tolist(), strict=True)) | {"total": float(values.sum())}

    def learning_rate(self) -> float:
        """Of the head, in the step to come."""
        warmup = min(self.config.warmup_steps, int(_MAX_WARMUP_SHARE * self.total_steps))
        if self.steps_done < warmup:
            return self.config.learning_rate * (self.steps_done + 1) / warmup
        done = (self.steps_done - warmup) / max(1, self.total_steps - warmup)
        return self.config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    @torch.no_grad()
    def _average_weights(self) -> None:
        decay = min(self.config.ema_decay, (1 + self.steps_done) / (10 + self.steps_done))
        for name, parameter in self._trained.items():
            self._average[name].lerp_(parameter, 1 - decay)

    @torch.no_grad()
    def averaged(self) -> Model:
        """A model of its own with the moving average as its weights, in evaluation mode."""
        other = copy.deepcopy(self.detector).eval()
        for name, parameter in other.named_parameters():
            if name in self._average:
                parameter.copy_(self._average[name])
        return other

    def state(self) -> dict[str, Tensor]:
        """Everything that a later step depends on: copies on the CPU."""
        found: dict[str, Tensor] = {"steps": torch.tensor(self.steps_done)}
        for name, parameter in self._trained.items():
            found |= {f"now/{name}": parameter.detach(), f"average/{name}": self._average[name]}
            found |= {f"adam/{key}/{name}": value for key, value in self._optimizer.state.get(parameter, {}).items()}
        found |= {f"scaler/{key}": torch.tensor(float(value)) for key, value in self._scaler.state_dict().items()}
        return {name: tensor.cpu().clone().contiguous() for name, tensor in found.items()}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        self.steps_done = int(state["steps"])
        for name, parameter in self._trained.items():
            parameter.copy_(state[f"now/{name}"])
            self._average[name].copy_(state[f"average/{name}"])
            slots = {key: state.get(f"adam/{key}/{name}") for key in _ADAM}
            self._optimizer.state[parameter] = {
                # Adam counts its steps on the CPU.
                key: value.clone() if key == "step" else value.clone().to(parameter.device)
                for key, value in slots.items()
                if value is not None
            }
        if "scaler/scale" in state:
            held = {"scale": float(state["scaler/scale"]), "_growth_tracker": int(state["scaler/_growth_tracker"])}
            self._scaler.load_state_dict(self._scaler.state_dict() | held)
