"""What a distillation will take, from its shapes alone: nothing is loaded or computed.

Of one picture, with P tokens of width d, an MLP of m d, L blocks up to the last that is matched, rank r:

    dense multiply-adds     F = L P (4 d^2 + 2 m d^2 + 2 P d) + E, where E = 3 p^2 d P embeds patches of p x p pixels
    adapter multiply-adds   A = L P r ((d + 3 d) + 2 (d + m d))
    student                 2 (2 F - E + 3 A) operations: forward, and backward to inputs; only adapters get gradients
    teacher                 2 F operations, once for each picture where all features fit the cache, else in every epoch;
                            twice more for each pair that is registered

    seconds of an epoch = pairs * operations / (operations a second that a worker reaches * workers)

    bytes of a worker   = 4 weights (+ 2 for copies in half precision) + 16 adapters (weight, gradient, two moments)
                        + pictures of a pass * L P ((8 + 2 m) d + 3 r) e + L P (2 + m) d   (kept for backward; masks)
                        with e = 4 bytes in fp32 and about 2.5 in half precision, where norms keep their input whole

A convolutional network has no such formulas: its operations and what backward keeps are counted by torch on one picture
without numbers, and all of its weights are trained: 3 F operations, 16 bytes each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from system.backbones.cnn import PACKAGED_CNN, build_cnn, is_cnn
from system.backbones.loading import EFFICIENTNET
from system.backbones.vit import architecture_of, build_vit, refuse_blocks, vit_facts
from system.errors import ConfigError
from system.freqkd.adapters import adapter_parameters, add_adapters
from system.freqkd.distiller import DistillConfig
from system.freqkd.student import CnnStudent, new_student, teacher_name

# What one thread of a server's CPU reaches in these shapes (measured: ViT-S at 238x322, about 1 image a second).
CPU_TFLOPS = 0.03


@dataclass(frozen=True)
class Estimate:
    """For one worker where nothing else is said. parameters: of the student's network, without what is added to it;
    trained_parameters: with that. operations: of one pair, floating point."""

    parameters: int
    trained_parameters: int
    tokens: int
    student_operations: float
    teacher_operations: float
    memory_bytes: float
    activation_bytes: float
    seconds_per_epoch: float
    first_epoch_seconds: float
    seconds: float
    cache_bytes: float


@dataclass(frozen=True)
class _Cost:
    """Of one picture. parameters: of the network; activation_bytes: kept for backward."""

    parameters: int
    frozen_parameters: int
    trained_parameters: int
    student_operations: float
    activation_bytes: float


def meta_student(config: DistillConfig) -> VisionTransformer:
    """A vision transformer with its adapters on the meta device, which holds shapes and no numbers.

    Raises:
        ConfigError: timm has no such architecture, or it lacks a block that is asked.
    """
    model = _meta_vit(config.tower, config.blocks)
    return add_adapters(model, config.rank, config.alpha, config.dropout, config.seed, max(config.blocks))


def _meta_vit(name: str, blocks: Sequence[int]) -> VisionTransformer:
    model = build_vit(architecture_of(name), device="meta")
    refuse_blocks(model, blocks)
    return model


def estimate(
    config: DistillConfig, pairs: int, tflops: float, workers: int = 1, cache_bytes: float = math.inf
) -> Estimate:
    """Memory and time of a training.

    Args:
        tflops: 10^12 floating point operations a second that one worker really reaches; a third to a half of what the
            maker of a GPU states. cache_bytes: room for the teacher's features; where they do not fit, the teacher is
            asked in every epoch.
    Raises:
        ConfigError: as `meta_student`, or a throughput of nothing.
    """
    if tflops <= 0 or pairs <= 0:
        raise ConfigError(f"--tflops {tflops}, {pairs} pairs: expected more than 0")
    model = _meta_vit(teacher_name(config), config.blocks)
    facts = vit_facts(model)
    height, width = facts.padded(config.height, config.width)
    patches = height * width // facts.patch**2
    tokens = patches + model.num_prefix_tokens
    # timm types a block's parts as modules.
    first: Any = model.blocks[0]
    if not hasattr(first.mlp, "fc1"):
        raise ConfigError(f"{teacher_name(config)}: adapters need attn.qkv, mlp.fc1, mlp.fc2; its blocks have others")
    d, m = facts.width, first.mlp.fc1.out_features / facts.width
    depth = max(config.blocks) + 1
    embedding = 3 * facts.patch**2 * d * patches
    teacher = 2 * (depth * tokens * ((4 + 2 * m) * d**2 + 2 * tokens * d) + embedding)
    if is_cnn(config.tower):
        cost = _network_cost(config)
    else:
        cost = _transformer_cost(config, teacher, tokens, d, m, 2 * embedding)
    half = config.precision != "fp32"
    share = -(-config.batch_size // workers)
    activations = -(-share // config.accumulate) * cost.activation_bytes
    rate = tflops * 1e12 * workers
    epoch_s, teacher_s = pairs * cost.student_operations / rate, pairs * teacher / rate
    # Both mirrorings of a picture are met in the first few epochs.
    views = min(config.epochs, 2) if config.flip else 1
    needed_bytes = 2.0 * pairs * views * len(config.blocks) * patches * d
    # An epoch in random order finds little in a cache that is too small.
    asked = views if needed_bytes <= cache_bytes else config.epochs
    if config.loss.register_pairs:
        asked += 2  # both pictures of a pair, once
    # A network shares no weights with its teacher.
    weights = cost.frozen_parameters + (sum(p.numel() for p in model.parameters()) if is_cnn(config.tower) else 0)
    return Estimate(
        parameters=cost.parameters,
        trained_parameters=cost.trained_parameters,
        tokens=tokens,
        student_operations=cost.student_operations,
        teacher_operations=teacher,
        memory_bytes=(6 if half else 4) * weights + 16 * cost.trained_parameters + activations,
        activation_bytes=activations,
        seconds_per_epoch=epoch_s,
        first_epoch_seconds=epoch_s + teacher_s,
        seconds=config.epochs * epoch_s + asked * teacher_s,
        cache_bytes=needed_bytes,
    )


def _transformer_cost(config: DistillConfig, teacher: float, tokens: int, d: int, m: float, embedding: float) -> _Cost:
    """teacher, embedding: operations. tokens, d, m: as above."""
    model = meta_student(config)
    depth, r = max(config.blocks) + 1, config.rank
    adapters = depth * tokens * (r * (4 * d + 2 * (1 + m) * d) if r else (3 + 2 * m) * d**2)
    trained = sum(parameter.numel() for parameter in adapter_parameters(model).values())
    base = sum(parameter.numel() for parameter in model.parameters()) - (trained if r else 0)
    half = config.precision != "fp32"
    kept = ((8 + 2 * m) * d + 3 * r) * (2.5 if half else 4) + ((2 + m) * d if config.dropout and r else 0)
    return _Cost(
        parameters=base,
        frozen_parameters=base - (0 if r else trained),
        trained_parameters=trained,
        student_operations=2 * teacher - embedding + (6 if r else 2) * adapters,
        activation_bytes=depth * tokens * kept,
    )


def _network_cost(config: DistillConfig) -> _Cost:
    student = new_student(config, build_cnn(_cnn_architecture(config.tower), device="meta"))
    assert isinstance(student, CnnStudent)
    weights = {parameter.untyped_storage()._cdata for parameter in student.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
        held.append(tensor)
        return tensor

    held: list[Tensor] = []
    picture = torch.zeros(1, config.height, config.width, 3, dtype=torch.uint8, device="meta")
    with FlopCounterMode(display=False) as counted, torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        answers = student(picture)
    del answers
    trained = sum(parameter.numel() for parameter in student.trained().values())
    return _Cost(
        parameters=sum(parameter.numel() for parameter in student.network.parameters()),
        frozen_parameters=sum(parameter.numel() for parameter in student.parameters()) - trained,
        trained_parameters=trained,
        student_operations=3.0 * counted.get_total_flops(),
        activation_bytes=sum(kept.values()) * (0.6 if config.precision != "fp32" else 1.0),
    )


def _cnn_architecture(name: str) -> str:
    return PACKAGED_CNN if name == EFFICIENTNET else architecture_of(name)
