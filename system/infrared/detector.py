"""An infrared detector: a backbone, a head, and the folder that they are kept in.

    detector.json          configuration, the backbone's architecture, SHA-256 of the weights
    detector.safetensors   weights of both

Legend: N pictures, H x W pixels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from system.config import FrozenConfig
from system.errors import ConfigError, ModelError
from system.infrared.backbone import Backbone, CnnBackbone, backbone_of, empty_backbone
from system.infrared.detections import Detections
from system.infrared.detector_config import DetectorConfig
from system.infrared.faster_rcnn import FasterRcnnHead
from system.infrared.fcos import FcosHead
from system.infrared.targets import Found, Target
from system.pairs.resize import fit_picture

CONFIG_NAME, WEIGHTS_NAME = "detector.json", "detector.safetensors"
FORMAT = "nightminer.detector.v1"
_MAX_CONFIG_BYTES, _MAX_WEIGHTS_BYTES = 1 << 20, 8 << 30
Bytes = NDArray[np.uint8]


class Head(Protocol):
    """What turns feature maps into boxes; an nn.Module. loss_names: keys of `losses`."""

    loss_names: tuple[str, ...]

    def losses(self, features: Sequence[Tensor], size: tuple[int, int], targets: Sequence[Target]) -> dict[str, Tensor]:
        """Losses by name, to be added up. size: (height, width) of the pictures in pixels."""
        ...

    def detect(self, features: Sequence[Tensor], size: tuple[int, int]) -> list[Found]:
        """Boxes of each picture, in pixels of `size`."""
        ...


class SavedDetector(FrozenConfig):
    """The detector.json of a folder. backbone_architecture: of timm. mean, std: as of `BackboneFacts`."""

    format: str = Field(pattern=r"^nightminer\.detector\.v1$")
    config: DetectorConfig
    backbone_architecture: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights_sha256: str


class Detector(nn.Module):
    """Infrared pictures in, `Detections` out."""

    def __init__(self, config: DetectorConfig, backbone: Backbone) -> None:
        """
        Raises:
            ConfigError: a size that the backbone's stride does not divide.
        """
        super().__init__()
        self.config, self.backbone = config, backbone
        stride = max(backbone.facts.strides)
        if config.height % stride or config.width % stride:
            nearest = [max(2, round(side / stride)) * stride for side in (config.height, config.width)]
            raise ConfigError(
                f"pictures of {config.height}x{config.width}: expected multiples of {stride} pixels, e.g. "
                f"{nearest[0]}x{nearest[1]}"
            )
        self.head = _new_head(config, backbone)
        if config.is_frozen:
            backbone.requires_grad_(False)

    @classmethod
    def untrained(cls, config: DetectorConfig, network: nn.Module, seed: int = 0) -> Self:
        """On a backbone, which becomes the detector's own; its head starts alike for a seed.

        Raises:
            ConfigError: a block that the backbone lacks.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config, backbone_of(network, config.blocks)).eval()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the pictures that it takes."""
        return self.config.height, self.config.width

    def features(self, images_NHWC: Tensor) -> list[Tensor]:
        """What the head reads, of uint8 pictures [N, H, W, 3] of `size`; without gradient where it is frozen."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.is_frozen):
            return self.backbone(self.backbone.pixels(images_NHWC))

    def losses(self, features: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """Losses of the head by name; targets at `size`."""
        return self.head.losses(features, self.size, targets)

    @torch.no_grad()
    def detect(self, pictures: Sequence[Bytes]) -> list[Detections]:
        """Detections in the pixels of each picture, uint8 [H, W] or [H, W, 3] of any size, as one batch."""
        if not pictures:
            return []
        device = next(self.parameters()).device
        fitted = np.stack([as_three_channels(fit_picture(picture, self.size)) for picture in pictures])
        found = self.head.detect(self.features(torch.from_numpy(fitted).to(device)), self.size)
        return [
            row.detections(self.size).resized((picture.shape[0], picture.shape[1]))
            for row, picture in zip(found, pictures, strict=True)
        ]

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """What a training changes, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def save(self, folder: Path) -> None:
        """Write both files.

        Raises:
            ModelError: the folder cannot be written.
        """
        content = save({name: tensor.cpu().contiguous() for name, tensor in self.state_dict().items()})
        described = SavedDetector(
            format=FORMAT,
            config=self.config,
            backbone_architecture=self.backbone.facts.architecture,
            mean=self.backbone.facts.mean,
            std=self.backbone.facts.std,
            weights_sha256=hashlib.sha256(content).hexdigest(),
        )
        try:
            (folder / WEIGHTS_NAME).write_bytes(content)
            (folder / CONFIG_NAME).write_text(described.model_dump_json(indent=1) + "\n", "utf-8")
        except OSError as error:
            raise ModelError(f"{folder}: cannot be written: {error.strerror}") from error

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Raises ModelError: a file is missing, damaged or of another format."""
        root = Path(folder)
        described, content = read_detector(root)
        backbone = empty_backbone(
            described.backbone_architecture, described.config.blocks, described.mean, described.std
        )
        detector = cls(described.config, backbone)
        try:
            detector.load_state_dict(load(content))
        except (RuntimeError, SafetensorError) as error:
            raise ModelError(f"{root / WEIGHTS_NAME}: {' '.join(str(error).split())[:300]}") from error
        return detector.eval()


def read_detector_config(folder: Path) -> SavedDetector:
    """What a folder says of its detector.

    Raises:
        ModelError: there is none, or it is of another format.
    """
    file = folder / CONFIG_NAME
    try:
        return SavedDetector.parse(json.loads(_read(file, _MAX_CONFIG_BYTES)), str(file))
    except ValueError as error:
        raise ModelError(f"{file}: expected JSON: {error}") from error
    except ConfigError as error:
        raise ModelError(f"{error}; expected a detector saved as {FORMAT}") from error


def read_detector(folder: Path) -> tuple[SavedDetector, bytes]:
    """What a folder says of its detector, and its weights.

    Raises:
        ModelError: a file is missing, damaged or of another format.
    """
    described = read_detector_config(folder)
    content = _read(folder / WEIGHTS_NAME, _MAX_WEIGHTS_BYTES)
    actual = hashlib.sha256(content).hexdigest()
    if actual != described.weights_sha256:
        raise ModelError(
            f"{folder / WEIGHTS_NAME}: damaged or exchanged: expected SHA-256 {described.weights_sha256}, got {actual}"
        )
    return described, content


def detector_id(folder: str | Path) -> str:
    """16 hexadecimal digits of everything that its answers depend on.

    Raises:
        ModelError: as `read_detector_config`.
    """
    described = read_detector_config(Path(folder))
    return hashlib.sha256(described.model_dump_json().encode()).hexdigest()[:16]


def as_three_channels(picture: Bytes) -> Bytes:
    """uint8 [H, W] or [H, W, 3] -> [H, W, 3]."""
    return np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture


def count(parameters: Iterable[nn.Parameter]) -> int:
    """Numbers in them."""
    return sum(parameter.numel() for parameter in parameters)


def _new_head(config: DetectorConfig, backbone: Backbone) -> Any:
    facts, classes = backbone.facts, len(config.classes)
    if config.architecture == "fcos":
        return FcosHead(facts, config.channels, config.convs, classes)
    if config.architecture == "faster_rcnn":
        return FasterRcnnHead(facts, config.channels, classes)
    if isinstance(backbone, CnnBackbone):
        raise ConfigError(
            f"rf_detr on {facts.architecture}: expected a vision transformer, whose blocks have one size; take fcos or "
            "faster_rcnn on a convolutional network"
        )
    from system.infrared.rf_detr import RfDetrHead

    places = (config.height // facts.strides[0]) * (config.width // facts.strides[0])
    return RfDetrHead(facts.widths, places, config.channels, classes)


def _read(file: Path, max_bytes: int) -> bytes:
    try:
        size = file.stat().st_size
        if size > max_bytes:
            raise ModelError(f"{file}: {size} bytes, expected at most {max_bytes}")
        return file.read_bytes()
    except OSError as error:
        raise ModelError(f"{file}: cannot be read: {error.strerror}") from error
