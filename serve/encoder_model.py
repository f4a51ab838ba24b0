"""The tower that puts queries into the space of a store's embeddings. Knows no Ray.

Legend: N queries, E embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from system.backbones.loading import load_tower
from system.backbones.preprocess import resize_for_tower
from system.backbones.runtime import choose_runtime


class EncoderModel:
    """A loaded tower. Methods block."""

    def __init__(self, tower: str, threads: int = 1) -> None:
        """
        Args:
            tower: of `load_tower`; threads: of torch, on a CPU.
        Raises:
            ConfigError, ModelError: as `load_tower`.
        """
        torch.set_num_threads(threads)
        self._tower = load_tower(tower, choose_runtime(num_cpus=threads, use_gpu=torch.cuda.is_available()))

    def texts(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """N vectors, float32 [E], norm 1."""
        return list(self._tower.encode_texts(list(texts)).float().cpu().numpy())

    def images(self, pictures: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """N vectors of pictures [H, W, 3] of any size."""
        fitted = np.stack([resize_for_tower(picture, self._tower.input_size) for picture in pictures])
        return list(self._tower.encode_images(torch.from_numpy(fitted)).pooled_NE.float().cpu().numpy())
