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
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from timm.models.vision_transformer import VisionTransformer

from system.backbones.loading import DINOV2, TIMM
from system.backbones.vit import PACKAGED_ARCHITECTURE, build_vit, refuse_blocks, vit_facts
from system.errors import ConfigError
from system.freqkd.adapters import adapter_parameters, add_adapters
from system.freqkd.distiller import DistillConfig

# What one thread of a server's CPU reaches in these shapes (measured: ViT-S at 238x322, about 1 image a second).
CPU_TFLOPS = 0.03


@dataclass(frozen=True)
class Estimate:
    """For one worker where nothing else is said. operations: of one pair, floating point."""

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


def meta_student(config: DistillConfig) -> VisionTransformer:
    """The student with its adapters on the meta device, which holds shapes and no numbers.

    Raises:
        ConfigError: timm has no such architecture, or it lacks a block that is asked.
    """
    name = PACKAGED_ARCHITECTURE if config.tower == DINOV2 else config.tower.removeprefix(TIMM).partition("@")[0]
    model = build_vit(name, device="meta")
    refuse_blocks(model, config.blocks)
    return add_adapters(model, config.rank, config.alpha, config.dropout, config.seed, max(config.blocks))


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
    model = meta_student(config)
    facts = vit_facts(model)
    height, width = facts.padded(config.height, config.width)
    patches = height * width // facts.patch**2
    tokens = patches + model.num_prefix_tokens
    # timm types a block's parts as modules.
    first: Any = model.blocks[0]
    d, m = facts.width, first.mlp.fc1.out_features / facts.width
    depth, r = max(config.blocks) + 1, config.rank
    embedding = 3 * facts.patch**2 * d * patches
    dense = depth * tokens * ((4 + 2 * m) * d**2 + 2 * tokens * d) + embedding
    adapters = depth * tokens * (r * (4 * d + 2 * (1 + m) * d) if r else (3 + 2 * m) * d**2)
    student, teacher = 2 * (2 * dense - embedding + (3 if r else 1) * adapters), 2 * dense
    trained = sum(parameter.numel() for parameter in adapter_parameters(model).values())
    parameters = sum(parameter.numel() for parameter in model.parameters()) - trained
    half = config.precision != "fp32"
    share = -(-config.batch_size // workers)
    activations = (
        -(-share // config.accumulate)
        * depth
        * tokens
        * (((8 + 2 * m) * d + 3 * r) * (2.5 if half else 4) + ((2 + m) * d if config.dropout and r else 0))
    )
    rate = tflops * 1e12 * workers
    epoch_s, teacher_s = pairs * student / rate, pairs * teacher / rate
    # Both mirrorings of a picture are met in the first few epochs.
    views = min(config.epochs, 2) if config.flip else 1
    needed_bytes = 2.0 * pairs * views * len(config.blocks) * patches * d
    # An epoch in random order finds little in a cache that is too small.
    asked = views if needed_bytes <= cache_bytes else config.epochs
    if config.loss.register_pairs:
        asked += 2  # both pictures of a pair, once
    return Estimate(
        parameters=parameters,
        trained_parameters=trained,
        tokens=tokens,
        student_operations=student,
        teacher_operations=teacher,
        memory_bytes=(6 if half else 4) * parameters + 16 * trained + activations,
        activation_bytes=activations,
        seconds_per_epoch=epoch_s,
        first_epoch_seconds=epoch_s + teacher_s,
        seconds=config.epochs * epoch_s + asked * teacher_s,
        cache_bytes=needed_bytes,
    )
