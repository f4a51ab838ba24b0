"""What a training begins with in place of chance: a model that was trained before, or the head of a published RF-DETR.

FOLDER               a detector or segmenter of ours: its backbone, its head and its configuration
transformers:NAME    the projector and decoder of an RF-DETR, from the hub or a folder; its ViT is left out
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from system.errors import ConfigError, ModelError
from system.infrared.detector import InfraredModel, read_model_config

TRANSFORMERS = "transformers:"
_HEAD, _DETR, _THEIR_VIT = "head.", "detr.", "model.backbone.backbone."
# A head of which less than this can be taken is another architecture.
_LEAST_SHARE = 0.5


@dataclass(frozen=True)
class Start:
    """values: of the model's configuration, that the new one shares. classes: that it knows.

    head: its tensors by name. network: its backbone; None where the new model has one of its own.
    """

    name: str
    values: Mapping[str, Any]
    classes: tuple[str, ...]
    head: Mapping[str, Tensor]
    network: nn.Module | None


def is_folder(name: str) -> bool:
    """Whether it is a model of ours, which brings its backbone."""
    return not name.startswith(TRANSFORMERS)


def read_start(name: str, kind: type[InfraredModel]) -> Start:
    """
    Raises:
        ModelError: there is no such model, or it is of another kind.
    """
    if not is_folder(name):
        if kind.noun != "detector":
            raise ModelError(f"--start {name}: is of a detector; expected the folder of a trained {kind.noun}")
        return _read_rf_detr(name)
    folder = Path(name)
    config = read_model_config(folder, kind).config
    model = kind.load(folder)
    head = {key.removeprefix(_HEAD): value for key, value in model.state_dict().items() if key.startswith(_HEAD)}
    values = config.model_dump(exclude={"classes", "is_frozen", "class_weights", "masks"})
    return Start(name, values, config.classes, head, model.backbone.network)


def begin(kind: type[InfraredModel], config: Any, start: Start, network: nn.Module, seed: int) -> InfraredModel:
    """A new model with all of the start's head that fits; layers of other classes start anew, alike for a seed.

    Args:
        network: the new model's backbone, which becomes its own.
    Raises:
        ConfigError: a head of another architecture or width.
    """
    model = kind.untrained(config, network, seed)
    own: dict[str, Tensor] = model.head.state_dict()
    taken = {key: start.head[key] for key, value in own.items() if _fits(start.head.get(key), value)}
    if start.classes != config.classes:
        taken = {key: value for key, value in taken.items() if key not in _of_classes(kind, config, model)}
    share = sum(own[key].numel() for key in taken) / sum(value.numel() for value in own.values())
    if share < _LEAST_SHARE:
        odd = next(key for key in own if key not in taken)
        found = tuple(start.head[odd].shape) if odd in start.head else "no such layer"
        raise ConfigError(
            f"--start {start.name}: {share:.0%} of its head fits {config.architecture} with --channels "
            f"{config.channels}; e.g. {odd}: expected {tuple(own[odd].shape)}, found {found}"
        )
    model.head.load_state_dict(own | taken)
    return model


def _fits(theirs: Tensor | None, ours: Tensor) -> bool:
    return theirs is not None and theirs.shape == ours.shape


def _of_classes(kind: type[InfraredModel], config: Any, model: InfraredModel) -> set[str]:
    """Names of the head's tensors whose shape depends on the number of classes."""
    more = config.model_copy(update={"classes": (*config.classes, "one more")})
    with torch.device("meta"):
        other = kind.new_head(more, model.backbone).state_dict()
    return {key for key, value in model.head.state_dict().items() if other[key].shape != value.shape}


def _read_rf_detr(name: str) -> Start:
    """Its weights come as safetensors or not at all."""
    from transformers import RfDetrForObjectDetection

    source = name.removeprefix(TRANSFORMERS)
    try:
        detr: Any = RfDetrForObjectDetection.from_pretrained(source, use_safetensors=True)
    except (OSError, ValueError, RuntimeError) as error:
        told = " ".join(str(error).split())[:300]
        raise ModelError(f"--start {name}: no RF-DETR of transformers can be loaded: {told}") from error
    head = {_DETR + key: value for key, value in detr.state_dict().items() if not key.startswith(_THEIR_VIT)}
    # transformers counts the stem as 0.
    blocks = tuple(stage - 1 for stage in detr.config.backbone_config.out_indices if stage)
    values = {"architecture": "rf_detr", "channels": detr.config.d_model, "blocks": blocks}
    classes = tuple(label.lower() for _, label in sorted(detr.config.id2label.items()))
    return Start(name, values, classes, head, None)
