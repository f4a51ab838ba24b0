"""What a tower is.

Legend: N pictures or texts, H, W pixels, P patches, C channels of a patch, E embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, eq=False)
class TowerOutput:
    """pooled_NE: float32, Euclidean norm 1, in the space of the texts. patches_NPC: float32, row by row of the grid."""

    pooled_NE: Tensor
    patches_NPC: Tensor


class ImageTextTower(Protocol):
    """A frozen model that puts pictures and texts into one space.

    Attributes:
        name: as `load_tower` was asked for it.
        tower_id: changes whenever weights or preprocessing change, so that embeddings of two towers are never mixed.
        input_size: (height, width) of the pictures that it takes.
        patch_grid: (rows, columns) of the patch tokens.
    """

    name: str
    tower_id: str
    embedding_dim: int
    patch_dim: int
    input_size: tuple[int, int]
    patch_grid: tuple[int, int]

    def text_prompt(self, words: str) -> str:
        """The text that the tower knows such words by, e.g. "a photo of ..."."""
        ...

    def encode_images(self, images_NHWC: Tensor) -> TowerOutput:
        """Encode uint8 pictures of `input_size`, in batches of its own choice."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """[N, E] float32, norm 1."""
        ...


class DenseTower(Protocol):
    """A frozen model that gives features of places in a picture; attributes as above."""

    name: str
    tower_id: str
    patch_dim: int
    input_size: tuple[int, int]
    patch_grid: tuple[int, int]
    num_blocks: int

    def encode_blocks(self, images_NHWC: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """Features after the blocks asked for, counted from 0: each [N, C, rows, columns] float32."""
        ...
