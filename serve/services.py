"""What the application asks of the world: a store, an encoder of queries, and a detector where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from serve.search_store import SearchStore
from system.infrared.detections import Detections
from system.pairs.pixels import InfraredMapping


class OverloadedError(Exception):
    """A model has more waiting for it than it takes."""


class Encoder(Protocol):
    """Queries into the space of the store's embeddings. tower: the name by which its own tower was loaded."""

    async def check(self) -> None:
        """Whether it answers. Raises OverloadedError."""
        ...

    async def encode_text(self, text: str) -> NDArray[np.float32]:
        """float32 [E], norm 1. Raises OverloadedError."""
        ...

    async def encode_image(self, rgb_HWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """float32 [E], norm 1, of a picture of any size. Raises OverloadedError."""
        ...


@dataclass(frozen=True)
class DetectorFacts:
    """What a detector says of itself. size: (height, width) to which pictures are brought."""

    detector_id: str
    classes: tuple[str, ...]
    size: tuple[int, int]
    mapping: InfraredMapping


class DetectorService(Protocol):
    """The newest detector."""

    async def describe(self) -> DetectorFacts:
        """Raises OverloadedError, ModelError."""
        ...

    async def detect(self, pictures: Sequence[NDArray[np.uint8]]) -> list[tuple[DetectorFacts, Detections]]:
        """Of uint8 [H, W] each the detector that looked, and what it found in the picture's own pixels.

        Pictures of one call may be looked at by several detectors while one is exchanged for another.

        Raises:
            OverloadedError, ModelError.
        """
        ...


@dataclass(frozen=True)
class Services:
    """All of them. detector: None on a server without one."""

    store: SearchStore
    encoder: Encoder
    detector: DetectorService | None = None
