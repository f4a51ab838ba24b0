"""Any CLIP, SigLIP or SigLIP2 of transformers, by hub name or from a folder; safetensors only, no code of strangers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from system.backbones.contrastive import ContrastiveTower, weights_fingerprint
from system.backbones.runtime import Runtime
from system.errors import ModelError


class TransformersTower(ContrastiveTower):
    """`ImageTextTower` around `transformers.AutoModel`."""

    def __init__(self, name: str, source: str, runtime: Runtime) -> None:
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        try:
            model: Any = AutoModel.from_pretrained(source, use_safetensors=True, trust_remote_code=False)
            tokenizer: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            processor: Any = AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise ModelError(
                f"{name}: cannot be loaded: {str(error).splitlines()[0]}. Without a network, name a folder that "
                "holds config.json, model.safetensors, the tokenizer and preprocessor_config.json"
            ) from error
        if not (hasattr(model, "get_text_features") and hasattr(model, "vision_model")):
            raise ModelError(f"{name}: {type(model).__name__} has no text and image tower; expected a CLIP or SigLIP")
        super().__init__(name, runtime, processor.image_mean, processor.image_std)
        self._model = model.eval().to(runtime.device)
        self._tokenizer = tokenizer
        side = model.config.vision_config.image_size
        self.input_size = (side, side)
        # SigLIP was trained on texts filled up to their full length; CLIP was not.
        self._is_siglip = "siglip" in model.config.model_type
        self._prefix_tokens = 0 if self._is_siglip else 1
        self._probe()
        self.tower_id = weights_fingerprint(model)

    def _image_features(self, pixels_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        vision = self._model.vision_model(pixel_values=pixels_NCHW)
        pooled = vision.pooler_output
        if not self._is_siglip:
            pooled = self._model.visual_projection(pooled)
        return pooled, vision.last_hidden_state[:, self._prefix_tokens :]

    def _text_features(self, texts: Sequence[str]) -> Tensor:
        length = self._model.config.text_config.max_position_embeddings
        padding = "max_length" if self._is_siglip else True
        words = self._tokenizer(
            list(texts), padding=padding, truncation=True, max_length=length, return_tensors="pt"
        ).to(self._runtime.device)
        features = self._model.get_text_features(**words)
        return getattr(features, "pooler_output", features)
