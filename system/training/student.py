"""Backbones by name, the students of a distillation among them, merged at any factor."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from system.backbones.cnn import load_network
from system.errors import ConfigError, ModelError
from system.freqkd.student import merged_network
from system.pairs.pixels import InfraredMapping
from system.training.distill_publish import ADAPTERS_NAME, DISTILL_NAME, DistillRecord
from system.training.probe import named_backbone


def load_backbone(name: str, factor: float | None = None) -> nn.Module:
    """A backbone of `load_network`, or of a folder that jobs/distill_freqkd.py wrote.

    Args:
        factor: of the distilled update in W + factor x update; None for that of the folder's merged weights.
    Raises:
        ConfigError: no such name, or a factor for a backbone without adapters. ModelError: the folder is not whole.
    """
    folder = Path(name)
    if factor is None or not folder.is_dir():
        if factor is not None:
            raise ConfigError(f"--merge {factor:g} goes with the folder of a distillation, found {name}")
        return load_network(named_backbone(name).name)
    config = read_distillation(folder).config
    try:
        state = load_file(folder / ADAPTERS_NAME)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{folder / ADAPTERS_NAME}: cannot be loaded: {error}") from error
    return merged_network(config, state, factor)


def mapping_of(name: str) -> InfraredMapping:
    """Of the infrared values that a backbone learnt with."""
    return named_backbone(name).mapping


def read_distillation(folder: Path) -> DistillRecord:
    """Raises ModelError: it is no folder of a distillation."""
    try:
        return DistillRecord.parse(json.loads((folder / DISTILL_NAME).read_text("utf-8")), str(folder))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: expected {DISTILL_NAME} of jobs/distill_freqkd.py: {error}") from error
