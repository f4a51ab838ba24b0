"""Any model of open_clip: `NAME/PRETRAINED`, where PRETRAINED is one of its tags or a path to safetensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from system.backbones.contrastive import ContrastiveTower, weights_fingerprint
from system.backbones.runtime import Runtime
from system.errors import ConfigError, ModelError


class OpenClipTower(ContrastiveTower):
    """`ImageTextTower` around `open_clip.create_model_and_transforms`."""

    def __init__(self, name: str, source: str, runtime: Runtime) -> None:
        import open_clip

        architecture, slash, pretrained = source.partition("/")
        if not slash or not pretrained:
            raise ConfigError(f"{name}: expected open_clip:NAME/PRETRAINED, e.g. open_clip:ViT-B-16/dfn2b")
        if architecture not in open_clip.list_models():
            raise ConfigError(f"{name}: open_clip knows no model {architecture!r}; see open_clip.list_models()")
        if Path(pretrained).suffix and Path(pretrained).suffix != ".safetensors":
            raise ModelError(f"{name}: expected a .safetensors file; pickled weights are not opened")
        try:
            model: Any = open_clip.create_model(architecture, pretrained=pretrained, weights_only=True)
        except (RuntimeError, OSError, ValueError) as error:
            raise ModelError(
                f"{name}: cannot be loaded: {str(error).splitlines()[0]}. Without a network, name a local file "
                "of safetensors"
            ) from error
        super().__init__(name, runtime, model.visual.image_mean, model.visual.image_std)
        self._model = model.eval().to(runtime.device)
        self._tokenizer = open_clip.get_tokenizer(architecture)
        size = model.visual.image_size
        self.input_size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        self._probe()
        self.tower_id = weights_fingerprint(model)

    def _image_features(self, pixels_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        answer = self._model.visual.forward_intermediates(
            pixels_NCHW, indices=1, output_fmt="NLC", intermediates_only=False
        )
        return answer["image_features"], answer["image_intermediates"][-1]

    def _text_features(self, texts: Sequence[str]) -> Tensor:
        return self._model.encode_text(self._tokenizer(list(texts)).to(self._runtime.device))
