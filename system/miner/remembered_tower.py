"""What a model needs of its tower once the pictures are encoded: a few facts and the embeddings of its tags' phrases.

A tower takes seconds to load. Workers that train or ask heads on cached features are given this instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from system.errors import ModelError
from system.miner.tags import phrases_of

if TYPE_CHECKING:
    from system.miner.model import Tower
    from system.miner.taxonomy import Taxonomy


@dataclass(frozen=True, eq=False)
class RememberedTower:
    """texts: phrase -> embedding [E], in the bits that the tower gave when it was asked for the whole taxonomy."""

    name: str
    tower_id: str
    embedding_dim: int
    patch_dim: int
    input_size: tuple[int, int]
    patch_grid: tuple[int, int]
    texts: Mapping[str, Tensor]

    @classmethod
    def of(cls, tower: Tower, taxonomy: Taxonomy) -> RememberedTower:
        """Ask a tower for all that a model with this taxonomy will ask for."""
        phrases = phrases_of(taxonomy)
        embedded = tower.encode_texts([tower.text_prompt(words) for words in phrases]).cpu()
        texts = dict(zip(phrases, embedded, strict=True))
        return cls(
            name=tower.name,
            tower_id=tower.tower_id,
            embedding_dim=tower.embedding_dim,
            patch_dim=tower.patch_dim,
            input_size=tower.input_size,
            patch_grid=tower.patch_grid,
            texts=texts,
        )

    def to(self, device: torch.device) -> RememberedTower:
        """The same with its embeddings on a device."""
        return replace(self, texts={words: embedding.to(device) for words, embedding in self.texts.items()})

    def text_prompt(self, words: str) -> str:
        """The phrase itself, by which it is remembered."""
        return words

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """[N, E]. Raises ModelError: a phrase was not asked for when the tower was at hand."""
        if unknown := [words for words in texts if words not in self.texts]:
            raise ModelError(f"tower {self.name}: {unknown[0]!r} is no phrase of the taxonomy that it was asked for")
        return torch.stack([self.texts[words] for words in texts])

    def encode_images(self, images_NHWC: Tensor) -> Any:
        """Raises ModelError: pictures are encoded already."""
        raise ModelError(f"tower {self.name}: not loaded here, so it encodes no pictures")
