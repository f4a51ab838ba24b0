"""A detector's or segmenter's backbone as timm loads it, where it learnt with it or was merged for it alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save_file

from system.backbones.vit import normalisation_metadata
from system.infrared.backbone import Backbone, VitBackbone

BACKBONE_WEIGHTS_NAME = "backbone.safetensors"


def write_backbone(folder: Path, backbone: Backbone) -> None:
    """All weights of the network, a vision transformer's up to the last block that is read.

    Raises:
        OSError: the folder cannot be written.
    """
    weights = {name: tensor.cpu().contiguous() for name, tensor in backbone.network.state_dict().items()}
    metadata = {"architecture": backbone.facts.architecture} | normalisation_metadata(backbone.facts)
    save_file(weights, folder / BACKBONE_WEIGHTS_NAME, metadata=metadata)


def loading_lines(backbone: Backbone) -> list[str]:
    """Of a model card: how timm loads it."""
    if not isinstance(backbone, VitBackbone):
        # timm types what it adds to a module as modules.
        indices: Sequence[int] = backbone.network.feature_info.out_indices  # type: ignore[union-attr,assignment]
        return network_loading(backbone.facts.architecture, indices, BACKBONE_WEIGHTS_NAME)
    depth = len(backbone.vit.blocks)
    return [
        "```python",
        "import timm",
        "from safetensors.torch import load_file",
        "",
        f'model = timm.create_model("{backbone.facts.architecture}", num_classes=0, depth={depth}, final_norm=False)',
        f'model.load_state_dict(load_file("{BACKBONE_WEIGHTS_NAME}"))',
        "```",
    ]


def network_loading(architecture: str, indices: Sequence[int], file: str) -> list[str]:
    """Of a model card: how timm loads a convolutional network's stages."""
    return [
        "```python",
        "import timm",
        "",
        "model = timm.create_model(",
        f'    "{architecture}", features_only=True, out_indices={tuple(indices)},',
        f'    checkpoint_path="{file}",',
        ").eval()",
        "```",
    ]
