"""What learns in a distillation: a vision transformer by adapters, or a convolutional network as a whole.

A network's stages 0 to 3 are matched with four blocks of a teacher, the first with the first: each is resampled to the
teacher's patches and brought to its width by a 1x1 convolution of its own, which is thrown away afterwards. All weights
learn but those of batch norms, which stay as they are, with their means and variances.
Source: FreqKD, arXiv 2606.11572 (ResNet-50, blocks 7, 15, 21, 23 of a ViT-L).

Legend: N pictures, C channels, H x W pixels, h x w patches of the teacher.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from system.backbones.cnn import STRIDES, cnn_facts, freeze_batch_norms, is_cnn, load_cnn, load_network, stage_features
from system.backbones.vit import (
    VitFacts,
    architecture_of,
    block_features,
    build_vit,
    load_vit,
    normalise,
    pad_to_patch,
    refuse_blocks,
    vit_facts,
)
from system.errors import ConfigError
from system.freqkd.adapters import adapted_layers, adapter_parameters, add_adapters, load_parameters, merge

# Of the learning rate: they begin from chance, the network from what it knows.
_PROJECTION_FACTOR = 10.0
_NETWORK, _PROJECTIONS = "network.", "projections."


class StudentConfig(Protocol):
    """What of a `DistillConfig` makes a student."""

    tower: str
    teacher: str | None
    blocks: tuple[int, ...]
    rank: int
    alpha: float
    dropout: float
    seed: int


class CnnStudent(nn.Module):
    """A convolutional network with its projections; always in evaluation mode."""

    def __init__(self, network: nn.Module, teacher: VitFacts, blocks: Sequence[int], seed: int) -> None:
        """teacher: whose width and patches are matched. seed: of the projections' start.

        Raises:
            ConfigError: another number of blocks than of stages.
        """
        super().__init__()
        refuse_stage_count(blocks)
        self.facts, self.teacher = cnn_facts(network), teacher
        self.network = freeze_batch_norms(network)
        where = next(network.parameters()).device
        self.projections = nn.ModuleList(nn.Conv2d(width, teacher.width, 1) for width in self.facts.widths)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for projection in self.projections:
                assert isinstance(projection, nn.Conv2d) and projection.bias is not None
                projection.weight.normal_(0, 1 / math.sqrt(projection.in_channels), generator=generator)
                projection.bias.zero_()
        self.projections.to(where)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode, whatever is asked."""
        return super().train(False)

    def forward(self, images_NHWC: Tensor) -> list[Tensor]:
        """uint8 pictures -> [N, C, h, w] for each stage, on the teacher's patches and of its width."""
        height, width = self.teacher.padded(*images_NHWC.shape[1:3])
        pixels = pad_to_patch(normalise(images_NHWC, self.facts), self.teacher.patch)
        maps = stage_features(self.network, pad_to_patch(pixels, max(STRIDES)))
        grid = (height // self.teacher.patch, width // self.teacher.patch)
        return [
            projection(resampled(features, stride, self.teacher.patch, grid))
            for projection, features, stride in zip(self.projections, maps, STRIDES, strict=True)
        ]

    def trained(self) -> dict[str, nn.Parameter]:
        """What learns, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}


Student = VisionTransformer | CnnStudent


def new_student(config: StudentConfig, network: nn.Module | None = None) -> Student:
    """At the start of a distillation: a vision transformer with adapters, or a network with projections.

    Args:
        network: of `load_network(config.tower)`, which becomes the student's own; loaded if not given.
    Raises:
        ConfigError: blocks, rank or teacher do not fit. ModelError: weights cannot be had.
    """
    network = load_network(config.tower) if network is None else network
    if is_cnn(config.tower):
        return CnnStudent(network, teacher_facts(config), config.blocks, config.seed)
    assert isinstance(network, VisionTransformer)
    refuse_blocks(network, config.blocks)
    return add_adapters(network, config.rank, config.alpha, config.dropout, config.seed, max(config.blocks))


def teacher_name(config: StudentConfig) -> str:
    """The name of the teacher: of a vision transformer, which is its own where no other is named.

    Raises:
        ConfigError: a network that has none, or one as a teacher.
    """
    name = config.teacher or config.tower
    if is_cnn(name):
        raise ConfigError(f"teacher {name}: expected a vision transformer; name it with --teacher")
    return name


def teacher_facts(config: StudentConfig) -> VitFacts:
    """Of the teacher, without its weights.

    Raises:
        ConfigError: as `teacher_name`, or a block that it lacks.
    """
    return facts_without_weights(teacher_name(config), config.blocks)


def facts_without_weights(name: str, blocks: Sequence[int]) -> VitFacts:
    """Of a vision transformer, before anything of it is loaded.

    Raises:
        ConfigError: no such name, or a block that it lacks.
    """
    if architecture_of(name) == name:
        load_vit(name)  # which says why there is no such name
    model = build_vit(architecture_of(name), device="meta")
    refuse_blocks(model, blocks)
    return vit_facts(model)


def refuse_stage_count(blocks: Sequence[int]) -> None:
    """Raises ConfigError: another number of blocks than a network has stages."""
    if len(blocks) != len(STRIDES):
        raise ConfigError(
            f"blocks {','.join(map(str, blocks))}: {len(blocks)} blocks of the teacher for the {len(STRIDES)} stages "
            "of a convolutional network, expected one for each"
        )


def student_features(student: Student, images_NHWC: Tensor, blocks: Sequence[int]) -> list[Tensor]:
    """Of uint8 pictures, [N, C, h, w] for each matched block."""
    if isinstance(student, CnnStudent):
        return student(images_NHWC)
    facts = vit_facts(student)
    return block_features(student, pad_to_patch(normalise(images_NHWC, facts), facts.patch), blocks)


def matched_grid(student: Student) -> VitFacts:
    """Whose patches features are matched on."""
    return student.teacher if isinstance(student, CnnStudent) else vit_facts(student)


def trained_parameters(student: Student) -> dict[str, nn.Parameter]:
    """What learns, by name."""
    return student.trained() if isinstance(student, CnnStudent) else adapter_parameters(student)


def is_projection(name: str) -> bool:
    """Whether a parameter of `trained_parameters` is one of a network's projections."""
    return name.startswith(_PROJECTIONS)


def rate_factor(name: str) -> float:
    """Of the learning rate, for a parameter of `trained_parameters`."""
    return _PROJECTION_FACTOR if is_projection(name) else 1.0


def trained_state(student: Student) -> dict[str, Tensor]:
    """What was learnt: copies on the CPU."""
    return {name: parameter.detach().cpu().clone() for name, parameter in trained_parameters(student).items()}


def load_trained_state(student: Student, state: Mapping[str, Tensor]) -> None:
    """The inverse of `trained_state`.

    Raises:
        ModelError: names or shapes are not those of the student.
    """
    load_parameters(trained_parameters(student), state)


def seed_dropout(student: Student, seeds: Sequence[int]) -> None:
    """A seed for each picture of the next pass; a network drops nothing."""
    if isinstance(student, CnnStudent):
        return
    device = next(student.parameters()).device
    generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
    for layer in adapted_layers(student).values():
        layer.dropout_generators = generators


def merged_weights(student: Student, config: StudentConfig, factor: float) -> dict[str, Tensor]:
    """Weights of a plain model of the tower's architecture, W + factor x what was learnt; copies on the CPU."""
    if not isinstance(student, CnnStudent):
        return merge(student, factor)
    learnt = {name: tensor.detach().cpu() for name, tensor in student.network.state_dict().items()}
    start = load_cnn(config.tower).state_dict() if factor != 1 else learnt
    trains = {name.removeprefix(_NETWORK) for name in trained_parameters(student)}
    return {
        name: torch.lerp(start[name], tensor, factor) if name in trains and factor != 1 else tensor.clone()
        for name, tensor in learnt.items()
    }


def merged_network(config: StudentConfig, state: Mapping[str, Tensor], factor: float) -> nn.Module:
    """The backbone that a distillation leaves, from its `trained_state`.

    Raises:
        ModelError: the state is of another student.
    """
    student = new_student(config)
    load_trained_state(student, state)
    merged = load_network(config.tower)
    merged.load_state_dict(merged_weights(student, config, factor))
    return merged


def resampled(features_NCHW: Tensor, stride: int, patch: int, grid: tuple[int, int]) -> Tensor:
    """A map whose places are `stride` pixels apart, on a grid of patches; both begin at the upper left corner.

    Bilinear, over the whole of a patch where that is the larger; both sides need not cover the same pixels.

    Returns:
        [N, C, *grid].
    """
    rows, columns = (
        _weights(count, size, patch / stride, features_NCHW)
        for count, size in zip(grid, features_NCHW.shape[2:], strict=True)
    )
    across: Tensor = F.linear(features_NCHW, columns)
    return F.linear(across.transpose(2, 3), rows).transpose(2, 3)


def _weights(count: int, size: int, ratio: float, like: Tensor) -> Tensor:
    """Of `size` places in each of `count` others, each `ratio` of them wide: [count, size], rows add up to 1."""
    given: Any = {"dtype": torch.float32, "device": like.device}
    middles = (torch.arange(count, **given) + 0.5) * ratio
    # Beyond the last place, the last place.
    middles = middles.clamp(0.5, size - 0.5)
    apart = (middles[:, None] - (torch.arange(size, **given) + 0.5)[None]).abs()
    weights = (1 - apart / max(1.0, ratio)).clamp_min(0)
    return (weights / weights.sum(1, keepdim=True)).to(like.dtype)
