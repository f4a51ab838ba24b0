"""Models of infrared pictures: a backbone, a head, and the folder that they are kept in. The detector is one of them.

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

from system.backbones.cnn import STRIDES
from system.config import FrozenConfig
from system.errors import ConfigError, ModelError
from system.infrared.backbone import Backbone, CnnBackbone, backbone_of, empty_backbone
from system.infrared.detections import Detections
from system.infrared.detector_config import DetectorConfig, InfraredModelConfig
from system.infrared.faster_rcnn import FasterRcnnHead
from system.infrared.fcos import FcosHead
from system.infrared.targets import Found
from system.pairs.resize import fit_picture

CONFIG_NAME, WEIGHTS_NAME = "detector.json", "detector.safetensors"
FORMAT = "nightminer.detector.v1"
_MAX_CONFIG_BYTES, _MAX_WEIGHTS_BYTES = 1 << 20, 8 << 30
Bytes = NDArray[np.uint8]


class TrainedHead(Protocol):
    """What a trainer asks of a head, an nn.Module. loss_names: keys of `losses`."""

    loss_names: tuple[str, ...]

    def losses(self, features: Sequence[Tensor], size: tuple[int, int], targets: Sequence[Any]) -> dict[str, Tensor]:
        """Losses by name, to be added up. size: (height, width) of the pictures in pixels."""
        ...


class Head(TrainedHead, Protocol):
    """What turns feature maps into boxes."""

    def detect(self, features: Sequence[Tensor], size: tuple[int, int]) -> list[Found]:
        """Boxes of each picture, in pixels of `size`."""
        ...


class SavedModel(FrozenConfig):
    """What a folder says of its model. backbone_architecture: of timm. mean, std: as of `BackboneFacts`."""

    format: str
    config: InfraredModelConfig
    backbone_architecture: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights_sha256: str


class SavedDetector(SavedModel):
    """The detector.json of a folder."""

    format: str = Field(pattern=r"^nightminer\.detector\.v1$")
    config: DetectorConfig


class InfraredModel(nn.Module):
    """A backbone and a head that can be trained, kept and found again.

    noun: what it is called. format, saved: what the JSON file of its folder is. config_name, weights_name: its files.
    """

    noun: str
    format: str
    saved: type[SavedModel]
    config_name: str
    weights_name: str

    def __init__(self, config: Any, backbone: Backbone) -> None:
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
        self.head: Any = self.new_head(config, backbone)
        if config.is_frozen:
            backbone.requires_grad_(False)

    @staticmethod
    def new_head(config: Any, backbone: Backbone) -> Any:
        """The head that its configuration asks for, a `TrainedHead`."""
        raise NotImplementedError

    @classmethod
    def untrained(cls, config: Any, network: nn.Module, seed: int = 0) -> Self:
        """On a backbone, which becomes the model's own; its head starts alike for a seed.

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

    def losses(self, features: Sequence[Tensor], targets: Sequence[Any]) -> dict[str, Tensor]:
        """Losses of the head by name; targets at `size`."""
        return self.head.losses(features, self.size, targets)

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """What a training changes, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def save(self, folder: Path) -> None:
        """Write both files.

        Raises:
            ModelError: the folder cannot be written.
        """
        content = save({name: tensor.cpu().contiguous() for name, tensor in self.state_dict().items()})
        described = self.saved(
            format=self.format,
            config=self.config,
            backbone_architecture=self.backbone.facts.architecture,
            mean=self.backbone.facts.mean,
            std=self.backbone.facts.std,
            weights_sha256=hashlib.sha256(content).hexdigest(),
        )
        try:
            (folder / self.weights_name).write_bytes(content)
            (folder / self.config_name).write_text(described.model_dump_json(indent=1) + "\n", "utf-8")
        except OSError as error:
            raise ModelError(f"{folder}: cannot be written: {error.strerror}") from error

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Raises ModelError: a file is missing, damaged or of another format."""
        root = Path(folder)
        described, content = read_model(root, cls)
        backbone = empty_backbone(
            described.backbone_architecture, described.config.blocks, described.mean, described.std
        )
        model = cls(described.config, backbone)
        try:
            model.load_state_dict(load(content))
        except (RuntimeError, SafetensorError) as error:
            raise ModelError(f"{root / cls.weights_name}: {' '.join(str(error).split())[:300]}") from error
        return model.eval()


class Detector(InfraredModel):
    """Infrared pictures in, `Detections` out."""

    noun, format, saved = "detector", FORMAT, SavedDetector
    config_name, weights_name = CONFIG_NAME, WEIGHTS_NAME

    @staticmethod
    def new_head(config: DetectorConfig, backbone: Backbone) -> Any:
        """The head that its configuration asks for."""
        return _new_head(config, backbone)

    @torch.no_grad()
    def detect(self, pictures: Sequence[Bytes]) -> list[Detections]:
        """Detections in the pixels of each picture, uint8 [H, W] or [H, W, 3] of any size, as one batch."""
        if not pictures:
            return []
        found = self.head.detect(self.features(fitted(self, pictures)), self.size)
        return [
            row.detections(self.size).resized((picture.shape[0], picture.shape[1]))
            for row, picture in zip(found, pictures, strict=True)
        ]


def fitted(model: InfraredModel, pictures: Sequence[Bytes]) -> Tensor:
    """Pictures of any size as a model takes them, uint8 [N, H, W, 3] on its device."""
    stacked = np.stack([as_three_channels(fit_picture(picture, model.size)) for picture in pictures])
    return torch.from_numpy(stacked).to(next(model.parameters()).device)


def read_model_config(folder: Path, kind: type[InfraredModel]) -> SavedModel:
    """What a folder says of its model.

    Raises:
        ModelError: there is none, or it is of another format.
    """
    file = folder / kind.config_name
    try:
        return kind.saved.parse(json.loads(_read(file, _MAX_CONFIG_BYTES)), str(file))
    except ValueError as error:
        raise ModelError(f"{file}: expected JSON: {error}") from error
    except ConfigError as error:
        raise ModelError(f"{error}; expected a {kind.noun} saved as {kind.format}") from error


def read_model(folder: Path, kind: type[InfraredModel]) -> tuple[SavedModel, bytes]:
    """What a folder says of its model, and its weights.

    Raises:
        ModelError: a file is missing, damaged or of another format.
    """
    described = read_model_config(folder, kind)
    file = folder / kind.weights_name
    content = _read(file, _MAX_WEIGHTS_BYTES)
    actual = hashlib.sha256(content).hexdigest()
    if actual != described.weights_sha256:
        raise ModelError(f"{file}: damaged or exchanged: expected SHA-256 {described.weights_sha256}, got {actual}")
    return described, content


def read_detector_config(folder: Path) -> SavedDetector:
    """As `read_model_config`, of a detector."""
    found = read_model_config(folder, Detector)
    assert isinstance(found, SavedDetector)
    return found


def read_detector(folder: Path) -> tuple[SavedDetector, bytes]:
    """As `read_model`, of a detector."""
    found, content = read_model(folder, Detector)
    assert isinstance(found, SavedDetector)
    return found, content


def model_id(folder: str | Path, kind: type[InfraredModel]) -> str:
    """16 hexadecimal digits of everything that a model's answers depend on.

    Raises:
        ModelError: as `read_model_config`.
    """
    described = read_model_config(Path(folder), kind)
    return hashlib.sha256(described.model_dump_json().encode()).hexdigest()[:16]


def detector_id(folder: str | Path) -> str:
    """As `model_id`, of a detector."""
    return model_id(folder, Detector)


def as_three_channels(picture: Bytes) -> Bytes:
    """uint8 [H, W] or [H, W, 3] -> [H, W, 3]."""
    return np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture


def count(parameters: Iterable[nn.Parameter]) -> int:
    """Numbers in them."""
    return sum(parameter.numel() for parameter in parameters)


def _new_head(config: DetectorConfig, backbone: Backbone) -> Any:
    facts, classes = backbone.facts, len(config.classes)
    if isinstance(backbone, CnnBackbone) and config.architecture != "rf_detr":
        _refuse_gaps(backbone.stages)
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


def _refuse_gaps(stages: Sequence[int]) -> None:
    """Heads share sizes of objects among levels whose strides double; of others, no level would learn some sizes."""
    first = stages[0]
    if list(stages) != list(range(first, first + len(stages))):
        example = ",".join(map(str, range(len(STRIDES) - len(stages), len(STRIDES))))
        raise ConfigError(f"stages {','.join(map(str, stages))}: expected neighbours, e.g. {example}")


def _read(file: Path, max_bytes: int) -> bytes:
    try:
        size = file.stat().st_size
        if size > max_bytes:
            raise ModelError(f"{file}: {size} bytes, expected at most {max_bytes}")
        return file.read_bytes()
    except OSError as error:
        raise ModelError(f"{file}: cannot be read: {error.strerror}") from error
